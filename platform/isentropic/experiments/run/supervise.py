"""Keeps a run going when its learner is lost: new ranks, its last checkpoint, same engines."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from isentropic.controller.loop import Controller
from isentropic.controller.protocols import LearnerLost
from isentropic.controller.storage.checkpoints import Manifest
from isentropic.experiments.run.stopping import Stopping

Start = tuple[Path, Manifest] | None


class Restartable(Protocol):
    """The actors of a run, as far as this file needs them."""

    async def restart_learner(self) -> None:
        """Starts new ranks, built as at the start. Raises LearnerLost if they do not come up."""
        ...


async def supervise(
    actors: Restartable,
    make_controller: Callable[[Start], Controller],
    start: Start,
    newest: Callable[[], Start],
    *,
    max_restarts: int,
    stopping: Stopping,
    say: Callable[[str], None],
) -> str | None:
    """Runs to the end; returns why it stopped early, or None.

    The steps since the checkpoint are trained again, from the ledger: what was drawn is not drawn
    again. Without a checkpoint the run goes back to its first step.

    Args:
        make_controller: a new one, its logs cut back to the checkpoint; engines are those of
            before.
        newest: the last whole checkpoint.

    Raises RuntimeError if the learner was lost more than `max_restarts` times.
    """
    restarts = 0
    controller: Controller | None = None
    while True:
        try:
            if restarts:
                await actors.restart_learner()
                start = newest()
            controller = make_controller(start)
            stopping.watch(controller)
            await controller.run(start)
            return controller.stopped
        except LearnerLost as error:
            # An alarm's line is written before its step's checkpoint: another start would not stop.
            if why := stopping.reason or (controller and controller.stopped):
                return why
            if restarts >= max_restarts:
                raise RuntimeError(
                    f"{error} It was restarted {restarts} times already "
                    f"(cluster.max_learner_restarts={max_restarts}). Look at its log for the "
                    "cause; memory is the usual one. The run can go on with resume=auto."
                ) from error
            restarts += 1
            say(
                f"{error}\nThe learner is started again ({restarts} of {max_restarts}), from the "
                "last checkpoint."
            )
