"""Small tensors are gathered together, to the bit of each alone."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from isentropic.weights.gathering import gather

PLATFORM = Path(__file__).parents[2] / "platform"


def test_tensors_of_one_rank_stay_what_they_are():
    tensor = torch.ones(3, requires_grad=True)
    (got,) = gather([tensor], torch.float32)
    assert got.data_ptr() == tensor.data_ptr()
    assert not got.requires_grad


def test_ranks_gather_what_was_sharded(tmp_path):
    """Seven shapes on three ranks, with a tensor that is not sharded and one that all have."""
    script = Path(__file__).with_name("gathering_ranks.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path],
        env=os.environ | {"PYTHONPATH": str(PLATFORM)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert len([*tmp_path.glob("done *")]) == 3
