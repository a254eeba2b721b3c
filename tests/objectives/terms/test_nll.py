"""The NLL is -logprob, weighed by `nll_weight`."""

import pytest
import torch

from isentropic.objectives.terms.nll import NllTerm


def test_value():
    logprob = torch.tensor([-1.0, -3.0], dtype=torch.float64)
    term = NllTerm(coef=0.1)
    assert term.value({"logprob": logprob}).tolist() == [1.0, 3.0]
    assert term.weight == "nll_weight" and term.logged(logprob, 0.1) is None


def test_refused():
    with pytest.raises(ValueError, match=r"terms.nll.coef must be >= 0, got -1"):
        NllTerm(coef=-1)
