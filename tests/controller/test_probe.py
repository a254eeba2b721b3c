"""The gap between engine and learner on the same tokens, and the limit on it."""

from dataclasses import replace

import numpy as np
import pytest

from isentropic.controller.probe import check_probe, probe_gap, probe_max, token_gaps
from isentropic.records import Prompt, Rollout, RolloutKey, TokenScores


def probe_of(sample, *logprobs):
    count = len(logprobs)
    return Rollout(
        key=RolloutKey("probe/3", 0, 0, sample),
        prompt=Prompt(prompt_id="p", messages=(), answer=""),
        token_ids=np.arange(count),
        turns=((0, count),),
        rollout_logprob=np.array(logprobs, dtype=np.float32),
        temperature=1.0,
        seed=0,
        finish_reason="stop",
        step=3,
        policy_version=3,
    )


def scores_of(*logprobs):
    values = np.array(logprobs, dtype=np.float32)
    return TokenScores(logprob=values, entropy=values, sensitivity=values, sum_p2=values)


PROBE = [probe_of(0, -1.0, -2.0), probe_of(1, -0.5)]
SCORES = {PROBE[0].key: scores_of(-1.0, -1.75), PROBE[1].key: scores_of(-0.625)}


def test_the_gap_is_the_largest_of_all_tokens_in_either_direction():
    assert probe_max(token_gaps(PROBE, SCORES)) == 0.25
    lower = SCORES | {PROBE[1].key: replace(SCORES[PROBE[1].key], logprob=np.float32([-1.0]))}
    assert probe_max(token_gaps(PROBE, lower)) == 0.5


@pytest.mark.parametrize(
    ("gaps", "mean"),
    [
        pytest.param([0.5] * 32, 0.5, id="a mean"),
        pytest.param([9.0] + [0.0] * 31, 1 / 32, id="a token counts as one nat at most"),
        pytest.param([0.8, 0.8], 0.1, id="two tokens are no sample: as if there were 16"),
    ],
)
def test_the_mean_is_robust(gaps, mean):
    assert probe_gap(np.array(gaps)) == pytest.approx(mean)


def test_without_a_probe_there_is_no_gap():
    assert np.isnan(probe_max(token_gaps([], SCORES))) and np.isnan(probe_gap(np.zeros(0)))
    for exact in (True, False):  # nothing was sampled: nothing is wrong
        check_probe([], SCORES, tolerance=0.0, exact=exact)


def test_a_gap_beyond_the_tolerance_names_both_keys_to_look_at():
    check_probe(PROBE, SCORES, tolerance=0.25, exact=True)
    with pytest.raises(
        RuntimeError, match=r"0\.25 nats off.*probe_tolerance=0\.2 .*learner\.dtype"
    ):
        check_probe(PROBE, SCORES, tolerance=0.2, exact=True)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("wrong", [np.nan, -np.inf])
def test_what_is_no_number_stops_a_run(exact, wrong):
    """No comparison with NaN is true: the engine whose weights give none must not pass."""
    probe = [PROBE[0], probe_of(1, wrong)]
    scores = SCORES | {probe[1].key: scores_of(-1.0)}
    with pytest.raises(RuntimeError, match=r"are (nan|inf) nats off the learner"):
        check_probe(probe, scores, tolerance=0.25, exact=exact)


def test_in_bfloat16_one_token_does_not_stop_a_run_but_wrong_weights_do():
    rng = np.random.default_rng(0)
    logprob = -rng.random(32)
    probe, scores = [probe_of(0, *logprob)], {}
    noise = rng.standard_t(2, 32) * 0.007
    noise[5] = 2.0
    scores[probe[0].key] = scores_of(*(logprob + noise))
    check_probe(probe, scores, tolerance=0.3, exact=False)
    with pytest.raises(RuntimeError, match=r"2 nats off"):
        check_probe(probe, scores, tolerance=0.3, exact=True)
    scores[probe[0].key] = scores_of(*(logprob - rng.exponential(2.0, 32)))
    with pytest.raises(RuntimeError, match=r"in the mean .*probe_tolerance=0\.3"):
        check_probe(probe, scores, tolerance=0.3, exact=False)
