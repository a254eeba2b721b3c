"""docs/configuration.md is what the code says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "configuration.md"


def test_the_page_is_current():
    command = [sys.executable, "docs/make_configuration.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_row_has_type_default_bounds_and_meaning():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    table = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    # Several objectives may have a key of one name: the first, ce_gppo, counts.
    rows = {cells[0].strip("`"): cells[1:] for cells in reversed(table)}
    assert rows["rollout.top_p"][:3] == ["number", "1", "> 0, <= 1"]
    assert rows["learner.lr_schedule"][2] == "`constant`, `linear`, `cosine`"
    assert rows["objective.beta1"][:3] == ["coefficient", "0.5", ">= 0"]
    assert rows["papo.alpha"][2] == ">= 0, < 1"
