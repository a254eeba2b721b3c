"""Hydra's errors in our words: what is wrong, what is allowed, the nearest valid name."""

import re
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf

from isentropic.checks import nearest
from isentropic.experiments.settings.keys import flat

NO_KEY = re.compile(r"Could not (?:override|append|delete)[^'\n]*'([^'=\n]+)")
NO_MATCH = "No match in the defaults list"


def explain(error: Exception, conf: Path, arguments: list[str]) -> str:
    """A message for what Hydra or OmegaConf refused, given the command line's arguments."""
    text = str(error).strip()
    if isinstance(error, OverrideParseException):
        return (
            f"cannot read {error.override!r} as an override. Write key=value, and put quotes around lists and "
            "spaces: 'method=[papo,uec_rl]'."
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_choice(str(error.missing_cfg_file), conf)
    match = NO_KEY.search(text)
    if match:
        return _no_key(match.group(1), conf, arguments)
    cause = f" ({str(error.__cause__).splitlines()[0]})" if error.__cause__ else ""
    return f"config: {text}{cause}"


def _no_choice(missing: str, conf: Path) -> str:
    group, _, name = missing.rpartition("/")
    options = sorted(path.stem for path in (conf / group).glob("*.yaml"))
    return f"{group}={name} is not a choice. {group} may be {', '.join(options)}.{nearest(name, options)}"


def _no_key(key: str, conf: Path, arguments: list[str]) -> str:
    key = key.partition("@")[0].strip("+~")
    groups = sorted(path.name for path in conf.iterdir() if path.is_dir())
    composed = _composed(conf, arguments)
    if key in flat(composed):  # with some of the arguments; not with all of them
        advice = f"Leave it out, or choose the {key.partition('.')[0]} that has it."
        return f"{key} is no key of what the other arguments choose. {advice}"
    valid = list(dict.fromkeys([*groups, *composed, *flat(composed)]))
    same_name = [name for name in valid if name.rpartition(".")[2] == key.rpartition(".")[2]]
    hint = (
        f" Did you mean {' or '.join(map(repr, same_name[:3]))}?"
        if same_name
        else nearest(key, valid)
    )
    parent = key.rpartition(".")[0]
    siblings = [
        name.rpartition(".")[2] for name in valid if parent and name.rpartition(".")[0] == parent
    ]
    allowed = f" {parent} has the keys {', '.join(siblings)}." if siblings else ""
    return f"unknown config key {key!r}.{allowed}{hint or ' See `--cfg job` for all keys.'}"


def _composed(conf: Path, arguments: list[str]) -> dict[str, Any]:
    """The config of those choices of the command line that compose: what the user could have meant."""
    overrides: list[str] = []
    with initialize_config_dir(version_base="1.3", config_dir=str(conf)):
        config = compose("config")
        for argument in arguments:
            try:
                OverridesParser.create().parse_override(argument)
                config = compose("config", [*overrides, argument])
            except HydraException:
                continue
            overrides.append(argument)
    return OmegaConf.to_container(config, resolve=False)
