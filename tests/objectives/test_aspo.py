"""ASPO's slopes: the inverse ratio for rewarded tokens, the ratio for punished ones."""

import pytest

from isentropic.objectives.aspo import AspoConfig, aspo

PAPER = {"clip_low": 0.2, "clip_high": 0.2, "inverse_max": 3.0, "dual_clip": 3.0}


@pytest.mark.parametrize(
    ("advantage", "ratio", "slope"),
    [
        pytest.param(1.0, 0.2, -3.0, id="rewarded, far below: capped, the gradient kept"),
        pytest.param(1.0, 0.5, -2.0, id="rewarded, below: pulled up twice as hard"),
        pytest.param(1.0, 1.0, -1.0, id="on policy"),
        pytest.param(1.0, 1.1, -1 / 1.1, id="rewarded, above: less"),
        pytest.param(2.0, 1.3, 0.0, id="rewarded, past the bound: silent"),
        pytest.param(-1.0, 0.5, 0.0, id="punished, past the bound: silent"),
        pytest.param(-1.0, 0.9, 0.9, id="punished, inside"),
        pytest.param(-1.0, 1.1, 1.1, id="punished, above: still pulled down"),
        pytest.param(-1.0, 4.0, 0.0, id="punished, past the dual clip: silent"),
    ],
)
def test_slope(advantage, ratio, slope, at, close):
    loss, slopes, _ = at(aspo, [ratio], [advantage], **PAPER)
    assert slopes == close([slope])
    if advantage > 0:  # the loss is its own slope but where it is silent
        assert loss == close([-min(1 / ratio, 3.0) * advantage])


def test_bounds_of_the_settings():
    good = {"name": "aspo", "ratio": "token", **PAPER}
    AspoConfig(**good)
    with pytest.raises(ValueError, match=r"objective\.inverse_max must be >= 1, got 0\.5"):
        AspoConfig(**{**good, "inverse_max": 0.5})
