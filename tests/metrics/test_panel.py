"""Panels that are refused, and the one of conf/accounting."""

from pathlib import Path

import pytest
import yaml

from isentropic.metrics.accounting import AccountingConfig
from isentropic.metrics.panel import build_counterfactuals

BOUNDS = {"ratio": "token", "clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}


BOUNDS_OF_GPPO = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}


def test_default_panel_is_whole():
    values = yaml.safe_load(
        (Path(__file__).parents[2] / "conf/accounting/default.yaml").read_text()
    )
    panel = build_counterfactuals(AccountingConfig(**values).counterfactuals)
    assert panel["dapo"].at(1) == {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": None}
    assert panel["gppo"].at(1) == {**BOUNDS_OF_GPPO, "beta1": 1.0, "beta2": 1.0}
    assert set(panel) == {"dapo", "gppo", "cispo"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "clipp", **BOUNDS}, "name must be one of .* got 'clipp'. Did you mean 'clip'"),
        (
            {"name": "clip", **BOUNDS, "clip_hihg": 1},
            "clip_hihg is no key of clip. Did you mean 'clip_high'",
        ),
        (
            {"name": "clip", **BOUNDS, "clip_low": 3},
            "counterfactuals.mine: objective.clip_low must be > 0 and < 1, got 3",
        ),
        ({"name": "clip", "ratio": "token"}, "lacks clip_low, clip_high, dual_clip"),
    ],
)
def test_bad_panels_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        build_counterfactuals({"mine": values})


def test_an_objective_over_another_is_given_with_its_base():
    clip = {"name": "clip", **BOUNDS}
    erc = {"name": "erc", "ratio": "token", "band_low": 0.9, "band_high": 1.1}
    panel = build_counterfactuals({"mine": erc | {"base": clip}})
    assert panel["mine"].base.name == "clip" and panel["mine"].at(1)["band_low"] == 0.9
    with pytest.raises(ValueError, match=r"mine\.base\.name must be one of .*Did you mean 'clip'"):
        build_counterfactuals({"mine": erc | {"base": clip | {"name": "clipp"}}})
