"""TensorBoard's event files, under tensorboard/ in the run folder."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from isentropic.checks import check_package

FOLDER = "tensorboard"


def check_tensorboard() -> None:
    """Raises ValueError if the package is not installed."""
    check_package(
        "tensorboard",
        extra="tensorboard",
        key="tracking.tensorboard=true",
        instead=", or use tracking.csv=true",
    )


class TensorboardSink:
    """A curve per metric over the steps; the first failure is reported, and turns it off."""

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self._folder = folder / FOLDER
        self._warn = warn
        self._writer: Any = None
        self._is_on = True
        self._last = -1

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Adds the numbers of a step."""
        self._guarded(lambda: self._log(step, metrics))

    def log_alarm(self, record: Mapping[str, Any]) -> None:
        """Adds the message of a raised alarm as text."""
        if record["state"] == "raised" and self._writer is not None:
            self._guarded(
                lambda: self._writer.add_text("alarms", record["message"], record["step"])
            )

    def close(self) -> None:
        if self._writer is not None:
            self._guarded(self._writer.close)

    def _log(self, step: int, metrics: Mapping[str, Any]) -> None:
        if self._writer is not None and step <= self._last:  # trained again
            self._writer.close()
            self._writer = None
        self._last = step
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # late: a second

            # What an earlier attempt wrote of this and later steps is hidden by `purge_step`.
            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        for key, value in metrics.items():
            if isinstance(value, int | float) and math.isfinite(value):
                self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def _guarded(self, call: Callable[[], None]) -> None:
        if not self._is_on:
            return
        try:
            call()
        except Exception as error:  # whatever the package raises must not end a run
            self._is_on = False
            self._warn(
                f"TensorBoard failed and is off from here on; metrics.jsonl has everything. {error}"
            )
