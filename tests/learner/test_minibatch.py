"""All tokens in canonical order go in, each microbatch gets its own gradients back."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist

from isentropic import batching
from isentropic.learner.minibatch import minibatch_gradients
from isentropic.metrics.counterfactual import loss_fields
from isentropic.metrics.tokens import token_table
from isentropic.objectives.clip import ClipConfig
from isentropic.objectives.covariance.clip_cov import ClipCovConfig
from isentropic.objectives.loss.leaves import LeafResult, leaf_gradients
from isentropic.objectives.over.steer import SteerConfig
from isentropic.objectives.tokens.reductions import TokenMean
from isentropic.records import MicroBatch, Prompt, Rollout, RolloutKey, Sample, TokenScores


@pytest.fixture(autouse=True)
def alone():
    """A group of one rank; where an engine of this session has made one already, that."""
    own = not dist.is_initialized()
    if own:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    if own:
        dist.destroy_process_group()


def microbatch(rows, counts):
    sequence_id = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(counts)).numpy()
    nothing = torch.zeros(0, dtype=torch.long).numpy()
    return MicroBatch(
        token_ids=nothing,
        position_ids=nothing,
        cu_seqlens=nothing,
        predict=nothing,
        target=nothing,
        sequence_id=sequence_id,
        rows=torch.tensor(rows).numpy(),
    )


def test_canonical_order():
    """Rows 4 and 1 in one pack, a filler, row 2: seen as 1, 1, 2, 4; the gradient is ten times the place there."""
    batches = [microbatch([4, 1], [1, 2]), microbatch([-1], [0]), microbatch([2], [1])]
    logprob = [torch.tensor([-4.0, -1.1, -1.2]), torch.zeros(0), torch.tensor([-2.0])]
    fields = [
        {
            "logprob": value,
            "entropy": -value,
            "is_teacher": value < -3,
            "sequence_id": torch.zeros(0),
        }
        for value in logprob
    ]
    seen = {}

    def leaves(whole):
        seen.update(whole)
        place = 10.0 * torch.arange(4.0)
        return LeafResult(torch.tensor(7.0), {}, place, place + 1)

    gradients, loss = minibatch_gradients(batches, fields, leaves)
    torch.testing.assert_close(seen["logprob"], torch.tensor([-1.1, -1.2, -2.0, -4.0]))
    assert seen["sequence_id"].tolist() == [0, 0, 1, 2]
    assert seen["is_teacher"].tolist() == [False, False, False, True]
    assert [d_logprob.tolist() for d_logprob, _ in gradients] == [[30.0, 0.0, 10.0], [], [20.0]]
    assert [d_entropy.tolist() for _, d_entropy in gradients] == [[31.0, 1.0, 11.0], [], [21.0]]
    assert loss == 7


CLIP_COV = ClipCovConfig(
    name="clip_cov",
    ratio="token",
    clip_low=None,
    clip_high=None,
    dual_clip=None,
    share=0.1,
    cov_low=-99.0,
    cov_high=99.0,
)


def sample(draw, index, source):
    rng = np.random.default_rng((draw, index))
    tokens = int(rng.integers(1, 12))

    def numbers():
        return rng.normal(size=tokens).astype(np.float32)

    rollout = Rollout(
        key=RolloutKey("train", draw, 0, index),
        prompt=Prompt(prompt_id=str(draw), messages=(), answer=""),
        token_ids=rng.integers(9, size=tokens + 1),
        turns=((1, 1 + tokens),),
        rollout_logprob=numbers(),
        temperature=1.0,
        seed=0,
        finish_reason="stop",
        step=1,
        policy_version=0,
        reward=1.0,
    )
    old = TokenScores(logprob=numbers(), entropy=numbers(), sensitivity=numbers(), sum_p2=numbers())
    weight = np.ones(tokens, dtype=np.float32)
    return Sample(rollout=rollout, old=old, advantage=numbers(), token_weight=weight, source=source)


def as_tensors(batch):
    """The fields of one microbatch as a learner has them, on policy."""
    fields = {name: torch.from_numpy(values) for name, values in batch.fields.items()}
    fields |= {"logprob": fields["old_logprob"], "entropy": fields["old_entropy"]}
    return fields | {"sequence_id": torch.from_numpy(batch.sequence_id)}


def trained_and_seen(objective, microbatch_tokens=20):
    """Metrics [N] of an objective in the update and in the accounting, and how many microbatches."""
    queued = [sample(draw, index, "queue") for draw in (7, 3) for index in (1, 0)]
    new = [sample(draw, index, "new") for draw in (5, 1, 2) for index in (0, 1)]
    samples = queued + new
    (members,) = plan = batching.plan_updates(samples, 1)
    (batch,), (weights,) = batching.step_batches(
        step=1,
        samples=samples,
        plan=plan,
        num_ranks=1,
        microbatch_tokens=microbatch_tokens,
        reduction=TokenMean(name="token_mean"),
        max_response_tokens=20,
        coefficients=objective.at(1),
    )
    microbatches = batch.updates[0]
    fields = [as_tensors(packed) for packed in microbatches]
    gradients = partial(leaf_gradients, objective, objective.at(1), seed=5)
    trained = {}

    def leaves(whole):
        result = gradients(whole)
        trained.update(result.metrics | {"advantage": whole["advantage"]})
        return result

    minibatch_gradients(microbatches, fields, leaves)

    arrays = [
        [np.concatenate([f[name].numpy() for f in fields]) for name in ("logprob", "entropy")]
    ]
    rows = batching.unpack_columns([microbatches], arrays, len(members))
    table = token_table(
        [samples[member] for member in members],
        weights=weights,
        logprob=np.concatenate([logprob for logprob, _ in rows]),
        entropy=np.concatenate([entropy for _, entropy in rows]),
    )
    assert trained["advantage"].tolist() == table.advantage.tolist()
    return trained, gradients(loss_fields(table)).metrics, len(microbatches)


def test_the_metrics_see_the_draw_that_trained():
    """The queue puts samples of later draws before those of earlier ones; Clip-Cov draws by place."""
    trained, seen, microbatches = trained_and_seen(CLIP_COV)
    assert microbatches > 1 and trained["clip_cov/frac"].sum() >= 2
    assert trained["clip_cov/frac"].tolist() == seen["clip_cov/frac"].tolist()


def test_a_microbatch_of_steer_is_counted_in_responses_and_never_packed():
    """The same weights in the metrics, and however the learner cuts the minibatch."""
    base = ClipConfig(name="clip", ratio="token", clip_low=0.2, clip_high=0.2, dual_clip=None)
    choices = {"metric": "exact", "mapping": "exponential", "skip_silenced": True}
    numbers = {"weight_min": 0.7, "weight_max": 1.2, "floor": 0.0, "quantile": 1.0}
    by_size = {
        size: SteerConfig(
            name="steer", ratio="token", base=base, microbatch=size, **numbers, **choices
        )
        for size in (3, None)
    }
    trained, seen, microbatches = trained_and_seen(by_size[3], microbatch_tokens=20)
    weights = trained["steer_weight/mean"]
    assert weights.tolist() == pytest.approx(seen["steer_weight/mean"].tolist(), rel=1e-6)
    packed, _, others = trained_and_seen(by_size[3], microbatch_tokens=40)
    assert 1 < others < microbatches
    assert packed["steer_weight/mean"].tolist() == weights.tolist()
    # Ten responses, four blocks: a largest change each, and one in all for the whole minibatch.
    largest = torch.tensor(0.7)
    assert weights.isclose(largest).sum() == 4
    whole, _, _ = trained_and_seen(by_size[None])
    assert whole["steer_weight/mean"].isclose(largest).sum() == 1
