"""Writes docs/configuration.md from the code: python docs/make_configuration.py [--check]

Types, comments and bounds come from the config dataclasses, defaults and choices from conf/. With --check nothing
is written, and the exit code is 1 if the page is not what the code says.
"""

# ruff: noqa: E402, the source root is put on sys.path before the package is imported

import ast
import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT / "platform")

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from isentropic import checks
from isentropic.config import flat
from isentropic.experiments.settings.load import SECTIONS, typed
from isentropic.experiments.settings.presets import PRESET_SECTIONS
from isentropic.experiments.settings.slots import SLOTS
from isentropic.metrics.alarms.rules import AlarmRule
from isentropic.objectives.loss import schedule

CONF = ROOT / "conf"
PAGE = ROOT / "docs" / "configuration.md"
WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text"}
WORDS |= {tuple: "list", list: "list", dict: "section", type(None): "null"}

HEAD = """\
# Configuration

Every group and every key. **This page is made from the code** by `make docs`; change the dataclass or the YAML file,
not the page.

- `python jobs/train.py <group>=<choice> <key>=<value> ...` sets values. `--cfg job` shows the
  whole config that results, `--help` the choices; `run.dry=true` checks everything and starts nothing.
- *default* is the value of `jobs/train.py` without arguments; *absent* is a key that is not there then, with the
  choices that have it. `model=...` and `experiment=...` also set keys of `rollout`, `learner` and `cluster`, because
  those depend on the scale.
- `${a.b}` means: the value of key `a.b`. Of a key that is given twice the last value counts, also of a choice; a
  second `method=` is refused, because methods compose: `method=[papo,dapo]`.
- A *coefficient* is a number or a schedule over the steps of the run, which count from 1:
  `{kind: switch, step: 585, before: 0.0, after: 0.5}` or
  `{kind: linear, from_step: 1, to_step: 100, start: 1.0, end: 0.5}` (or `kind: cosine`). The shell must not see its
  braces and spaces, so the whole argument stands in quotes:
  `python jobs/train.py 'objective.beta1={kind: switch, step: 30, before: 0.0, after: 0.5}'`.
- A misspelled key, a wrong type, a value out of bounds or a combination that cannot work is refused before anything
  starts, with exit code 2.
"""


@dataclass
class Key:
    """One row of a table."""

    name: str
    kind: str
    default: str
    allowed: str = ""
    meaning: str = ""


@dataclass
class Bounds:
    """What the checks of a class ask of each key, by the key as it stands in the messages."""

    ranges: dict[str, str] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict)
    coefficients: set[str] = field(default_factory=set)
    optional: set[str] = field(default_factory=set)

    def of(self, name: str) -> str:
        if name.endswith(".mode"):  # resume=auto stands for resume.mode=auto in the messages
            name = name.removesuffix(".mode")
        parts = [self.choices.get(name, self.ranges.get(name, ""))]
        parts += ["null"] if name in self.optional else []
        return " or ".join(part for part in parts if part)


def page() -> str:
    """The whole page."""
    composed = OmegaConf.to_container(_compose(), resolve=False)
    parts = [HEAD, *_contents(), *_run_keys(composed)]
    for name in SECTIONS:
        if name != "run":
            parts += _section(name, composed[name])
    parts += ["## Slots of a method", _SLOTS]
    for name in SLOTS:
        parts += _slot(name)
    parts += ["## Presets", *_method_sections()]
    for group in ("method", "experiment", "sweep"):
        parts += [f"### `{group}`", _choices(group)]
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


_SLOTS = """\
A step calls the slots in the order of [step.md](step.md). Each is a group: `objective=gspo` chooses a file of
`conf/objective/`. The file's `name` says which class reads the keys."""


def _contents() -> list[str]:
    linked = (
        [name for name in SECTIONS],
        [name for name in SLOTS],
        ["method", "experiment", "sweep"],
    )
    rows = [" · ".join(f"[`{name}`](#{name})" for name in names) for names in linked]
    return ["Sections: " + rows[0], "Slots: " + rows[1], "Presets: " + rows[2]]


def _run_keys(composed: Mapping[str, Any]) -> list[str]:
    comments = yaml_comments(CONF / "config.yaml")
    seed = Key(
        "seed", "whole number", _shown(composed["seed"]), ">= 0, < 2^63", comments.get("seed", "")
    )
    keys = _keys("run", SECTIONS["run"], composed["run"], comments)
    return ["## Sections", "### `run`", _doc(SECTIONS["run"]), _table([seed, *keys])]


