"""The options of a command: key=value, each with its kind, checked before anything starts.

Every command speaks this one dialect. What is no option is an override of the config, if the
command takes any. Flags of an earlier release still work and name their new form.
"""

import difflib
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isentropic.checks import check_choice, check_path, check_range, nearest

Kind = Callable[[str, str], Any]  # (option, text) -> value; raises ValueError for another text
HELP = ("-h", "--help")
METHOD = "method"


@dataclass(frozen=True)
class Option:
    """One option: `name=form`, and what a reader of --help is told about it."""

    name: str
    form: str
    help: str
    kind: Kind
    required: bool = False
    writes: bool = False  # the value names a place that the command writes to


@dataclass(frozen=True)
class Options:
    """All that one command takes.

    Attributes:
        doc: what --help prints above the options: how to call it, and what it does.
        words: the option that arguments without key= belong to, as in `report.py a b`; None: there
            are none.
        takes_overrides: other key=value arguments are overrides of the config.
        takes_all: whatever is no option is handed on as an override, unchecked: it is another
            program's.
        old: flag of an earlier release -> its form of today; one that ends with '=' took a value.
    """

    command: str
    doc: str
    options: tuple[Option, ...]
    words: str | None = None
    takes_overrides: bool = False
    takes_all: bool = False
    old: Mapping[str, str] = field(default_factory=dict)

    def parse(self, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Return the options given, by name, and the overrides.

        Raises:
            ValueError: an argument that is neither, a value of another kind, a required option that
                is missing, or two methods.
        """
        texts: dict[str, str] = {}
        overrides: list[str] = []
        for argument in self.current(arguments):
            key, separator, value = argument.partition("=")
            name = key.removeprefix(f"{self.command}.")
            if name in self._names and separator:
                texts[name] = self._joined(name, texts.get(name), value)
            elif self.takes_all:
                overrides.append(argument)
            elif self.words and not argument.startswith("-") and (not separator or "/" in key):
                texts[self.words] = ",".join(filter(None, [texts.get(self.words), argument]))
            else:
                self._check_override(argument)
                overrides.append(argument)
        refuse_two_methods(overrides)
        for option in self.options:
            if option.required and option.name not in texts:
                raise ValueError(
                    f"which {option.name}? Give {option.name}={option.form}; --help shows all "
                    "options."
                )
        values = {
            option.name: option.kind(option.name, texts[option.name])
            for option in self.options
            if option.name in texts
        }
        return values, overrides

    def _joined(self, name: str, before: str | None, value: str) -> str:
        """Return the text of an option; one that takes several values may be given several times."""
        if before is None or before == value:
            return value
        takes_several = name == self.words or any(
            option.name == name and "," in option.form for option in self.options
        )
        if not takes_several:
            raise ValueError(f"{name}={before} and {name}={value}: which of them? Give one.")
        return f"{before},{value}"

    def help(self) -> str:
        """Return the text of --help."""
        listed = ["", "options:", *_rows(self.options)] if self.options else []
        return "\n".join([self.doc.strip(), *listed])

    @property
    def takes_something(self) -> bool:
        """False for a command that has no options."""
        return bool(self.options)

    @property
    def _names(self) -> list[str]:
        return [option.name for option in self.options]

    def current(self, arguments: Sequence[str]) -> list[str]:
        """Replace flags of an earlier release by their form of today, and say it."""
        result: list[str] = []
        given = iter(arguments)
        for argument in given:
            flag, separator, value = argument.partition("=")
            if flag not in self.old:
                result.append(argument)
                continue
            new = self.old[flag]
            if new.endswith("="):
                new += value if separator else next(given, "")
            print(f"{flag} is now {new}", file=sys.stderr)
            result.append(new)
        return result

    def _check_override(self, argument: str) -> None:
        key, separator, _ = argument.partition("=")
        names = self._names
        if self.takes_overrides and not argument.startswith("-"):
            if not separator and not argument.startswith("~"):
                raise ValueError(
                    f"{argument!r} is no option and no override. Write key=value; --help shows the "
                    "options."
                )
            # A misspelled option must not pass for a key of the config.
            if not difflib.get_close_matches(key, names, cutoff=0.8):
                return
        allowed = f"The options are {', '.join(names)}." if names else "There are no options."
        raise ValueError(f"unknown option {key!r}. {allowed}{nearest(key.lstrip('-'), names)}")


@dataclass(frozen=True)
class Commands:
    """A program whose first argument says what to do, each with options of its own."""

    doc: str
    commands: Mapping[str, Options]
    takes_something = True

    def parse(self, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        """Return the options, the command among them, and the overrides."""
        check_choice("command", arguments[0], self.commands)
        values, overrides = self.commands[arguments[0]].parse(arguments[1:])
        return {"command": arguments[0]} | values, overrides

    def help(self) -> str:
        """Return the text of --help: commands with equal options are shown together."""
        parts = [self.doc.strip()]
        by_options: dict[tuple[Option, ...], list[str]] = {}
        for name, options in self.commands.items():
            by_options.setdefault(options.options, []).append(name)
        for options, commands in by_options.items():
            parts += ["", f"options of {', '.join(commands)}:", *_rows(options)]
        return "\n".join(parts)


def refuse_two_methods(arguments: Sequence[str]) -> None:
    """Refuse a second `method=`. Hydra takes the last of two values, but methods compose.

    Raises:
        ValueError: two that differ; says how to have both.
    """
    pairs = [argument.split("=", 1) for argument in arguments if "=" in argument]
    given = [value for key, value in pairs if key == METHOD]
    if len(set(given)) > 1:
        names = dict.fromkeys(name for value in given for name in value.strip("[]").split(","))
        raise ValueError(
            f"method is given twice: {' and '.join(f'method={value}' for value in given)}. "
            f"'method=[{','.join(names)}]' composes them; to have one, leave the other out."
        )


def _rows(options: Sequence[Option]) -> list[str]:
    heads = [f"{option.name}={option.form}" for option in options]
    width = min(24, max(map(len, heads), default=0)) + 4
    rows = []
    for head, option in zip(heads, options, strict=True):
        indent = " " * width
        text = textwrap.fill(
            option.help, width=100, initial_indent=indent, subsequent_indent=indent
        )
        fits = len(head) + 4 <= width
        rows.append(f"  {head}{text[len(head) + 2 :]}" if fits else f"  {head}\n{text}")
    return rows


def text(name: str, value: str) -> str:
    """Take the value as it was typed."""
    if not value or "\0" in value:
        raise ValueError(f"{name} must be a text, got {value!r}.")
    return value


def flag(name: str, value: str) -> bool:
    """Take true or false."""
    check_choice(name, value, ("true", "false"))
    return value == "true"


def choice(*allowed: str) -> Kind:
    """Take one of `allowed`."""

    def kind(name: str, value: str) -> str:
        check_choice(name, value, allowed)
        return value

    return kind


def count(name: str, value: str, *, at_least: int = 1, hint: str = "") -> int:
    """Take a whole number."""
    number: Any = int(value) if re.fullmatch(r"-?[0-9]{1,18}", value) else value
    check_range(name, number, at_least=at_least, hint=hint)
    return number


def step(name: str, value: str) -> int:
    """Take the number of a step."""
    return count(name, value, at_least=0, hint="Give the number of a step.")


def number(name: str, value: str) -> float:
    """Take a number; where it must lie is checked with the config that it goes into."""
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{name} must be a number, got {value!r}.") from None


def path(name: str, value: str) -> Path:
    """Take a path; it need not exist."""
    check_path(name, value)
    return Path(value)


def names(name: str, value: str) -> list[str]:
    """Take names or paths, separated by commas."""
    parts = [part.strip() for part in value.split(",")]
    for part in parts:
        check_path(name, part)
    return parts
