"""Real runs, small ones; the undisturbed run that the others are compared with is made once a session."""

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from training_job import Job


@pytest.fixture
def job(tmp_path, tiny_model_path):
    """Starts jobs; ends what is left of them."""
    started: list[Job] = []

    def start(*overrides: str, folder: str = "run", **arguments: Any) -> Job:
        started.append(Job(tmp_path / folder, tiny_model_path, *overrides, **arguments))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.kill()


@pytest.fixture(scope="session")
def golden(tmp_path_factory, tiny_model_path) -> Path:
    """Five steps with one rollout actor, undisturbed."""
    run = Job(tmp_path_factory.mktemp("golden") / "run", tiny_model_path)
    assert run.wait() == 0, run.text()[-3000:]
    return run.folder


@pytest.fixture(scope="session")
def golden_overlapped(tmp_path_factory, tiny_model_path) -> Path:
    """The same with rollouts one step ahead."""
    run = Job(
        tmp_path_factory.mktemp("overlapped") / "run", tiny_model_path, "rollout.max_staleness=1"
    )
    assert run.wait() == 0, run.text()[-3000:]
    return run.folder
