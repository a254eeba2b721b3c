"""Rollouts and samples to packed microbatches, equal in number on every rank, and results back again.

Sequences lie end to end, without padding. Every rank gets equally many microbatches (FSDP's collectives need it),
with fillers of one token where there are too few sequences. Packing depends on lengths and order alone, and the loss
weights come from counts over the whole minibatch, so what a step computes does not depend on how it was packed.
"""

import heapq
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from isentropic.objectives.tokens.reductions import Reduction
from isentropic.records import Ints, MicroBatch, Rollout, Sample, StepBatch, TokenScores

FILLER = -1  # the row of a sequence that stands for nothing


def score_batches(
    rollouts: Sequence[Rollout], num_ranks: int, microbatch_tokens: int
) -> list[list[MicroBatch]]:
    """By rank, the microbatches of an old-policy pass over `rollouts`; empty lists where there are none."""
    plan = assign([len(rollout.token_ids) for rollout in rollouts], num_ranks, microbatch_tokens)
    return [[_pack(rollouts, rows, None) for rows in rank] for rank in plan]


def unpack_scores(
    batches: Sequence[Sequence[MicroBatch]], results: Sequence[Sequence[TokenScores]], count: int
) -> list[TokenScores]:
    """The scores of each of the `count` rollouts, in their order, from those of each microbatch of each rank."""
    names = ["logprob", "entropy", "sensitivity", "sum_p2"]
    if any(scores.ref_logprob is not None for rank in results for scores in rank):
        names.append("ref_logprob")
    columns = [
        [
            np.concatenate([getattr(scores, name) for scores in rank])
            if rank
            else np.zeros(0, np.float32)
            for name in names
        ]
        for rank in results
    ]
    return [
        TokenScores(**dict(zip(names, values, strict=True)))
        for values in unpack_columns(batches, columns, count)
    ]


def unpack_columns(
    batches: Sequence[Sequence[MicroBatch]], columns: Sequence[Sequence[NDArray]], count: int
) -> list[tuple[NDArray, ...]]:
    """Cuts [N] results of each rank, in the order of its packed tokens, into one tuple of arrays a row.

    Args:
        batches: by rank, the microbatches that were computed.
        columns: by rank, any number of arrays [N] over all its response tokens.
        count: rows there are; one that lies in no microbatch gets an empty tuple.
    """
    rows: list[tuple[NDArray, ...]] = [()] * count
    for rank, values in zip(batches, columns, strict=True):
        order = [int(row) for batch in rank for row in batch.rows]
        lengths = [
            length
            for batch in rank
            for length in np.bincount(batch.sequence_id, minlength=len(batch.rows))
        ]
        assert all(len(value) == sum(lengths) for value in values), (
            "a rank answered for other tokens than it was given"
        )
        parts = [np.split(value, np.cumsum(lengths)[:-1]) for value in values]
        for index, row in enumerate(order):
            if row != FILLER:
                rows[row] = tuple(part[index] for part in parts)
    return rows