def _section(name: str, values: Mapping[str, Any]) -> list[str]:
    section = SECTIONS[name]
    default = CONF / name / f"{_default_choice(name)}.yaml"
    others = {path.stem: _with_defaults(path) for path in _files(name) if path != default}
    # Of keys that the default has, others' comments say what is special to them.
    has = {key for local in flat(values) for key in (local, f"{name}.{local}")}
    more = {key: note for key, note in _notes(_files(name)).items() if key not in has}
    notes = more | yaml_comments(default)
    parts = [f"### `{name}`", _doc(section), _choices(name)]
    parts.append(_table(_keys(name, section, values, notes, others)))
    if name == "alarms":
        parts.append(_alarm_rules(values["rules"]))
    return parts


def _notes(files: list[Path]) -> dict[str, str]:
    """Comments of all files; the first that has one for a key wins."""
    return {key: note for path in reversed(files) for key, note in yaml_comments(path).items()}


def _slot(name: str) -> list[str]:
    """Each class of the slot with the choices that are of it; one table if there is one class."""
    parts = [f"### `{name}`", _choices(name)]
    by_class: dict[type, list[Path]] = {}
    for kind, section in SLOTS[name].items():
        files = [path for path in _files(name) if _read(path).get("name") == kind]
        by_class.setdefault(section, []).extend(files)
    for section, files in by_class.items():
        values = _with_defaults(files[0]) if files else {}
        keys = [
            key for key in _keys(name, section, values, _notes(files)) if key.name != f"{name}.name"
        ]
        for key in keys:
            if key.name in (over := _over(files)):
                key.default, key.meaning = (
                    f"`{over[key.name]}`",
                    f"another: `{name}@{key.name}=...`",
                )
            key.default += _other_defaults(key.name.removeprefix(f"{name}."), files, values)
        chosen = ", ".join(f"`{name}={path.stem}`" for path in files) or "not a choice of its own"
        parts.append(f"{chosen}: {_doc(section)}" + ("" if keys else " No keys."))
        parts += [_table(keys)] if keys else []
    return parts


def _over(files: list[Path]) -> dict[str, str]:
    """Key of a section -> the choice that fills it: {objective.base: dapo} of objective=erc."""
    entries = [entry for path in files[:1] for entry in _read(path).get("defaults", [])]
    pairs = [pair for entry in entries if isinstance(entry, Mapping) for pair in entry.items()]
    places = [(*place.strip("/").split("@"), choice) for place, choice in pairs if "@" in place]
    return {f"{group}.{key}": choice for group, key, choice in places}


def _other_defaults(key: str, files: list[Path], values: Mapping[str, Any]) -> str:
    """What the other choices have in the place of the value shown."""
    others = {path.stem: _read(path).get(key) for path in files[1:] if key in _read(path)}
    if any(isinstance(value, Mapping) for value in (values.get(key), *others.values())):
        return ""
    differ = {stem: _shown(value) for stem, value in others.items() if value != values.get(key)}
    return "".join(f"; `{stem}`: {shown}" for stem, shown in differ.items())


def _keys(
    prefix: str,
    section: type,
    values: Mapping[str, Any],
    notes: Mapping[str, str],
    others: Mapping[str, Any] = types.MappingProxyType({}),
) -> list[Key]:
    """A row for each field, and for each field of a section inside it.

    others: choice -> its values, for the keys that the default has not.
    """
    notes = {key.removeprefix(f"{prefix}."): note for key, note in notes.items()}
    return list(_rows(prefix, "", section, values, others, notes, _bounds(prefix, section)))


