"""The bonus is -H, with a coefficient that is given or set by a rule."""

import pytest
import torch

from isentropic.objectives.terms.entropy_bonus import AdaptiveEntropyConfig, EntropyBonusTerm


def test_value_and_what_is_logged():
    entropy = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    term = EntropyBonusTerm(coef=0.1)
    value = term.value({"entropy": entropy})
    value.sum().backward()
    assert value.tolist() == [-0.5, -2.0] and entropy.grad.tolist() == [-1.0, -1.0]
    assert term.logged(value, 0.1).tolist() == pytest.approx([0.05, 0.2])
    assert not term.logged(value, 0.1).requires_grad


def test_adaptive_coefficient_is_0_until_its_rule_sets_it():
    rule = AdaptiveEntropyConfig(target=0.2, step_size=1e-4, max=5e-3, start=0.0)
    assert EntropyBonusTerm(adaptive=rule).at(1) == 0.0
    assert EntropyBonusTerm(coef=0.3).at(1) == 0.3


def test_refused():
    with pytest.raises(ValueError, match=r"needs either coef or adaptive, got coef=None"):
        EntropyBonusTerm()
    with pytest.raises(ValueError, match=r"terms.entropy_bonus.adaptive.target must be > 0, got 0"):
        AdaptiveEntropyConfig(target=0, step_size=1e-4, max=5e-3, start=0.0)
