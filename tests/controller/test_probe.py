"""The gap between engine and learner on the same tokens, and the limit on it."""

from dataclasses import replace

import numpy as np
import pytest

from isentropic.controller.probe import check_probe, probe_gap
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
    assert probe_gap(PROBE, SCORES) == 0.25
    lower = SCORES | {PROBE[1].key: replace(SCORES[PROBE[1].key], logprob=np.float32([-1.0]))}
    assert probe_gap(PROBE, lower) == 0.5


def test_without_a_probe_there_is_no_gap():
    assert np.isnan(probe_gap([], SCORES))
    check_probe([], SCORES, tolerance=0.0)  # nothing was sampled: nothing is wrong


def test_a_gap_beyond_the_tolerance_names_both_keys_to_look_at():
    check_probe(PROBE, SCORES, tolerance=0.25)
    with pytest.raises(
        RuntimeError, match=r"0\.25 nats off.*probe_tolerance=0\.2 .*learner\.dtype"
    ):
        check_probe(PROBE, SCORES, tolerance=0.2)
