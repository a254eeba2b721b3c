"""TAB completion of the console script: commands, options, config keys, choices, names of runs.

Hydra's own completion knows `python train.py` and a program of one config; ours has many commands.
"""

import ast
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from isentropic.checks import check_choice
from isentropic.config import flat
from isentropic.experiments.settings.conf import choices, compose_raw, groups, take_config_dirs
from isentropic.experiments.settings.options import HELP
from isentropic.folders import runs_folder

# Bash may cut words at "=": then it wants what comes after it, and we answer with whole words.
BASH = """\
_isentropic() {
    local IFS=$'\\n' line="${COMP_LINE:0:COMP_POINT}"
    local word="${line##* }"
    COMPREPLY=($("$1" completion query "$line" 2>/dev/null))
    if [[ "$word" == *=* && "$COMP_WORDBREAKS" == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%=*}="}")
    fi
}
complete -o nospace -o default -F _isentropic isentropic"""
# What is whole ends with a blank; what goes on (a section, a key) gets none behind it.
ZSH = """\
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
_isentropic() {
    local line="${(j: :)words[1,CURRENT-1]} $PREFIX"
    local -a found=("${(@f)$("$words[1]" completion query "$line" 2>/dev/null)}")
    found=(${found:#})
    if (( ! $#found )); then
        compset -P '*='
        _files
        return
    fi
    compadd -Q -S '' -- ${found:#* }
    compadd -Q -- ${${(M)found:#* }% }
}
compdef _isentropic isentropic"""
SCRIPTS = {"bash": BASH, "zsh": ZSH}
USAGE = """\
Completes commands, options, keys and choices with TAB:

  eval "$(isentropic completion bash)"   # in ~/.bashrc, or by hand
  eval "$(isentropic completion zsh)"    # in ~/.zshrc, or by hand"""


def completion(arguments: Sequence[str], commands: Sequence[str]) -> str:
    """Return what `isentropic completion <arguments>` prints.

    Raises:
        ValueError: the shell is another; its `eval` would run our help.
    """
    match arguments:
        case [("bash" | "zsh") as shell]:
            return SCRIPTS[shell]
        case ["query", line]:
            return "\n".join(candidates(line, commands))
        case [other, *_] if other not in HELP:
            check_choice("the shell of `isentropic completion`", other, SCRIPTS)
    return USAGE


def candidates(line: str, commands: Sequence[str]) -> list[str]:
    """Return all words that the last word of the command line may become."""
    *before, word = line.split(" ")
    before = [part for part in before[1:] if part]
    if not before:
        return _starting(word, [f"{name} " for name in commands])
    command, given = before[0], _searched(before[1:])
    if command == "train":
        return _overrides(word, given)
    if command not in commands:
        return []
    taken = _taken(command)
    if taken.commands and not given:
        return _starting(word, [f"{name} " for name in taken.commands])
    if taken.commands:
        rest = f"isentropic {' '.join([*given, word])}"
        return [*_starting(word, taken.options), *candidates(rest, commands)]
    if word.startswith("run="):
        return _starting(word, [f"run={name} " for name in _runs()])
    names = [*taken.options, *([f"{name} " for name in _runs()] if taken.names_runs else [])]
    return [*_starting(word, names), *(_overrides(word, given) if taken.overrides else [])]


def _searched(words: Sequence[str]) -> list[str]:
    """Search the folders of `--config-dir`; return the other words, all if one is no folder."""
    try:
        return take_config_dirs(words)
    except ValueError:
        return list(words)


class Taken(NamedTuple):
    """What a command takes: `name=` of each option, overrides, names of runs, commands of its own."""

    options: list[str]
    overrides: bool
    names_runs: bool
    commands: list[str]


def _taken(command: str) -> Taken:
    """Read what a command takes off its source: an import would wait seconds for torch."""
    module = find_spec(f"isentropic.experiments.commands.{command}")
    tree = ast.parse(Path(module.origin).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    options = [call.args[0] for call in calls if ast.unparse(call.func) == "Option"]
    keywords = {ast.unparse(keyword) for call in calls for keyword in call.keywords}
    words = [
        ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("SCRIPTS", "LOOKS")
    ]
    return Taken(
        options=list(dict.fromkeys(f"{ast.literal_eval(name)}=" for name in options)),
        overrides="takes_overrides=True" in keywords,
        names_runs="words='run'" in keywords,
        commands=[name for names in words for name in names],
    )


def _overrides(word: str, given: Sequence[str]) -> list[str]:
    """Return groups and keys that begin with the word, or the choices of its group."""
    key, separator, _ = word.partition("=")
    if separator:
        return _starting(word, [f"{key}={name} " for name in choices(key.partition("@")[0])])
    keys = {f"{group}=" for group in groups()}
    depth = word.count(".") + 1
    for name in _keys(given):
        parts = name.split(".")
        # One level at a time: the list of all keys would fill the screen.
        keys.add(f"{name}=" if len(parts) <= depth else f"{'.'.join(parts[:depth])}.")
    return _starting(word, sorted(keys))


def _keys(given: Sequence[str]) -> Mapping[str, object]:
    """Return the keys of what the words before choose; of the defaults if they do not compose."""
    try:
        composed = compose_raw([each for each in given if "=" in each])
    except (HydraException, OmegaConfBaseException):
        composed = compose_raw()
    return flat(OmegaConf.to_container(composed, resolve=False))


def _runs() -> list[str]:
    return sorted(path.parent.name for path in runs_folder().glob("*/config.yaml"))


def _starting(word: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if name.startswith(word)]
