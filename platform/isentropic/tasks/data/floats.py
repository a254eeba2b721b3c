"""Numbers of tables as someone wrote them: 0.1, not the 0.10000000149011612 that float32 makes of it.

An answer is compared exactly, so a digit of noise behind it would never be paid.
"""

import math
from typing import Any

import numpy as np

NARROW = {"float": np.float32, "halffloat": np.float16}  # as Arrow calls them
DIGITS = 15  # that a float64 keeps of any decimal; what stands behind them is noise


def as_text(value: float) -> str:
    """Returns a finite number in digits, without the noise: 0.30000000000000004 is 0.3."""
    text = repr(value)
    mantissa = text.partition("e")[0].lstrip("-0.").replace(".", "")
    # Above, the digits would be those of a whole number.
    if len(mantissa) <= DIGITS or abs(value) >= 10**DIGITS:
        return text
    with np.errstate(over="ignore"):
        narrow = np.float32(value)
    # Of so many digits that are one float32 exactly none was written by hand.
    return str(narrow) if float(narrow) == value else f"{value:.{DIGITS}g}"


def without_noise(text: str) -> str:
    """Returns an answer's text; if a program wrote it for a float, without the noise."""
    try:
        value = float(text)
    except ValueError:
        return text
    return as_text(value) if math.isfinite(value) and repr(value) == text.strip() else text


def narrow_columns(schema: Any) -> dict[str, Any]:
    """Returns the columns of an Arrow schema that hold float32 or float16, with their types."""
    return {field.name: field.type for field in schema if _is_narrow(field.type)}


def widened(row: dict[str, Any], columns: dict[str, Any]) -> dict[str, Any]:
    """Returns a row whose narrow floats are the decimals that made them."""
    return row | {name: _widened(row[name], kind) for name, kind in columns.items()}


def _is_narrow(kind: Any) -> bool:
    return str(kind) in NARROW or any(_is_narrow(field.type) for field in _fields(kind))


def _widened(value: Any, kind: Any) -> Any:
    if str(kind) in NARROW and isinstance(value, float):
        return float(str(NARROW[str(kind)](value)))
    fields = _fields(kind)
    if isinstance(value, dict) and set(value) == {field.name for field in fields}:
        return {field.name: _widened(value[field.name], field.type) for field in fields}
    if isinstance(value, list) and len(fields) == 1:
        return [_widened(inner, fields[0].type) for inner in value]
    return value


def _fields(kind: Any) -> list[Any]:
    return [kind.field(index) for index in range(kind.num_fields)]
