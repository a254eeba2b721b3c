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
    told = {each["id"]: each for each in found["statements"]}
    orders = [told[name] for name in ("T3 beta2", "T3 (0,1)", "T3 beta1")]
    assert SIGMAS.findall(row) == [SIGMAS.search(each["number"]).group() for each in orders]
    assert [each["verdict"] for each in orders] == ["held", "held", "undecided"]
    assert row.count("(undecided)") == 1 and "s.e. (undecided) |" in row
    assert f"{found['branches']['points']} branch points" in row