def _rows(
    prefix: str,
    inner: str,
    section: type,
    values: Any,
    others: Mapping[str, Any],
    notes: Mapping[str, str],
    bounds: Bounds,
) -> Iterator[Key]:
    comments, hints = field_comments(section), typing.get_type_hints(section)
    values = values if isinstance(values, Mapping) else {}
    for entry in fields(section):
        local = f"{inner}{entry.name}"
        name = f"{prefix}.{local}"
        value = values.get(entry.name)
        inside = {
            choice: given[entry.name]
            for choice, given in others.items()
            if isinstance(given, Mapping) and entry.name in given
        }
        kind = "coefficient" if name in bounds.coefficients else _in_words(hints[entry.name])
        meaning = notes.get(local) or comments.get(entry.name, "")
        nested = [option for option in _options(hints[entry.name]) if is_dataclass(option)]
        shown = _default(prefix, value, inside) if entry.name in values else _absent(prefix, inside)
        yield Key(name, kind, shown, bounds.of(name), meaning)
        if nested:
            yield from _rows(prefix, f"{local}.", nested[0], value, inside, notes, bounds)
        elif isinstance(value, Mapping) and prefix == "model":
            yield from _plain(name, f"{local}.", value, notes)


def _default(prefix: str, value: Any, inside: Mapping[str, Any]) -> str:
    """The value of the default; null, where other choices have a section, names them."""
    if isinstance(value, Mapping) and value:
        return "section"
    sections = [choice for choice, given in inside.items() if isinstance(given, Mapping)]
    return _shown(value) + ("; a section" + _with(prefix, sections) if sections else "")


def _absent(prefix: str, inside: Mapping[str, Any]) -> str:
    """What the choices that have the key give it: "absent; with `terms=kl`: 0.001"."""
    by_value: dict[str, list[str]] = {}
    for choice, value in inside.items():
        shown = "a section" if isinstance(value, Mapping) else _shown(value)
        by_value.setdefault(shown, []).append(choice)
    parts = [
        f"; a section{_with(prefix, choices)}"
        if shown == "a section"
        else f";{_with(prefix, choices)}: {shown}"
        for shown, choices in by_value.items()
    ]
    return "absent" + "".join(parts)


def _with(prefix: str, choices: list[str]) -> str:
    return " with " + ", ".join(f"`{prefix}={choice}`" for choice in choices)