def plan_updates(samples: Sequence[Sample], updates: int, order: int = 0) -> list[list[int]]:
    """Minibatches of prompts: the step's groups in canonical order, cut into `updates` consecutive parts.

    Another `order` deals the groups out by chance, always the same way.

    A group is never cut. Parts differ by one group at most; fewer groups than parts make fewer updates. Returns the
    indices of the samples of each part, in canonical order.
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
) -> tuple[list[StepBatch], list[tuple[list[float], list[float]]]]:
    """By rank, the updates of a step; and by update, what every token of each of its samples weighs: loss, NLL.

    Args:
        plan: indices into `samples` of each update, as `plan_updates` gives them; `MicroBatch.rows` holds the same.
        reduction: turns response lengths into weights, before any forward pass.
    """
    fields = {index: _fields(samples[index]) for part in plan for index in part}
    assert len({tuple(value) for value in fields.values()}) <= 1, (
        "some samples have reference scores and some have not"
    )
    updates: list[list[tuple[MicroBatch, ...]]] = [[] for _ in range(num_ranks)]
    weights = []
    rollouts = [sample.rollout for sample in samples]
    for part in plan:
        lengths = [len(samples[index].rollout.token_ids) for index in part]
        packed = [
            [[part[place] for place in rows] for rows in rank]
            for rank in assign(lengths, num_ranks, microbatch_tokens)
        ]
        loss, nll = _weights(part, packed, samples, reduction, max_response_tokens)
        weights.append((loss, nll))
        for index, *values in zip(part, loss, nll, strict=True):
            for name, value in zip(("loss_weight", "nll_weight"), values, strict=True):
                fields[index][name] = np.full(
                    len(samples[index].advantage), value, dtype=np.float32
                )
        for rank, microbatches in enumerate(packed):
            updates[rank].append(tuple(_pack(rollouts, rows, fields) for rows in microbatches))
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


def assign(lengths: Sequence[int], num_ranks: int, microbatch_tokens: int) -> list[list[list[int]]]:
    """By rank, by microbatch, the indices of its sequences: balanced, and as few microbatches as fit the budget.

    Longest first, each into the emptiest microbatch; where it does not fit, every rank gets one more and it starts
    again. A sequence longer than the budget goes alone. Microbatches with no sequence come out empty.
    """
    if not lengths:
        return [[] for _ in range(num_ranks)]
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    count = max(
        1,
        -(
            -sum(min(length, microbatch_tokens) for length in lengths)
            // (microbatch_tokens * num_ranks)
        ),
    )
    while (bins := _fill(lengths, order, count * num_ranks, microbatch_tokens)) is None:
        count += 1
    bins.sort(
        key=lambda rows: -sum(lengths[row] for row in rows)
    )  # stable: equal loads stay in order
    ranks: list[list[list[int]]] = [[] for _ in range(num_ranks)]
    for place in range(count):
        # Neighbours in size run at the same time; back and forth, so that no rank always gets the larger one.
        block = bins[place * num_ranks : (place + 1) * num_ranks]
        for rank, rows in enumerate(block if place % 2 == 0 else reversed(block)):
            ranks[rank].append(rows)
    return ranks


def _fill(
    lengths: Sequence[int], order: Iterable[int], count: int, budget: int
) -> list[list[int]] | None:
    """`count` bins with at most `budget` tokens (or one sequence) each, or None where that is too few."""
    bins: list[list[int]] = [[] for _ in range(count)]
    heap = [(0, place) for place in range(count)]
    for index in order:
        load, place = heap[0]
        if load and load + lengths[index] > budget:
            return None
        bins[place].append(index)
        heapq.heapreplace(heap, (load + lengths[index], place))
    return bins


def _weights(
    part: Sequence[int],
    packed: Sequence[Sequence[Sequence[int]]],
    samples: Sequence[Sample],
    reduction: Reduction,
    max_response_tokens: int,
) -> tuple[list[float], list[float]]:
    """For each sample of one minibatch the weight of each of its tokens: in the loss, and in the NLL term.

    The NLL goes over the correct responses alone: those whose task reward is exactly 1.
    """
    place = {
        index: number
        for number, rows in enumerate(rows for rank in packed for rows in rank)
        for index in rows
    }
    lengths = np.array([len(samples[index].advantage) for index in part], dtype=np.int64)
    microbatch_of = np.array([place[index] for index in part], dtype=np.int64)
    correct = np.array([samples[index].rollout.reward == 1 for index in part])
    loss, nll = (
        reduction.weights(
            lengths,
            max_response_tokens=max_response_tokens,
            microbatch_of=microbatch_of,
            chosen=chosen,
        )
        for chosen in (None, correct)
    )
    return [float(value) for value in loss], [float(value) for value in nll]


def _fields(sample: Sample) -> dict[str, NDArray]:
    """[N] each: what objectives may ask for, and the weights of the sample's tokens."""
    tokens = sample.rollout.num_response_tokens
    fields = {
        "advantage": sample.advantage,
        "token_weight": sample.token_weight,
        "rollout_logprob": sample.rollout.rollout_logprob,
        "old_logprob": sample.old.logprob,
        "old_entropy": sample.old.entropy,
        "sensitivity": sample.old.sensitivity,
        "reward": np.full(tokens, sample.rollout.reward, dtype=np.float32),
        "is_teacher": np.full(tokens, sample.rollout.is_teacher),
        "loss_weight": np.zeros(
            tokens, dtype=np.float32
        ),  # this and the next are set for each update
        "nll_weight": np.zeros(tokens, dtype=np.float32),
    }
    if sample.old.ref_logprob is not None:
        fields["ref_logprob"] = sample.old.ref_logprob
    wrong = {name: len(value) for name, value in fields.items() if len(value) != tokens}
    assert not wrong, f"rollout {sample.rollout.key} has {tokens} response tokens, but {wrong}"
    return fields


def _pack(
    rollouts: Sequence[Rollout], rows: Sequence[int], fields: dict[int, dict[str, NDArray]] | None
) -> MicroBatch:
    """One microbatch. Sequences of one length lie side by side, so that attention can take them together."""
    if not rows:
        return _filler(next(iter(fields.values())) if fields else {})
    rows = sorted(rows, key=lambda row: (len(rollouts[row].token_ids), row))
    chosen = [rollouts[row] for row in rows]
    lengths = np.array([len(rollout.token_ids) for rollout in chosen])
    responses = [_response(rollout) for rollout in chosen]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    counts = [len(response) for response in responses]
    token_ids = np.concatenate([rollout.token_ids for rollout in chosen]).astype(
        np.int64, copy=False
    )
    at = np.concatenate(responses) + np.repeat(starts[:-1], counts)
    media = tuple(rollout.prompt.media for rollout in chosen)
    return MicroBatch(
        token_ids=token_ids,
        position_ids=np.arange(starts[-1]) - np.repeat(starts[:-1], lengths),
        cu_seqlens=starts,
        predict=at - 1,
        target=token_ids[at],
        sequence_id=np.repeat(np.arange(len(rows)), counts),
        rows=np.array(rows, dtype=np.int64),
        fields={
            name: np.concatenate([fields[row][name] for row in rows]) for name in fields[rows[0]]
        }
        if fields
        else {},
        media=media if any(media) else (),
    )


def _filler(fields: dict[str, NDArray]) -> MicroBatch:
    """One token and no response: it takes part in the collectives and changes nothing."""
    nothing = np.zeros(0, dtype=np.int64)
    return MicroBatch(
        token_ids=np.zeros(1, dtype=np.int64),
        position_ids=np.zeros(1, dtype=np.int64),
        cu_seqlens=np.array([0, 1]),
        predict=nothing,
        target=nothing,
        sequence_id=nothing,
        rows=np.array([FILLER]),
        fields={name: value[:0] for name, value in fields.items()},
    )


def _response(rollout: Rollout) -> Ints:
    """[N] positions of the tokens that the policy chose."""
    spans = [np.arange(start, end) for start, end in rollout.turns]
    response = np.concatenate(spans) if spans else np.zeros(0, dtype=np.int64)
    if len(response) and response[0] == 0:
        raise ValueError(
            f"rollout {rollout.key} starts with a response token: nothing stands before it that could predict it. "
            "Give the prompt at least one token, for example a start-of-text token."
        )
    return response
