"""All tokens in canonical order go in, each microbatch gets its own gradients back."""

import pytest
import torch
import torch.distributed as dist

from isentropic.learner.minibatch import minibatch_gradients
from isentropic.objectives.loss.leaves import LeafResult
from isentropic.records import MicroBatch


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
