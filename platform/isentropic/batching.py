"""Pack rollouts and samples into microbatches, equally many on every rank, and unpack the results.

Sequences lie end to end, without padding. Every rank gets equally many microbatches (FSDP's
collectives need it), with fillers of one token if there are too few sequences. Packing depends only
on lengths and order, and the loss weights come from counts over the whole minibatch, so what a step
computes does not depend on how it was packed.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from isentropic.columns import WEIGHTS, columns, cut, has, join
from isentropic.objectives.tokens.reductions import Reduction
from isentropic.records import MicroBatch, Rollout, Sample, StepBatch, TokenScores

FILLER = -1  # the row of a sequence that stands for nothing


def score_batches(
    rollouts: Sequence[Rollout],
    num_ranks: int,
    microbatch_tokens: int,
    attention_share: float = 0.0,
) -> list[list[MicroBatch]]:
    """Pack an old-policy pass over `rollouts`: by rank, its microbatches; empty lists for none."""
    lengths = [len(rollout.token_ids) for rollout in rollouts]
    plan = assign(lengths, num_ranks, microbatch_tokens, attention_share)
    return [[_pack(rollouts, rows) for rows in rank] for rank in plan]


def unpack_scores(
    batches: Sequence[Sequence[MicroBatch]], results: Sequence[Sequence[TokenScores]], count: int
) -> list[TokenScores]:
    """Give the scores of each of the `count` rollouts, from those of every rank's microbatches."""
    every = [scores for rank in results for scores in rank]
    names = [
        field.name
        for field in fields(TokenScores)
        if any(getattr(scores, field.name) is not None for scores in every)
    ]
    arrays = [
        [join([getattr(scores, name) for scores in rank]) for name in names] for rank in results
    ]
    return [
        TokenScores(**dict(zip(names, values, strict=True)))
        for values in unpack_columns(batches, arrays, count)
    ]


def unpack_columns(
    batches: Sequence[Sequence[MicroBatch]], arrays: Sequence[Sequence[NDArray]], count: int
) -> list[tuple[NDArray, ...]]:
    """Cut [N] results of each rank, in the order of its packed tokens, into one tuple per row.

    Args:
        batches: by rank, the microbatches that were computed.
        arrays: by rank, any number of arrays [N] over all its response tokens.
        count: rows there are; one that lies in no microbatch gets an empty tuple.
    """
    rows: list[tuple[NDArray, ...]] = [()] * count
    for rank, values in zip(batches, arrays, strict=True):
        order = [int(row) for batch in rank for row in batch.rows]
        lengths = [
            length
            for batch in rank
            for length in np.bincount(batch.sequence_id, minlength=len(batch.rows))
        ]
        assert all(len(value) == sum(lengths) for value in values), (
            "a rank answered for other tokens than it was given"
        )
        parts = [cut(value, lengths) for value in values]
        for index, row in enumerate(order):
            if row != FILLER:
                rows[row] = tuple(part[index] for part in parts)
    return rows


def plan_updates(samples: Sequence[Sample], updates: int, order: int = 0) -> list[list[int]]:
    """Plan minibatches of prompts: the groups in canonical order, cut into `updates` parts.

    Another `order` deals the groups out at random, always the same way.

    A group is never cut. Parts differ by one group at most; fewer groups than parts make fewer
    updates. Returns the indices of the samples of each part, in canonical order.
    """
    groups: dict[tuple[str, int], list[int]] = {}
    for index in sorted(range(len(samples)), key=lambda index: samples[index].rollout.key):
        key = samples[index].rollout.key
        groups.setdefault((key.split, key.draw), []).append(index)
    places = (
        np.random.default_rng(order).permutation(len(groups)) if order else np.arange(len(groups))
    )
    parts = np.array_split(places, min(updates, len(groups))) if groups else []
    members = list(groups.values())
    return [[index for group in sorted(part) for index in members[group]] for part in parts]


