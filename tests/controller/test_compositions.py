"""The compositions of `make results` go through all of a step, on fakes."""

from pathlib import Path

import pytest
import yaml

PRESET = Path(__file__).resolve().parents[2] / "conf" / "sweep" / "results_compositions.yaml"
# OGER's embedded teachers are the real task's, which the fakes do not have.
SETTINGS = {
    label: overrides
    for label, overrides in yaml.safe_load(PRESET.read_text(encoding="utf-8"))["settings"].items()
    if " x " in label and "OGER" not in label
}


@pytest.mark.parametrize("label", SETTINGS)
def test_a_composition_runs(fake_run, label):
    overrides = [each for each in SETTINGS[label] if not each.lstrip("+").startswith("terms")]
    if "UEC-RL" in label:  # the fakes have no reference model: its KL is left out
        terms = "entropy_bonus" if "steered" in label else "none"
        overrides = [*overrides, f"terms={terms}"]
    run = fake_run("experiment=ce_gppo_tiny", *overrides).run()
    assert max(run.lines.lines) == 6
    line = run.lines.lines[6]
    assert any(key.startswith("papo/") for key in line) == ("PAPO" in label)
    assert any(key.startswith("uec/") for key in line) == ("UEC-RL" in label)
    assert any(key.startswith("steer/") for key in line) == ("steered" in label)