def _plain(
    name: str, inner: str, values: Mapping[str, Any], notes: Mapping[str, str]
) -> Iterator[Key]:
    """Keys of a section that has no class."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _plain(f"{name}.{key}", f"{inner}{key}.", value, notes)
        else:
            kind = WORDS.get(type(value), "any")
            yield Key(f"{name}.{key}", kind, _shown(value), "", notes.get(f"{inner}{key}", ""))


@cache
def _bounds(prefix: str, section: type) -> Bounds:
    """What the checks ask, seen while the class is made from its presets."""
    found = Bounds()
    for values in _instances(prefix, section):
        with _watching(found):
            try:
                typed(prefix, section, values)
            except ValueError:
                continue  # a preset that needs a value of the user: what was checked before it counts
    return found


def _instances(prefix: str, section: type) -> Iterator[dict[str, Any]]:
    """Plain values for the class: as composed, or from each choice of its slot."""
    base = _everything()
    choices = [_with_defaults(path) for path in _files(prefix)]
    if prefix in SLOTS:
        choices = [own for own in choices if SLOTS[prefix].get(own["name"]) is section]
    for own in [base[prefix], *choices] if prefix not in SLOTS else choices:
        cfg = OmegaConf.create(base | {prefix: own})
        values = OmegaConf.to_container(cfg[prefix], resolve=True)
        yield {key: "given" if value == "???" else value for key, value in values.items()}


def _with_defaults(path: Path) -> dict[str, Any]:
    """A choice's values, on those of the choice that it begins with (`defaults: [math, _self_]`).

    What it takes from another choice (/objective@base: dapo) stands in them.
    """
    values = _read(path)
    for entry in values.pop("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            values = _with_defaults(path.with_name(f"{entry}.yaml")) | values
        for where, choice in entry.items() if isinstance(entry, Mapping) else ():
            group, at, key = where.strip("/").partition("@")
            values |= {key: _read(CONF / group / f"{choice}.yaml")} if at else {}
    return values


@cache
def _everything() -> dict[str, Any]:
    """The composed config with the sections of all method presets."""
    composed = OmegaConf.to_container(_compose(), resolve=False)
    return composed | {name: _preset_section(name) for name in PRESET_SECTIONS}


def _preset_section(name: str) -> dict[str, Any]:
    found = [values for path in _files("method") if name in (values := _read(path))]
    return found[0][name]


class _watching:
    """Notes the arguments of every check that runs inside the block; nothing is replaced."""

    def __init__(self, found: Bounds) -> None:
        self._found = found
        self._watched: dict[types.CodeType, Callable[[Mapping[str, Any]], None]] = {
            checks.check_range.__code__: self._range,
            checks.check_choice.__code__: self._choice,
            schedule.check_coefficient.__code__: self._coefficient,
        }

    def __enter__(self) -> None:
        sys.setprofile(self._event)

    def __exit__(self, *_: Any) -> None:
        sys.setprofile(None)

    def _event(self, frame: types.FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code in self._watched:
            self._watched[frame.f_code](frame.f_locals)

    def _range(self, given: Mapping[str, Any]) -> None:
        signs = {"above": ">", "at_least": ">=", "below": "<", "at_most": "<="}
        bounds = [f"{sign} {given[key]:g}" for key, sign in signs.items() if given[key] is not None]
        text = ", ".join(bounds)
        self._found.ranges.setdefault(given["key"], text)

    def _choice(self, given: Mapping[str, Any]) -> None:
        self._found.choices[given["key"]] = ", ".join(f"`{name}`" for name in given["allowed"])

    def _coefficient(self, given: Mapping[str, Any]) -> None:
        key, bounds = given["key"], given["bounds"]
        self._found.coefficients.add(key)
        if given["optional"]:
            self._found.optional.add(key)
        self._range(
            dict.fromkeys(("above", "at_least", "below", "at_most")) | bounds | {"key": key}
        )


def _alarm_rules(rules: Mapping[str, Mapping[str, Any]]) -> str:
    comments = yaml_comments(CONF / "alarms" / "default.yaml")
    rows = [
        "Each rule watches one metric, the numbers of [metrics.md](metrics.md) that a step's line has. A rule whose "
        "metric no line has is silent, and so is one whose metric was not measured. By its `kind`:",
        "",
        "```",
        *inspect.cleandoc(AlarmRule.__doc__ or "").splitlines()[2:],
        "```",
        "",
        "Its keys:",
        "",
        "| key | type | allowed | meaning |",
        "|---|---|---|---|",
    ]
    hints, notes = typing.get_type_hints(AlarmRule), field_comments(AlarmRule)
    bounds, first = _bounds("alarms", SECTIONS["alarms"]), f"alarms.rules.{next(iter(rules))}"
    for entry in fields(AlarmRule):
        allowed = bounds.of(f"{first}.{entry.name}") if entry.name != "value" else ""
        meaning = notes.get(entry.name, "")
        meaning = "" if _words(allowed) == _words(meaning) else _escaped(meaning)
        cells = (f"`{entry.name}`", _in_words(hints[entry.name]), allowed, meaning)
        rows.append("| " + " | ".join(cells) + " |")
    columns = [entry.name for entry in fields(AlarmRule) if entry.name != "metric"]
    rows += [
        "",
        "`+alarms.rules.mine={...}` adds a rule, with all its keys; `alarms.rules.kl_drift=null` removes one. The "
        "default rules:",
        "",
        f"| rule | metric | {' | '.join(columns)} | why |",
        "|---" * (len(columns) + 3) + "|",
    ]
    for name, rule in rules.items():
        cells = [f"`{name}`", f"`{rule['metric']}`"]
        cells += [_shown(rule[key]).strip("`'") for key in columns]
        rows.append("| " + " | ".join([*cells, comments.get(f"rules.{name}", "")]) + " |")
    return "\n".join(rows)


def _method_sections() -> list[str]:
    """papo, oger, uec: keys that exist if the method is chosen."""
    found: dict[str, str] = {}
    for name, entries in SLOTS.items():
        for section in set(entries.values()):
            own = _bounds(name, section)
            found |= own.ranges | own.choices
    parts = []
    for path in _files("method"):
        values, notes = _read(path), yaml_comments(path)
        for section in PRESET_SECTIONS:
            if section in values:
                keys = list(_plain(section, f"{section}.", values[section], notes))
                for key in keys:
                    key.allowed = found.get(key.name, "")
                parts += [f"### `{section}`", f"With `method={path.stem}`.", _table(keys)]
    return parts


def _choices(group: str) -> str:
    rows = [f"| `{group}=` | what |", "|---|---|"]
    default = _default_choice(group)
    for path in _files(group):
        mark = " (default)" if path.stem == default else ""
        rows.append(f"| `{path.stem}`{mark} | {_first_comment(path)} |")
    return "\n".join(rows)


def _table(keys: list[Key]) -> str:
    rows = ["| key | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    for key in keys:
        meaning = "" if _words(key.allowed) == _words(key.meaning) else key.meaning
        cells = (f"`{key.name}`", key.kind, key.default, key.allowed, meaning)
        rows.append("| " + " | ".join(map(_escaped, cells)) + " |")
    return "\n".join(rows)


def _words(text: str) -> str:
    return re.sub(r"[`,|\s]+", " ", text).strip()


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def field_comments(section: type) -> dict[str, str]:
    """Field -> its comment: on its own lines, else the lines right above it; of base classes too."""
    found: dict[str, str] = {}
    for base in reversed(section.__mro__):
        if is_dataclass(base):
            found |= _own_comments(base)
    return found


def _own_comments(section: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(section))
    except (OSError, TypeError):
        return {}
    lines, found = source.splitlines(), {}
    for node in ast.parse(source).body[0].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            inside = [_comment(line) for line in lines[node.lineno - 1 : node.end_lineno]]
            above, number = [], node.lineno - 2
            while lines[number].strip().startswith("#"):
                above.insert(0, _comment(lines[number]))
                number -= 1
            text = " ".join(part for part in (inside if any(inside) else above) if part)
            if text:
                found[node.target.id] = text
    return found


def yaml_comments(path: Path) -> dict[str, str]:
    """Dotted key -> the comment at the end of its line, or on the lines right above it."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    above: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        match = re.match(r'( *)(?:- )?"?([A-Za-z_][\w.]*)"?:(?: |$)', line)
        if line.strip().startswith("#"):
            above.append(_comment(line))
            continue
        if match and not line.lstrip().startswith("- "):
            indent = len(match[1])
            parents = [parent for parent in parents if parent[0] < indent]
            parents.append((indent, match[2]))
            text = _comment(line) or (" ".join(above) if indent and above else "")
            if text:
                found[".".join(name for _, name in parents)] = text
        above = []
    return found


