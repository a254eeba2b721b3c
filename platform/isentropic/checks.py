"""Checks of what a user gave. An error says what is wrong, what was given, what is allowed."""

import difflib
import math
import os
import re
from collections.abc import Iterable, Mapping
from datetime import date
from importlib.util import find_spec
from itertools import pairwise
from numbers import Real

NAME_BYTES = 255  # of one folder or file: the limit of the usual file systems
SECRET_LENGTH = 8  # characters; a shorter value turns up by chance
SECRET_WORDS = {"key", "keys", "pat", "pass", "auth", "credential", "credentials"}
SECRET_ENDS = ("key", "token", "secret", "password", "passwd", "passphrase")
NOT_SECRET = (
    "path",
    "file",
    "dir",
    "mode",
    "url",
    "sock",
)  # ends of names that only point somewhere
VALUE_LENGTH = 12  # characters of a value that is a secret by its form, whatever its name
# How issuers write their keys: GitHub, GitLab, Hugging Face, OpenAI and others, AWS, Google, Slack,
# npm, PyPI, Docker, W&B; a JSON web token, a private key, a password in a URL.
ISSUED = re.compile(
    r"""gh[pousr]_\w+ | github_pat_\w+ | glpat-[\w-]+ | hf_[A-Za-z0-9]+
    | sk-[A-Za-z0-9]+ | sk-(?:proj|ant|or|svcacct)-[\w-]+ | (?:AKIA|ASIA)[A-Z0-9]{12,}
    | AIza[\w-]{30,} | ya29\.[\w-]+ | xox[abeoprs]-[\w-]+ | npm_[A-Za-z0-9]+ | pypi-[\w-]+
    | dckr_pat_[\w-]+ | wandb_v1_\w+ | local-[0-9a-f]{40} | eyJ[\w-]+\.eyJ[\w-]+\.[\w-]*
    | -----BEGIN\ [A-Z\ ]*PRIVATE\ KEY-----.* | [a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@.*""",
    re.VERBOSE | re.DOTALL,
)
HEX = re.compile(r"(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})", re.IGNORECASE)  # W&B has 40
TOKEN = re.compile(r"[A-Za-z0-9_+=-]{24,}")
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
# Of names whose values look random and are no secret: a commit, an id.
RANDOM = {"sha", "commit", "revision", "rev", "ref", "hash", "digest", "id", "uuid", "version"}
MIXED = 0.5  # of neighbouring characters, that differ in kind; of a random token about 0.6 do


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest allowed name, or nothing."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def within_window(window: int) -> str:
    """Return the settings that keep prompt and response within a model's window of tokens."""
    prompt = window // 4
    return (
        f"Set model.max_length={window} rollout.max_prompt_tokens={prompt} "
        f"rollout.max_response_tokens={window - prompt}, or choose a model with a longer window."
    )


def check_choice(key: str, value: str, allowed: Iterable[str]) -> None:
    """Raise ValueError unless `value` is one of `allowed`."""
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(
            f"{key} must be one of {', '.join(allowed)}; got "
            f"{value!r}.{nearest(str(value), allowed)}"
        )


