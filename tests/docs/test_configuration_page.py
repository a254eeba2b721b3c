"""docs/configuration.md is what the code says."""

import re
import subprocess
import sys
from pathlib import Path

import yaml
from omegaconf import OmegaConf

from isentropic.config import flat, is_under
from isentropic.experiments.settings.conf import compose_raw

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
    assert rows["terms.kl.coef"][1].startswith(
        "absent; with `terms=kl`: 0.001; with `terms=kl_grpo`"
    )
    assert rows["learner.lora.rank"][1] == "absent; with `learner=lora`: 32"


def test_a_default_is_what_a_run_without_arguments_has():
    sections = PAGE.read_text(encoding="utf-8").partition("## Slots of a method")[0]
    rows = dict(
        re.findall(r"^\| `([a-z_]+\.[\w.]+)` \| [^|]+ \| ([^|]*) \|", sections, re.MULTILINE)
    )
    values = flat(OmegaConf.to_container(compose_raw(), resolve=False))
    for key, default in rows.items():
        if not any(is_under(name, [key]) for name in values):
            assert default.startswith("absent"), (key, default)
        elif isinstance(value := values.get(key), int | float) and not isinstance(value, bool):
            assert float(default) == value, (key, default)
        elif key in values and "$" not in str(value):
            shown = yaml.safe_load(default.partition("; ")[0].strip("`"))
            assert shown == value or default == "none", (key, default)
