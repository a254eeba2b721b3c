"""Whether a user's function takes what it is called with, as far as its parameters' names say it.

They are passed by position: a function that takes its second for the gold would compare the gold with itself,
or the response with a row, and pay all answers the same for ever.
"""

import inspect
from collections.abc import Mapping, Sequence
from inspect import Parameter

FORMS = {"one": "(prompt, response, row)", "batch": "(prompts, responses, rows)"}
ROLES = ("prompt", "response", "row")  # in their places
GETS = ("the prompt's text", "the response", "the row: a dict of all its columns")
GOLD = "gold"
# Parts of names, between their underscores and without a plural's s, by what they say: gold_answer is a gold.
WORDS = {
    "row": ("row", "record", "column", "metadata"),
    GOLD: (
        "gold", "golden", "target", "truth", "gt", "reference", "ref", "label", "expected", "true", "correct",
        "right",
    ),
    "response": (
        "response", "completion", "answer", "output", "prediction", "pred", "generation", "reply", "solution",
    ),
    "prompt": ("prompt", "question", "problem", "query", "instruction"),
}  # fmt: skip
MAY_BE_GOLD = ("answer", "solution")  # if it does not stand where the response is passed
VERL_NAMES = ("data_source", "solution_str", "extra_info")
VERL_HINT = (
    " That is verl's form. Call it: def grade(prompt, response, row): return "
    "compute_score(row['data_source'], response, row['<column of the gold>'], row)."
)


def style_of(function: object) -> str:
    """Returns the form that a function's parameters say: TRL's, a batch, else one answer."""
    names = list(inspect.signature(function).parameters)
    if "completions" in names:
        return "trl"
    first = names[:2]
    plural = all(name.endswith("s") for name in first)
    return "batch" if plural and [_role(name) for name in first] == [*ROLES[:2]] else "one"


def trl_fault(parameters: Mapping[str, Parameter]) -> str:
    """Says why a function cannot be called in TRL's form; "" if it can."""
    if "completion_ids" not in _needed(parameters):
        return ""
    return "with prompts, completions and the columns of the rows alone."


def fault(parameters: Mapping[str, Parameter], style: str) -> str:
    """Says why a function cannot be called by position as `style` is; "" if it can."""
    by_place = [
        name
        for name, parameter in parameters.items()
        if parameter.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        and name != "truncated"
    ]
    takes_all = any(each.kind is Parameter.VAR_POSITIONAL for each in parameters.values())
    names = by_place[: len(ROLES)]
    if {*VERL_NAMES} & {*names}:
        return f"with {FORMS[style]}, by position.{VERL_HINT}"
    if not (takes_all or len(by_place) >= len(ROLES)) or len(_needed(parameters)) > len(ROLES):
        return f"with {FORMS[style]}.{_gold_hint(names)}"
    for place, name in enumerate(names):
        if _role(name) not in ("", ROLES[place]):
            return (
                f"with {FORMS[style]}, by position: the place of {name!r} gets {GETS[place]}."
                + _gold_hint(names)
            )
    return ""


def _needed(parameters: Mapping[str, Parameter]) -> list[str]:
    """Returns the parameters without which the function cannot be called."""
    return [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and name != "truncated"
    ]


def _gold_hint(names: Sequence[str]) -> str:
    """Says where a gold is found, if a name seems to ask for it."""
    elsewhere = {part for name in (*names[:1], *names[2:]) for part in _parts(name)}
    if GOLD not in map(_role, names) and not elsewhere & {*MAY_BE_GOLD}:
        return ""
    return (
        " A gold is no argument: write def grade(prompt, response, row) and take it from the row, "
        "row['<column of the gold>']."
    )


def _role(name: str) -> str:
    """Returns what a name says that a parameter is: one of ROLES or GOLD; "" if it says nothing."""
    parts = _parts(name)
    return next((role for role, words in WORDS.items() if parts & {*words}), "")


def _parts(name: str) -> set[str]:
    return {part.removesuffix("s") for part in name.lower().split("_")}
