"""Writes docs/results.md from docs/results/*.json: python docs/make_results.py [--check]

The page is docs/results/page.md.j2 with numbers from the JSON files and from nowhere else. With --check nothing is
written, and the exit code is 1 if the page is not what the numbers say.
"""

# ruff: noqa: E402, the source root is put on sys.path before the package is imported

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT / "platform")

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from isentropic.experiments.results.parts import PARTS
from isentropic.metrics.classes import LABELS

RESULTS = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "results.md"
TEMPLATE = "page.md.j2"
UNKNOWN = "-"
NOTHING = {"statements": (), "tables": {}}  # of another machine


def results(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Reads the JSON of each part that has one, by the part's name."""
    files = {part.name: folder / f"{part.name}.json" for part in PARTS}
    return {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name, path in files.items()
        if path.is_file()
    }


def totals(folder: Path = RESULTS) -> dict[str, Any] | None:
    """Reads how many runs there are in all, and their hours, over all machines; None before any."""
    path = folder / "totals.json"
    if not path.is_file():
        return None
    each = json.loads(path.read_text(encoding="utf-8")).values()
    return {key: sum(one[key] for one in each) for key in ("runs", "hours")}


def earlier(folder: Path = RESULTS) -> dict[str, Any]:
    """Reads what parts came to on another machine, before they were made again.

    Returns:
        statements: a row per verdict; tables: by part, its differences, in the form of its JSON.
    """
    return json.loads((folder / "earlier.json").read_text(encoding="utf-8"))


def render(
    found: Mapping[str, Mapping[str, Any]],
    every: Mapping[str, Any] | None = None,
    before: Mapping[str, Any] = NOTHING,
) -> str:
    """Makes the page of these results; a part without runs is said to have none.

    Args:
        every: runs and hours of all parts together.
        before: what `earlier` gives.
    """
    environment = Environment(
        loader=FileSystemLoader(RESULTS),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"num": number, "mean": mean, "diff": difference, "cell": cell}
    environment.filters["first_word"] = lambda text: text.split()[0]
    environment.filters["letter"] = lambda index: ascii_uppercase[index]
    page = environment.get_template(TEMPLATE)
    return page.render(parts=PARTS, found=found, every=every, before=before, classes=LABELS)


def number(value: float | None, digits: int = 3) -> str:
    """Formats a number with that many significant digits; a whole one as it is."""
    if value is None:
        return UNKNOWN
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}g}"


def mean(about: Mapping[str, Any] | None, scale: float = 1.0) -> str:
    """Formats a mean with its standard error, both to the error's second digit: 0.623 ± 0.012."""
    if not about or about["mean"] is None:
        return UNKNOWN
    value, error = about["mean"] / scale, about["error"]
    if error is None or error == 0:
        return f"{value:.3g}"
    error /= scale
    decimals = max(0, 1 - int(f"{error:e}".partition("e")[2]))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def difference(about: Mapping[str, Any] | None, pooled: Mapping[str, Any] | None = None) -> str:
    """Formats a paired difference, with how many standard errors it is from 0.

    pooled: the error that all differences of the table share, whose multiple stands behind its own;
        larger for a difference of fewer pairs.
    """
    text = mean(about)
    if text == UNKNOWN or not about or not about["error"]:
        return text
    errors = f"{about['mean'] / about['error']:+.1f} s.e."
    if pooled and pooled["error"]:
        error = pooled["error"] * math.sqrt(pooled["seeds"] / about["count"])
        errors += f", pooled {about['mean'] / error:+.1f}"
    sign = "" if about["mean"] < 0 else "+"
    return f"{sign}{text} ({errors})"


def cell(text: str) -> str:
    """Makes a text fit for a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def main(arguments: list[str]) -> int:
    text = render(results(), totals(), earlier())
    if "--check" in arguments:
        current = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        if current == text:
            return 0
        print("docs/results.md is not what its numbers say. Run: make docs", file=sys.stderr)
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