def step_batches(
    *,
    step: int,
    samples: Sequence[Sample],
    plan: Sequence[Sequence[int]],
    num_ranks: int,
    microbatch_tokens: int,
    reduction: Reduction,
    max_response_tokens: int,
    coefficients: dict[str, float | None],
    term_coefficients: dict[str, float] | None = None,
    seeds: Sequence[int] = (),
    attention_share: float = 0.0,
) -> tuple[list[StepBatch], list[dict[str, list[float]]]]:
    """Pack the updates of a step: by rank, its batch; and by update, the weights by name.

    A weight is a list: what every token of each of the update's samples weighs.

    Args:
        plan: indices into `samples` of each update, as `plan_updates` gives them.
        reduction: turns response lengths into weights, before any forward pass.
        attention_share: as `assign` takes it.
    """
    chosen = [index for part in plan for index in part]
    assert len({has(samples[index]) for index in chosen}) <= 1, (
        "some samples have reference scores and some have not"
    )
    # Of a filler: as many fields as every other microbatch has, without a token.
    nothing = columns([samples[index] for index in chosen[:1]]) | {
        name: np.zeros(0, dtype=np.float32) for name in WEIGHTS
    }
    nothing = {name: values[:0] for name, values in nothing.items()}
    updates: list[list[tuple[MicroBatch, ...]]] = [[] for _ in range(num_ranks)]
    weights = []
    rollouts = [sample.rollout for sample in samples]
    for part in plan:
        lengths = [len(samples[index].rollout.token_ids) for index in part]
        packed = [
            [[part[place] for place in rows] for rows in rank]
            for rank in assign(lengths, num_ranks, microbatch_tokens, attention_share)
        ]
        weights.append(_weights(part, packed, samples, reduction, max_response_tokens))
        place = {index: number for number, index in enumerate(part)}
        for rank, microbatches in enumerate(packed):
            updates[rank].append(
                tuple(
                    _trained_on(_pack(rollouts, rows), samples, place, weights[-1])
                    if rows
                    else replace(_filler(), fields=nothing)
                    for rows in microbatches
                )
            )
    batches = [
        StepBatch(
            step=step,
            updates=tuple(rank),
            coefficients=dict(coefficients),
            term_coefficients=dict(term_coefficients or {}),
            seeds=tuple(seeds),
        )
        for rank in updates
    ]
    return batches, weights


