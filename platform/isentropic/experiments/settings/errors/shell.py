"""How an argument must be typed in a shell, and what a shell did to one without quotes."""

import re
import shlex
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from isentropic.config import flat
from isentropic.experiments.settings.annotations import annotation, members
from isentropic.experiments.settings.conf import compose_raw
from isentropic.experiments.settings.grammar import read_override

KINDS = {bool: "true or false", int: "a whole number", float: "a number"}
EXAMPLES = {bool: "true", int: "1", float: "0.5"}
OPENED = ("{", "[")
SCHEDULE = "{kind: switch, step: 585, before: 0.0, after: 0.5}"  # of a coefficient
PAIR = re.compile(r"\w+:[\w.+-]+")  # what a shell leaves of {kind:switch,step:585}


def quoted(text: str) -> str:
    """Return `text` as Hydra reads it back to the letter, whatever it holds."""
    mark = "'" if '"' in text and "'" not in text else '"'
    # A run of backslashes means itself, unless a quote follows it: then each of them is written
    # twice.
    text = re.sub(r"(\\*)" + mark, lambda run: run[1] * 2 + "\\" + mark, text)
    text = re.sub(r"(\\+)$", lambda run: run[1] * 2, text)
    return f"{mark}{text}{mark}"


def how_to_type(argument: str, arguments: Sequence[str] = ()) -> str:
    """Say what a key of numbers takes; return other arguments as they must be typed in a shell.

    arguments: of the command line, where the rest of what a shell cut at its spaces stands.
    """
    key, separator, value = argument.partition("=")
    if whole := _rejoined(argument, arguments):
        return f"The shell cut it at its spaces. Put quotes around the whole: {shlex.quote(whole)}"
    if not separator:
        return "Write key=value."
    default = flat(OmegaConf.to_container(compose_raw(), resolve=False)).get(key.lstrip("+"))
    if kinds := _kinds(key, default):  # a text in quotes could only fail there
        given_schedule = annotation(key) is Any and value.startswith("{")
        example = f"{key}={SCHEDULE if given_schedule else _example(key, default)}"
        example = shlex.quote(example) if given_schedule else example
        return f"{key} must be {kinds}, got {value!r}. Type it so: {example}"
    in_quotes = quoted(value)
    if isinstance(default, list) and "[" not in value:
        value = f"[{value}]"
    if value.startswith("[") and value.endswith("]"):
        in_quotes = f"[{','.join(quoted(part.strip()) for part in value[1:-1].split(','))}]"
    for candidate in (f"{key}={in_quotes}", f"{key}={quoted(value)}"):
        if read_override(candidate):
            return f"Type it so: {shlex.quote(candidate)}"
    return "Write key=value, and put quotes around lists and spaces: 'method=[papo,uec_rl]'."


def refuse_expanded(arguments: Sequence[str]) -> None:
    """Refuse what a shell made of key={a:1,b:2} without quotes and spaces: key=a:1 and key=b:2."""
    by_key: dict[str, list[str]] = {}
    for argument in arguments:
        key, _, value = argument.partition("=")
        if PAIR.fullmatch(value):
            by_key.setdefault(key, []).append(value)
    for key, pairs in by_key.items():
        if len(pairs) > 1:
            whole = ", ".join(pair.replace(":", ": ", 1) for pair in pairs)
            raise ValueError(
                f"{key} is given {len(pairs)} times, as {' and '.join(pairs)}: the shell took the "
                "braces for a list of its own. Put quotes around the whole: "
                + shlex.quote(f"{key}={{{whole}}}")
            )


def _rejoined(argument: str, arguments: Sequence[str]) -> str:
    """Return the dict or list that begins here and goes on in the next arguments, or "" if none."""
    value = argument.partition("=")[2]
    if not value.startswith(OPENED) or argument not in arguments:
        return ""
    rest = list(arguments)[list(arguments).index(argument) :]
    joined = (" ".join(rest[:count]) for count in range(2, len(rest) + 1))
    return next(filter(read_override, joined), "")


def _kinds(key: str, default: Any) -> str:
    """Say what a key takes if that is no text: "a number or null"; "" for other keys."""
    if type(default) in KINDS:
        schedule = " or a schedule" if annotation(key) is Any else ""
        return KINDS[type(default)] + schedule
    kinds = members(annotation(key))
    if not any(kind in KINDS for kind in kinds) or {*kinds} - {*KINDS, type(None)}:
        return ""
    return " or ".join(KINDS.get(kind, "null") for kind in kinds)


def _example(key: str, default: Any) -> str:
    if default is not None:
        return str(default).lower()
    kinds = members(annotation(key))
    return "null" if type(None) in kinds else EXAMPLES[kinds[0]]