def _comment(line: str) -> str:
    match = re.search(r"(?:^|\s)#\s?(.*)$", line)
    return match[1].strip() if match else ""


def _first_comment(path: Path) -> str:
    """The first sentence of a file's opening comment."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("# ") or line.startswith("#  "):
            break
        lines.append(_comment(line))
    sentence = re.split(r"(?<=[\w)]{3}\.) (?=[A-Z\d`])", " ".join(lines))[0]
    return _escaped(sentence.rstrip(".:"))


def _files(group: str) -> list[Path]:
    return sorted((CONF / group).glob("*.yaml"))


@cache
def _read_once(path: Path) -> dict[str, Any]:
    return OmegaConf.to_container(OmegaConf.load(path))


def _read(path: Path) -> dict[str, Any]:
    return dict(_read_once(path))


@cache
def _default_choice(group: str) -> str | None:
    for entry in _read(CONF / "config.yaml")["defaults"]:
        if isinstance(entry, Mapping) and group in entry and isinstance(entry[group], str):
            return entry[group]
    return None


@cache
def _compose(*overrides: str) -> Any:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", overrides=list(overrides))


def _doc(section: type) -> str:
    text = inspect.cleandoc(section.__doc__ or "").splitlines()[0]
    return (
        ""
        if text.startswith(f"{section.__name__}(")
        else text.replace("; the values live in", "; see")
    )


def _options(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _in_words(hint: Any) -> str:
    words = []
    for option in _options(hint):
        origin = typing.get_origin(option) or option
        words.append("section" if is_dataclass(option) else WORDS.get(origin, "any"))
    return " or ".join(dict.fromkeys(words))


def _shown(value: Any, given: bool = True) -> str:
    if not given:
        return "-"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if value == "???":
        return "must be given"
    if isinstance(value, str):
        return f"`{value!r}`" if "\n" in value or not value else f"`{value}`"
    if isinstance(value, int | float):
        return f"{value:g}"
    if isinstance(value, list):
        return "`[" + ", ".join(_shown(entry).strip("`") for entry in value) + "]`"
    return "none" if value == {} else "`" + re.sub(r"'(\w+)': ", r"\1: ", str(value)) + "`"


def main(arguments: list[str]) -> int:
    text = page()
    if "--check" in arguments:
        current = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        if current == text:
            return 0
        print("docs/configuration.md is not what the code says. Run: make docs", file=sys.stderr)
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
