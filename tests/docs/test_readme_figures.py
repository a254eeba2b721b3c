"""README's figures that an experiment decided are those of its JSON file."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SIGMAS = re.compile(r"[+-]\d+\.\d s\.e\.")


def test_the_orders_of_t3_are_those_that_the_page_has():
    (row,) = [line for line in README.splitlines() if "jobs/results.py t3_pilot,t3" in line]
    found = json.loads((ROOT / "docs" / "results" / "t3.json").read_text(encoding="utf-8"))
    numbers = {each["id"]: each["number"] for each in found["statements"]}
    first = [SIGMAS.search(numbers[name]).group() for name in ("T3 beta1", "T3 beta2")]
    assert SIGMAS.findall(row) == first
    assert f"{found['branches']['points']} branch points" in row
