"""How tests get an engine that needs a process of its own: a process has one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PLATFORM = Path(__file__).resolve().parents[2] / "platform"


@pytest.fixture
def printed_by():
    """Runs a script of this folder with one argument; returns the JSON of the last line that it prints."""

    def run(script, argument, *, timeout_s):
        environment = os.environ | {"PYTHONPATH": str(PLATFORM), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, Path(__file__).with_name(script), argument]
        ran = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout_s
        )
        assert ran.returncode == 0, ran.stderr[-3000:]
        return json.loads(ran.stdout.splitlines()[-1])

    return run