def assign(
    lengths: Sequence[int],
    num_ranks: int,
    microbatch_tokens: int,
    attention_share: float = 0.0,
) -> list[list[list[int]]]:
    """Deal out sequences: by rank, by microbatch, their indices.

    Balanced, and as few microbatches as fit the budget. Longest first, each into the microbatch
    with the least work that has room for it; if none has, every rank gets one more and it starts
    again. A sequence longer than the budget has a microbatch to itself. Microbatches without a
    sequence come out empty.

    Args:
        attention_share: work of a token's attention per token before it, over the work of its
            weights (`learner.estimate.attention_share`): a sequence of L tokens is
            L * (1 + attention_share * L) work. At 0 tokens are balanced.
    """
    if not lengths:
        return [[] for _ in range(num_ranks)]
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    work = [length * (1 + attention_share * length) for length in lengths]
    total = sum(min(length, microbatch_tokens) for length in lengths)
    count = max(1, -(-total // (microbatch_tokens * num_ranks)))  # rounded up
    while (bins := _fill(lengths, work, order, count * num_ranks, microbatch_tokens)) is None:
        count += 1
    # Stable: equal loads stay in order.
    bins.sort(key=lambda rows: -sum(work[row] for row in rows))
    ranks: list[list[list[int]]] = [[] for _ in range(num_ranks)]
    for place in range(count):
        # Neighbours in size run at the same time; back and forth, so that no rank always gets the
        # larger one.
        block = bins[place * num_ranks : (place + 1) * num_ranks]
        for rank, rows in enumerate(block if place % 2 == 0 else reversed(block)):
            ranks[rank].append(rows)
    return ranks


def _fill(
    lengths: Sequence[int],
    work: Sequence[float],
    order: Sequence[int],
    count: int,
    budget: int,
) -> list[list[int]] | None:
    """Fill `count` bins with at most `budget` tokens (or one sequence) each; None if too few."""
    bins: list[list[int]] = [[] for _ in range(count)]
    tokens = [0] * count
    shortest = lengths[order[-1]]
    heap = [(0.0, place) for place in range(count)]
    for index in order:
        passed = []
        while heap and 0 < tokens[heap[0][1]] > budget - lengths[index]:
            passed.append(heapq.heappop(heap))
        if not heap:
            return None
        load, place = heap[0]
        bins[place].append(index)
        tokens[place] += lengths[index]
        heapq.heapreplace(heap, (load + work[index], place))
        for bin_ in passed:
            # One without room for the shortest is full.
            if tokens[bin_[1]] <= budget - shortest:
                heapq.heappush(heap, bin_)
    return bins


def _weights(
    part: Sequence[int],
    packed: Sequence[Sequence[Sequence[int]]],
    samples: Sequence[Sample],
    reduction: Reduction,
    max_response_tokens: int,
) -> dict[str, list[float]]:
    """By name of the weight, what each token of each sample of one minibatch weighs."""
    place = {
        index: number
        for number, rows in enumerate(rows for rank in packed for rows in rank)
        for index in rows
    }
    lengths = np.array([len(samples[index].advantage) for index in part], dtype=np.int64)
    microbatch_of = np.array([place[index] for index in part], dtype=np.int64)
    prompts: dict[tuple[str, int], int] = {}
    keys = [(key.split, key.draw) for key in (samples[index].rollout.key for index in part)]
    prompt_of = np.array([prompts.setdefault(key, len(prompts)) for key in keys], dtype=np.int64)
    return {
        name: reduction.weights(
            lengths,
            max_response_tokens=max_response_tokens,
            microbatch_of=microbatch_of,
            prompt_of=prompt_of,
            chosen=np.array([counts(samples[index]) for index in part], dtype=bool),
        ).tolist()
        for name, counts in WEIGHTS.items()
    }


def _pack(rollouts: Sequence[Rollout], rows: Sequence[int]) -> MicroBatch:
    """Pack one microbatch, without fields.

    Sequences of one length lie side by side, so that attention can take them together.
    """
    if not rows:
        return _filler()
    rows = sorted(rows, key=lambda row: (len(rollouts[row].token_ids), row))
    chosen = [rollouts[row] for row in rows]
    lengths = [len(rollout.token_ids) for rollout in chosen]
    ends = np.cumsum([0, *lengths])
    places = np.arange(max(lengths))
    spans = [
        (rollout, start, turn)
        for rollout, start in zip(chosen, ends.tolist(), strict=False)
        for turn in _turns(rollout)
    ]
    counts = [rollout.num_response_tokens for rollout in chosen]
    media = tuple(rollout.prompt.media for rollout in chosen)
    return MicroBatch(
        token_ids=join([rollout.token_ids for rollout in chosen]).astype(np.int64, copy=False),
        position_ids=join([places[:length] for length in lengths]),
        cu_seqlens=ends,
        # The token before each response token predicts it.
        predict=join(
            [np.arange(start + begin - 1, start + end - 1) for _, start, (begin, end) in spans],
            np.int64,
        ),
        target=join(
            [rollout.token_ids[begin:end] for rollout, _, (begin, end) in spans], np.int64
        ).astype(np.int64, copy=False),
        sequence_id=np.repeat(np.arange(len(rows)), counts),
        rows=np.array(rows, dtype=np.int64),
        media=media if any(media) else (),
    )


def _trained_on(
    batch: MicroBatch,
    samples: Sequence[Sample],
    place: Mapping[int, int],
    weights: Mapping[str, Sequence[float]],
) -> MicroBatch:
    """Add what an update needs of each token, and number the rows by their places in the minibatch.

    Objectives with minibatch statistics see the tokens in the order of `rows`, and the metrics see
    them in the order of the minibatch: numbered by the list of samples, in which queued and
    replayed ones stand first, the rows of the two would differ, and so would a random draw.
    """
    rows = batch.rows.tolist()
    chosen = [samples[row] for row in rows]
    counts = [len(sample.advantage) for sample in chosen]
    places = [place[row] for row in rows]
    weighed = {
        name: np.repeat(np.array(values, dtype=np.float32)[places], counts)
        for name, values in weights.items()
    }
    return replace(batch, rows=np.array(places, dtype=np.int64), fields=columns(chosen) | weighed)


def _filler() -> MicroBatch:
    """Make one token and no response: it takes part in the collectives and changes nothing."""
    nothing = np.zeros(0, dtype=np.int64)
    return MicroBatch(
        token_ids=np.zeros(1, dtype=np.int64),
        position_ids=np.zeros(1, dtype=np.int64),
        cu_seqlens=np.array([0, 1]),
        predict=nothing,
        target=nothing,
        sequence_id=nothing,
        rows=np.array([FILLER]),
    )


def _turns(rollout: Rollout) -> tuple[tuple[int, int], ...]:
    """Give the spans of the tokens that the policy chose; each has a token before it."""
    if any(start == 0 < end for start, end in rollout.turns):
        raise ValueError(
            f"rollout {rollout.key} starts with a response token: nothing stands before it that "
            "could predict it. Give the prompt at least one token, for example a start-of-text "
            "token."
        )
    return rollout.turns
