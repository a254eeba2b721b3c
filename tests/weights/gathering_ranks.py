"""Three ranks gather tensors of many shapes: python gathering_ranks.py <folder>"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from isentropic.weights.gathering import gather

WORLD = 3
# Some ranks have fewer rows than others, or none.
SHAPES = [(1,), (2,), (3, 5), (7, 2, 2), (4,), (9, 1), (8, 6)]


def one_rank(rank: int, folder: Path, world: int) -> None:
    """Writes what it gathered, and how often; checks it against DTensor's own way."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    mesh = init_device_mesh("cpu", (world,))
    torch.manual_seed(0)
    whole = [torch.randn(shape) for shape in SHAPES]
    tensors = [distribute_tensor(tensor, mesh, [Shard(0)]) for tensor in whole]
    mixed = [torch.arange(4.0), distribute_tensor(whole[3], mesh, [Replicate()]), *tensors]
    for dtype in (torch.float32, torch.bfloat16):
        with CommDebugMode() as comm:
            found = gather(mixed, dtype)
        # None but the one, and no communication of DTensor's own.
        assert comm.get_total_counts() == 1, comm.get_comm_counts()
        for got, tensor in zip(found, [torch.arange(4.0), whole[3], *whole], strict=True):
            assert got.dtype == dtype and not isinstance(got, DTensor)
            assert torch.equal(got, tensor.to(dtype)), (got, tensor)
    (folder / f"done {rank}").touch()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    mp.start_processes(one_rank, (Path(sys.argv[1]), WORLD), WORLD, start_method="fork")
