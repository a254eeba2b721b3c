"""Every token is packed once, ranks keep in step, and results find their way back."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentropic import batching
from isentropic.objectives.tokens.reductions import MicrobatchMean, PerPrompt, TokenMean
from isentropic.records import Prompt, Rollout, RolloutKey, Sample, TokenScores

PROMPT = Prompt(prompt_id="p", messages=(), answer="")


def rollout(draw, turns=((2, 5),), length=5, sample=0):
    token_ids = 100 * draw + np.arange(length)
    tokens = sum(end - start for start, end in turns)
    return Rollout(
        key=RolloutKey("train", draw, 0, sample),
        prompt=PROMPT,
        token_ids=token_ids,
        turns=turns,
        rollout_logprob=np.full(tokens, -1.0, dtype=np.float32),
        temperature=1.0,
        seed=0,
        finish_reason="stop",
        step=1,
        policy_version=0,
        reward=float(draw),
    )


def sample(draw, tokens, index=0):
    base = np.full(tokens, draw, dtype=np.float32)
    return Sample(
        rollout=rollout(draw, ((1, 1 + tokens),), 1 + tokens, index),
        old=TokenScores(
            logprob=base + 0.1, entropy=base + 0.2, sensitivity=base + 0.3, sum_p2=base
        ),
        advantage=base,
        token_weight=np.ones(tokens, dtype=np.float32),
    )


def step_batches(samples, plan, num_ranks=2, budget=8, reduction=TokenMean):
    return batching.step_batches(
        step=3,
        samples=samples,
        plan=plan,
        num_ranks=num_ranks,
        microbatch_tokens=budget,
        reduction=reduction,
        max_response_tokens=10,
        coefficients={"clip_low": 0.2},
    )


@given(
    st.lists(st.integers(1, 30), max_size=40),
    st.integers(1, 4),
    st.integers(1, 60),
    st.sampled_from([0.0, 0.1]),
)
def test_assignment(lengths, num_ranks, budget, attention_share):
    ranks = batching.assign(lengths, num_ranks, budget, attention_share)
    assert sorted(row for rank in ranks for rows in rank for row in rows) == list(
        range(len(lengths))
    )
    assert len({len(rank) for rank in ranks}) == 1
    for rows in (rows for rank in ranks for rows in rank):
        assert sum(lengths[row] for row in rows) <= budget or len(rows) == 1


def test_assignment_is_balanced():
    """Lengths 1 to 8 on two ranks: 18 tokens each, in one microbatch where the budget allows it, else in three."""
    lengths = [1, 2, 3, 4, 5, 6, 7, 8]
    for budget, microbatches in ((18, 1), (8, 3)):
        ranks = batching.assign(lengths, 2, budget)
        assert [len(rank) for rank in ranks] == [microbatches] * 2
        loads = [sum(lengths[row] for rows in rank for row in rows) for rank in ranks]
        assert max(loads) - min(loads) <= 2


@pytest.mark.parametrize(
    ("attention_share", "waiting"),
    [
        pytest.param(1.42e-5, (0.035, 0.055), id="7 B: 28 layers of 28 heads of 128"),
        pytest.param(2.8e-5, (0.06, 0.09), id="1.5 B: 28 layers of 12 heads of 128"),
    ],
)
def test_balance_by_work(attention_share, waiting):
    """Eight ranks, 512 log-normal answers of at most 16k tokens: what they wait for the slowest.

    Balanced by tokens, 4 % at 7 B and 7 to 9 % at 1.5 B; by work less than half a percent.
    """

    def lost(seed, balanced_by):
        drawn = np.random.default_rng(seed).lognormal(np.log(4500), 0.8, 512)
        lengths = (300 + np.minimum(drawn, 16384)).astype(int).tolist()
        plan = batching.assign(lengths, 8, 20480, balanced_by)
        work = np.array(
            [
                [
                    sum(n * (1 + attention_share * n) for n in map(lengths.__getitem__, rows))
                    for rows in rank
                ]
                for rank in plan
            ]
        )
        return work.max(axis=0).sum() / work.mean(axis=0).sum() - 1

    by_tokens = [lost(seed, 0.0) for seed in range(3)]
    assert waiting[0] < min(by_tokens) and max(by_tokens) < waiting[1]
    assert max(lost(seed, attention_share) for seed in range(3)) < 0.005


def test_two_turns_packed_by_hand():
    """Tokens of turn two are predicted from the last token before it, not from the turn before."""
    first, second = rollout(1, ((2, 4), (5, 6)), 7), rollout(2, ((1, 3),), 3)
    ((batch,),) = batching.score_batches([first, second], num_ranks=1, microbatch_tokens=10)
    assert batch.rows.tolist() == [1, 0]  # shorter first
    assert batch.token_ids.tolist() == [200, 201, 202, 100, 101, 102, 103, 104, 105, 106]
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 6]
    assert batch.cu_seqlens.tolist() == [0, 3, 10]
    assert batch.target.tolist() == [201, 202, 102, 103, 105]
    assert batch.predict.tolist() == [0, 1, 4, 5, 7]
    assert batch.sequence_id.tolist() == [0, 0, 1, 1, 1]


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 3), st.integers(2, 20))
def test_results_come_back_to_their_rollouts(tokens, num_ranks, budget):
    rollouts = [rollout(draw, ((1, 1 + count),), 2 + count) for draw, count in enumerate(tokens)]
    batches = batching.score_batches(rollouts, num_ranks, budget)
    results = [
        [
            TokenScores(logprob=b.target, entropy=b.target, sensitivity=b.target, sum_p2=b.predict)
            for b in rank
        ]
        for rank in batches
    ]
    scores = batching.unpack_scores(batches, results, len(rollouts))
    assert [score.logprob.tolist() for score in scores] == [
        r.token_ids[r.response_mask].tolist() for r in rollouts
    ]
    assert all(score.ref_logprob is None for score in scores)


def test_minibatches_are_of_prompts():
    """Five groups in two updates: three and two; a group is never cut; seven updates become five."""
    samples = [sample(draw, 2, index) for draw in (4, 1, 3, 0, 2) for index in (1, 0)]
    drawn = [
        [samples[index].rollout.key.draw for index in part]
        for part in batching.plan_updates(samples, 2)
    ]
    assert drawn == [[0, 0, 1, 1, 2, 2], [3, 3, 4, 4]]
    assert len(batching.plan_updates(samples, 7)) == 5
    assert batching.plan_updates([], 2) == []
    other = [
        [samples[index].rollout.key.draw for index in part]
        for part in batching.plan_updates(samples, 2, order=2)
    ]
    assert sorted(draw for part in other for draw in part) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert other != drawn
    assert all(part == sorted(part) for part in other)
    assert other == [
        [samples[i].rollout.key.draw for i in part]
        for part in batching.plan_updates(samples, 2, order=2)
    ]


def test_loss_weights_are_of_the_whole_minibatch():
    """Responses of 1, 2 and 3 tokens: each token weighs 1/6, however they are packed."""
    samples = [sample(0, 1), sample(1, 2), sample(2, 3)]
    for num_ranks, budget in ((1, 100), (2, 4), (3, 1)):
        batches, (weights,) = step_batches(samples, [[0, 1, 2]], num_ranks, budget)
        assert weights["loss_weight"] == pytest.approx([1 / 6] * 3)
        packed = [batch for rank in batches for batch in rank.updates[0]]
        assert sum(batch.fields["loss_weight"].sum() for batch in packed) == pytest.approx(1.0)


def test_fields_stand_beside_their_tokens():
    samples = [sample(0, 1), sample(1, 2), sample(2, 3)]
    batches, _ = step_batches(samples, [[0, 1], [2]], num_ranks=2, budget=4)
    assert [len(rank.updates) for rank in batches] == [2, 2]
    assert batches[0].coefficients == {"clip_low": 0.2}
    for batch in (batch for rank in batches for update in rank.updates for batch in update):
        draws = batch.target // 100
        for name, offset in {
            "advantage": 0,
            "reward": 0,
            "old_logprob": 0.1,
            "old_entropy": 0.2,
            "sensitivity": 0.3,
        }.items():
            np.testing.assert_allclose(batch.fields[name], draws + np.float32(offset), rtol=1e-6)
        assert not batch.fields["is_teacher"].any()


def test_too_few_sequences_are_filled_up():
    """One sample on two ranks: the other rank gets one token, no response, and the same fields."""
    batches, _ = step_batches([sample(0, 3)], [[0]])
    full, filler = sorted(
        (rank.updates[0][0] for rank in batches), key=lambda batch: batch.rows[0], reverse=True
    )
    assert filler.rows.tolist() == [-1]
    assert filler.token_ids.tolist() == [0]
    assert {name: len(value) for name, value in filler.fields.items()} == dict.fromkeys(
        full.fields, 0
    )


def test_references_of_images_follow_their_sequences():
    seen = replace(PROMPT, media=("a.png", "b.png"))
    rollouts = [replace(rollout(0, ((1, 3),), 6), prompt=seen), rollout(1, ((1, 3),), 4)]

    [[batch]] = batching.score_batches(rollouts, 1, 100)

    assert batch.rows.tolist() == [1, 0]  # by length
    assert batch.media == ((), ("a.png", "b.png"))
    assert batching.score_batches(rollouts[1:], 1, 100)[0][0].media == ()


def test_the_reduction_sees_the_packing():
    """Two responses of 3 tokens lie together, one of 4 alone: means of 6 and 4 tokens, weighed by 2 : 1 responses."""
    samples = [sample(0, 3), sample(1, 4), sample(2, 3)]
    _, (weights,) = step_batches(
        samples, [[0, 1, 2]], num_ranks=1, budget=8, reduction=MicrobatchMean
    )
    assert weights["loss_weight"] == pytest.approx([2 / 3 / 6, 1 / 3 / 4, 2 / 3 / 6])


def test_the_reduction_sees_the_prompts():
    """Draw 5 has one response of 2 tokens, draw 3 two of 1 and 3: half of the loss for each draw.

    A draw of another split is another prompt.
    """
    samples = [sample(5, 2), sample(3, 1, 0), sample(3, 3, 1)]
    per_prompt = PerPrompt(name="per_prompt", within="sequence_mean")
    pack = partial(step_batches, plan=[[1, 2, 0]], num_ranks=1, budget=4, reduction=per_prompt)
    (batch,), (weights,) = pack(samples)
    assert weights["loss_weight"] == pytest.approx([1 / 4, 1 / 12, 1 / 4])
    assert len(batch.updates[0]) > 1
    key = samples[2].rollout.key._replace(split="eval")
    samples[2] = replace(samples[2], rollout=replace(samples[2].rollout, key=key))
    _, (weights,) = pack(samples)
    assert weights["loss_weight"] == pytest.approx([1 / 3, 1 / 9, 1 / 6])


def test_the_nll_weighs_only_correct_responses():
    """Rewards 0, 1, 1/2 on responses of 1, 2 and 3 tokens: the one of reward 1 has 1/2 per token."""
    samples = [sample(0, 1), sample(1, 2), sample(0.5, 3)]
    (batch,), (weights,) = step_batches(samples, [[0, 1, 2]], num_ranks=1, budget=99)
    assert weights["nll_weight"] == [0.0, 0.5, 0.0]
    assert batch.updates[0][0].fields["nll_weight"].tolist() == [0.0, 0.5, 0.5, 0.0, 0.0, 0.0]


def test_rows_of_an_update_are_places_in_its_minibatch():
    """Samples of draws 2, 0, 1: queued ones stand first. Canonical order is by draw."""
    samples = [sample(2, 1), sample(0, 3), sample(1, 2)]
    plan = batching.plan_updates(samples, 1)
    (batch,), _ = step_batches(samples, plan, num_ranks=1, budget=99)
    (packed,) = batch.updates[0]
    assert plan == [[1, 2, 0]]
    assert packed.rows.tolist() == [2, 1, 0]  # shorter first
    assert packed.fields["advantage"].tolist() == [2, 1, 1, 0, 0, 0]


def test_a_response_without_a_prompt_is_refused():
    with pytest.raises(ValueError, match="starts with a response token"):
        batching.score_batches([rollout(0, ((0, 2),), 2)], 1, 8)
