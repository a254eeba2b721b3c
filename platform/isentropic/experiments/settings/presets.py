"""Method presets compose; two that set one slot differently are refused (Hydra takes the last)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from isentropic.checks import check_choice
from isentropic.config import flat, is_under
from isentropic.experiments.settings.conf import CONF, choices, preset_path, roots
from isentropic.experiments.settings.options import METHOD

# Values that a method's preset brings and its slots read: ${papo.alpha}.
PRESET_SECTIONS = ("papo", "oger", "uec")


def check_presets(settings: DictConfig) -> None:
    """Refuse two choices that set one key differently, if the command line does not settle it.

    The two may be two methods, or a method and the experiment.

    Args:
        settings: `HydraConfig.get()`. The experiment settles a conflict of its own methods: it wins
            anyway.
    """
    experiment = settings.runtime.choices.get("experiment")
    wins = _experiment_values(settings)
    given = _given(settings)
    methods = _methods(given, wins)
    keys = {override.key_or_group for override in given}
    _check_known([override.key_or_group for override in given], _folders(settings))
    presets = {name: preset_values(_preset(settings, "method", name)) for name in methods}
    for name in set(methods) - set(as_names(wins.get("method"))):
        _beside_experiment(name, presets[name], str(experiment), wins, keys)
    _values_of_another_choice(f"experiment={experiment}", wins, settings, keys)
    for name, values in presets.items():
        _values_of_another_choice(f"method={name}", values, settings, keys | set(wins))
    conflicts(presets, set(wins) | keys)


def name_presets(cfg: DictConfig, settings: DictConfig) -> None:
    """Fill in `run.preset`: the methods that were chosen, and an objective chosen beside them.

    `method=[papo,uec_rl] objective=cispo` is "papo + uec_rl + cispo". Without a method it is the
    objective's preset, whoever chose it.

    Args:
        cfg: the composed config, changed in place; a value that was given stays.
        settings: `HydraConfig.get()`.
    """
    if OmegaConf.select(cfg, "run.preset", default="") is not None:
        return
    given = _given(settings)
    names = _methods(given, _experiment_values(settings))
    if not names or "objective" in {override.key_or_group for override in given}:
        own = OmegaConf.select(cfg, "objective.function_name")
        names = [*names, own or settings.runtime.choices.objective]
    cfg.run.preset = " + ".join(dict.fromkeys(names))


def _folders(settings: DictConfig) -> list[Path]:
    """Return conf/, then the user's own folders."""
    sources = settings.runtime.config_sources
    return [Path(source.path) for source in sources if source.schema == "file"]


def _preset(settings: DictConfig, group: str, name: str) -> Path:
    paths = [folder / group / f"{name}.yaml" for folder in _folders(settings)]
    return next((path for path in paths if path.is_file()), paths[0])


def _experiment_values(settings: DictConfig) -> dict[str, Any]:
    experiment = settings.runtime.choices.get("experiment")
    return preset_values(_preset(settings, "experiment", experiment)) if experiment else {}


def _given(settings: DictConfig) -> list[Override]:
    """Return the overrides of the command line."""
    # As they were typed: an element of the list would come with its interpolations resolved.
    typed = OmegaConf.to_container(settings.overrides.task, resolve=False)
    return OverridesParser.create().parse_overrides(typed)


def _methods(given: Sequence[Override], wins: dict[str, Any]) -> list[str]:
    """Return the method presets: those of the command line, else those of the experiment."""
    chosen = [override.value() for override in given if override.key_or_group == "method"]
    return as_names(chosen[-1] if chosen else wins.get("method"))


def _check_known(keys: list[str], folders: Sequence[Path]) -> None:
    """Refuse a key that is forced into a preset's section (+papo.foo=1) if no preset has it."""
    for key in keys:
        if key.partition(".")[0] in PRESET_SECTIONS:
            paths = [path for folder in folders for path in folder.glob("method/*.yaml")]
            known = {name for path in paths for name in preset_values(path)}
            check_choice(
                "config key", key, sorted(name for name in known if is_under(name, PRESET_SECTIONS))
            )


def _beside_experiment(
    method: str, values: dict[str, Any], experiment: str, wins: dict[str, Any], given: set[str]
) -> None:
    """Refuse a method of the command line that the experiment would overrule in silence."""
    for key, value in values.items():
        if key in wins and wins[key] != value and not is_under(key, tuple(given)):
            raise ValueError(
                f"experiment={experiment} sets {key}: {wins[key]!r}, and would win over "
                f"method={method}, which sets {value!r}. Say which on the command line: "
                f"{key}={value}, or {key}={wins[key]}."
            )


def _values_of_another_choice(
    preset: str, values: dict[str, Any], settings: DictConfig, given: set[str]
) -> None:
    """Refuse a choice for a slot if the preset sets values in it that are for another choice.

    They would hold for this one too. What it has by itself, or the command line says, does not
    matter.
    """
    choices = settings.runtime.choices
    for key, value in values.items():
        slot, _, inner = key.partition(".")
        chosen = choices.get(slot)
        if not inner or slot not in values or chosen == values[slot]:
            continue
        own = preset_values(_preset(settings, slot, chosen))
        if own.get(inner, ...) != value and not is_under(key, tuple(given - {slot})):
            raise ValueError(
                f"{preset} sets {key}={value} for its own {slot}={values[slot]}; it would hold for "
                f"{slot}={chosen} too. Say on the command line which {key} is meant, or choose "
                f"another {preset.partition('=')[0]}."
            )


def as_names(choice: Any) -> list[str]:
    """Return the choice of the method group, one name or a list of them, as a list."""
    names = [choice] if isinstance(choice, str) else list(choice or [])
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"method must be a name or a list of names, got {choice!r}.")
    return names


def conflicts(presets: dict[str, dict[str, Any]], settled: set[str]) -> None:
    """Refuse two presets with different values for one key, unless `settled` has it or a parent."""
    seen: dict[str, str] = {}
    for name, values in presets.items():
        for key, value in values.items():
            if is_under(key, tuple(settled)):
                continue
            other = seen.setdefault(key, name)
            if presets[other][key] != value:
                raise ValueError(
                    f"method={other} and method={name} both set {key}: {presets[other][key]!r} and "
                    f"{value!r}. Settle it on the command line, {key}={value} for one, or choose "
                    "one method alone."
                )


def method_of(section: str) -> str:
    """Return the method that brings the values of a preset's section: papo of papo, uec_rl of uec."""
    found = [
        name
        for name in choices(METHOD)
        if any(is_under(key, [section]) for key in preset_values(preset_path(METHOD, name)))
    ]
    assert found, f"no method of conf/method sets {section}.*"
    return found[0]


def readers(section: str) -> list[str]:
    """Return the choices that take values from a preset's section: reweight=polarity of papo."""
    paths = (path for root in roots() for path in sorted(root.glob("*/*.yaml")))
    mark = f"${{{section}."
    return [f"{path.parent.name}={path.stem}" for path in paths if mark in path.read_text("utf-8")]


def preset_values(path: Path) -> dict[str, Any]:
    """Return what a preset sets: slot -> its choice, dotted key -> its value."""
    content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    values: dict[str, Any] = {}
    for entry in content.pop("defaults", []):
        for key, choice in entry.items() if isinstance(entry, dict) else ():
            values[key.removeprefix("override").strip().lstrip("/")] = choice
        if isinstance(entry, str) and entry != "_self_":
            base = path.with_name(f"{entry}.yaml")
            # A preset in a folder of the user's may begin with one of ours.
            values |= preset_values(base if base.is_file() else CONF / path.parent.name / base.name)
    return values | flat(content)
