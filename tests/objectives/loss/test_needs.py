"""What the learner has to bring, by objective and terms."""

import pytest

from isentropic.objectives import BapoConfig, ClipConfig
from isentropic.objectives.dppo_tv import DppoTvConfig
from isentropic.objectives.loss.needs import ALWAYS, needs_reference, required_fields
from isentropic.objectives.loss.own import OwnObjectiveConfig
from isentropic.objectives.over.erc import ErcConfig
from isentropic.objectives.terms import EntropyBonusTerm, KlTerm, NllTerm, TermsConfig

BOUNDS = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}
CLIP = ClipConfig(name="clip", ratio="token", **BOUNDS)


def test_of_an_objective():
    assert required_fields(CLIP) == ALWAYS
    sequence = ClipConfig(name="clip", ratio="sequence", **BOUNDS)
    assert required_fields(sequence) == ALWAYS | {"sequence_id"}
    over = ErcConfig(name="erc", ratio="token", band_low=0.9, band_high=1.1, base=CLIP)
    assert required_fields(over) == ALWAYS | {"entropy", "old_entropy"}


@pytest.mark.parametrize(
    ("term", "added"),
    [
        ({"kl": KlTerm(estimator="k3", coef=0.1)}, {"ref_logprob"}),
        ({"entropy_bonus": EntropyBonusTerm(coef=0.1)}, {"entropy"}),
        ({"nll": NllTerm(coef=0.1)}, {"nll_weight"}),
        ({}, set()),
    ],
    ids=["kl", "entropy_bonus", "nll", "none"],
)
def test_of_a_term(term, added):
    assert required_fields(CLIP, TermsConfig(name="x", **term)) == ALWAYS | added


def test_an_objective_over_another_needs_what_both_need():
    inner = DppoTvConfig(name="dppo_tv", ratio="token", delta=0.1, square_coef=0.0)
    over = ErcConfig(name="erc", ratio="token", band_low=0.9, band_high=1.1, base=inner)
    assert over.token_fields == {"entropy", "old_entropy", "logprob", "old_logprob"}
    assert not over.needs_minibatch
    bounds = {"c_low": 0.6, "c_low_max": 0.9, "c_high": 1.2, "c_high_max": 3.0}
    bapo = BapoConfig(
        name="bapo", ratio="token", **bounds, step=0.05, target_ratio=1.0, dual_clip=None
    )
    assert ErcConfig(
        name="erc", ratio="token", band_low=0.9, band_high=1.1, base=bapo
    ).needs_minibatch


def test_the_reference_is_kept_for_a_term_or_an_objective_that_reads_it(tmp_path):
    assert not needs_reference(CLIP, TermsConfig(name="t"))
    assert needs_reference(CLIP, TermsConfig(name="t", kl=KlTerm(estimator="k3", coef=0.0)))
    (tmp_path / "near.py").write_text(
        "from isentropic.objectives import TokenLoss\n"
        "def near(log_ratio, advantage, *, logprob, ref_logprob):\n"
        "    return TokenLoss((logprob - ref_logprob) ** 2, {})\n"
    )
    own = OwnObjectiveConfig(
        name="own",
        ratio="token",
        file=str(tmp_path / "near.py"),
        function_name="near",
        settings={},
    )
    assert needs_reference(own, TermsConfig(name="t"))