def check_range(
    key: str,
    value: float,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    hint: str = "",
) -> None:
    """Raise ValueError unless `value` is a finite number inside the named bounds."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(f"{key} must be a number, got {value!r}.{' ' + hint if hint else ''}")
    bounds = [
        (above is None or value > above, f"> {above}"),
        (at_least is None or value >= at_least, f">= {at_least}"),
        (below is None or value < below, f"< {below}"),
        (at_most is None or value <= at_most, f"<= {at_most}"),
    ]
    named = [
        text
        for (_, text), bound in zip(bounds, (above, at_least, below, at_most), strict=True)
        if bound is not None
    ]
    if value != value or abs(value) == math.inf or not all(holds for holds, _ in bounds):
        allowed = " and ".join(named) or "finite"
        raise ValueError(f"{key} must be {allowed}, got {value}.{' ' + hint if hint else ''}")


def check_path(key: str, path: str) -> None:
    """Raise ValueError if no file system can hold `path`."""
    if not path.strip() or "\0" in path:
        raise ValueError(
            f"{key} must be a path, got {path!r}. Give a folder or a file by its name."
        )
    longest = max((len(os.fsencode(part)) for part in path.split("/")), default=0)
    if longest > NAME_BYTES:
        raise ValueError(
            f"{key} has a name of {longest} bytes in it ({path[:40]}...); file systems allow "
            f"{NAME_BYTES}. Choose a shorter one."
        )


def check_package(module: str, *, extra: str, key: str, instead: str = "") -> None:
    """Raise ValueError if a package that only some choices need is not installed.

    Args:
        extra: of this package, which has it.
        key: what needs it, as it is written: tracking.tensorboard=true.
        instead: what else to do.
    """
    if find_spec(module) is None:
        raise ValueError(
            f"{key} needs the package {module}, and it is not installed. Install it: pip install "
            f"'isentropic[{extra}]' (in a checkout: pip install -e '.[{extra}]'){instead}."
        )


def is_secret_name(name: str) -> bool:
    """Return True if a variable of this name holds a secret: WANDB_API_KEY, PGPASSWORD."""
    words = re.findall("[a-z]+", name.lower()) or [""]
    if words[-1] in NOT_SECRET:
        return False
    return any(word in SECRET_WORDS or word.endswith(SECRET_ENDS) for word in words)


def secret_values() -> dict[str, str]:
    """Return the secrets of this process's environment by the names of their variables.

    A secret is told by its name, or by the form of its value.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if (is_secret_name(name) and len(value) >= SECRET_LENGTH) or is_secret_value(name, value)
    }


def is_secret_value(name: str, value: str) -> bool:
    """Return True if the value has the form of a secret, whatever its variable is called.

    Issuers' forms count under any name; a string that only looks random does not count if the name
    says what it is: GIT_COMMIT, MACHINE_ID.
    """
    if is_issued(value):
        return True
    words = set(re.findall("[a-z]+", name.lower()))
    if words & RANDOM or not words.isdisjoint(NOT_SECRET):
        return False
    return HEX.fullmatch(value) is not None or _is_random(value)


def is_issued(value: str) -> bool:
    """Return True if the value is written as one of the known issuers writes its keys."""
    return len(value) >= VALUE_LENGTH and ISSUED.fullmatch(value) is not None


def _is_random(value: str) -> bool:
    """Return True for a long token of mixed letters and digits, which no person would write."""
    if not TOKEN.fullmatch(value) or UUID.search(value):
        return False
    kinds = [
        "A" if c.isupper() else "a" if c.islower() else "0" if c.isdigit() else c for c in value
    ]
    changes = sum(before != after for before, after in pairwise(kinds))
    return {"A", "a", "0"} <= set(kinds) and changes >= MIXED * (len(value) - 1)


def secret_in(text: str, secrets: Mapping[str, str]) -> str | None:
    """Return the name of the variable whose secret stands in `text`, if there is one."""
    return next((name for name, value in secrets.items() if value in text), None)


def refuse_secrets(arguments: Iterable[str]) -> None:
    """Raise ValueError if a command-line argument holds a secret of the environment.

    Arguments are kept with the run, and other users of the machine see them. The error has the name
    of the variable, never its value.
    """
    secrets = secret_values()
    for number, argument in enumerate(arguments, start=1):
        if variable := secret_in(argument, secrets):
            key = argument.partition("=")[0]
            shown = f"argument {number}" if secret_in(key, secrets) or key == argument else key
            raise ValueError(
                f"{shown} holds the value of the environment variable {variable}, which looks like "
                "a secret. Arguments are kept with the run; leave it out: libraries find their keys "
                "in the environment themselves."
            )


def check_day(key: str, value: str) -> None:
    """Raise ValueError if `value` is not a day as YYYY-MM-DD."""
    try:
        date.fromisoformat(value)
    except ValueError as error:
        raise ValueError(f"{key} must be a day such as 2026-01-31; got {value!r}.") from error
