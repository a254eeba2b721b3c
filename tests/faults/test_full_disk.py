"""A learner that cannot write says so as an OSError, which costs a checkpoint and not the process."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAVE = """
import resource, signal, sys
from pathlib import Path
import torch
from isentropic.learner.state import begin_save, load_state

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model = torch.nn.Linear(200, 200)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.ones(1, 200)).sum().backward()
optimizer.step()
folder = Path(sys.argv[1])


def save(folder):
    begin_save(folder, model, optimizer, 1, 0)()


save(folder / "whole")
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # files may not grow beyond: as on a disk that is full
try:
    save(folder / "torn")
except OSError as error:
    print("OSError", str(error)[:300])
print("version", load_state(folder / "whole", model, optimizer, 0))
"""


def test_no_room_for_the_learner(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-c", SAVE, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "platform")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "OSError" in answer.stdout and str(tmp_path / "torn") in answer.stdout, answer.stderr[
        -2000:
    ]
    assert "version 1" in answer.stdout, "the checkpoint before it is whole"
