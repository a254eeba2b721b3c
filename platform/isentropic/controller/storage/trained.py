"""The rows of what was trained on, for a loop that does not ask its method for fates."""

from collections.abc import Sequence
from pathlib import Path

from isentropic.controller.storage.fates import write_fates
from isentropic.methods.fates import Fate
from isentropic.records import Sample


def write_trained(folder: Path, step: int, samples: Sequence[Sample]) -> Path:
    """See `write_fates`."""
    return write_fates(
        folder,
        step,
        [Fate(name="trained", rollout=sample.rollout, sample=sample) for sample in samples],
    )
