"""Saves checkpoints while the run goes on: copied at once, written while the next steps run."""

import asyncio
import copy
import errno
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isentropic.config import Config
from isentropic.controller.protocols import LearnerGroup
from isentropic.controller.storage import checkpoints
from isentropic.controller.storage.aside import drop_reached
from isentropic.controller.storage.checkpoints import Manifest
from isentropic.metrics.sinks.jsonl import sync_logs


@dataclass(frozen=True, slots=True)
class Reported:
    """What is known once the line of the checkpoint's step is written."""

    state: dict[str, Any]  # of the reporter
    best: set[int]  # the steps whose checkpoints stay, besides the newest ones


class Saver:
    """Writes one checkpoint at a time.

    The loop waits only for the copies. Writing, syncing and hashing, which each rank does for its
    own files, take several times as long, and grow with the model. If the run is killed meanwhile,
    its last checkpoint is the one before.
    """

    def __init__(
        self, config: Config, learner: LearnerGroup, folder: Path, warn: Callable[[str], None]
    ) -> None:
        """Prepares to save into `folder`.

        Args:
            folder: of all checkpoints.
            warn: gets one sentence for each checkpoint that could not be written.
        """
        self._last = config.run.steps
        self._keep_last = config.checkpoint.keep_last
        self._learner = learner
        self._folder = folder
        self._warn = warn
        self._step = 0
        self._verified: dict[Path, checkpoints.Signature] = {}
        self._writing: asyncio.Task | None = None

    async def begin(
        self, manifest: Manifest, state: dict[str, Any], reported: Awaitable[Reported]
    ) -> None:
        """Copies the learner's state and `state`, and starts to write them.

        Waits first until the checkpoint before it is complete or given up.

        Args:
            manifest: without its files.
            reported: waited for while the run goes on; the checkpoint is not complete before.
        """
        await self.finish()
        self._step = manifest.step
        try:
            temporary = checkpoints.begin(self._folder, manifest.step)
            self._check_room()
            await self._learner.begin_save(temporary / "learner")
        except OSError as error:
            self._give_up(error)
        else:
            self._writing = asyncio.create_task(
                self._write(temporary, manifest, copy.deepcopy(state), reported)
            )

    async def finish(self) -> None:
        """Waits until the last checkpoint is complete.

        A full disk is a warning, except at the last step, where it raises.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            try:
                await writing
            except OSError as error:
                self._give_up(error)

    async def look(self) -> None:
        """Reports what became of the last checkpoint, if it is no longer being written."""
        if self._writing is not None and self._writing.done():
            await self.finish()

    async def settle(self) -> None:
        """Waits until nothing is being written, whether it succeeded or not."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)

    def cancel(self) -> None:
        """Cancels the writing without waiting for it: the run ends now."""
        if self._writing is not None:
            self._writing.cancel()

    async def _write(
        self,
        temporary: Path,
        manifest: Manifest,
        state: dict[str, Any],
        reported: Awaitable[Reported],
    ) -> None:
        try:
            written = await self._learner.end_save()
            report = await reported
            # A resume skips a checkpoint whose metric lines were lost in a crash: sync them first.
            await asyncio.to_thread(sync_logs, self._folder.parent)
            path = await asyncio.to_thread(
                checkpoints.commit,
                self._folder,
                temporary,
                manifest,
                state | {"reporter": report.state},
                {f"learner/{name}": entry for name, entry in written.items()},
            )
            self._verified[path] = checkpoints.signature(path)
            await asyncio.to_thread(
                checkpoints.prune, self._folder, self._keep_last, report.best, self._verified
            )
            await asyncio.to_thread(drop_reached, self._folder.parent, manifest.step)
        except OSError:
            # Now, not later: the ledger may be waiting for this space.
            checkpoints.discard(self._folder, manifest.step)
            raise

    def _check_room(self) -> None:
        """Raises OSError if the disk has less room than the largest checkpoint so far needs."""
        # Half a checkpoint that fills the disk would leave the next rollouts no room.
        need = max(checkpoints.sizes(self._folder), default=0)
        free = shutil.disk_usage(self._folder).free
        if free < need:
            raise OSError(errno.ENOSPC, "the checkpoint before it has more bytes than are free")

    def _give_up(self, error: OSError) -> None:
        """Removes the torn checkpoint and warns; at the last step raises instead."""
        checkpoints.discard(self._folder, self._step)
        if self._step == self._last:
            raise error
        sizes = checkpoints.sizes(self._folder)
        need = f"about {max(sizes) / 2**20:.0f} MiB" if sizes else "an unknown size"
        free = shutil.disk_usage(self._folder).free / 2**20
        reason = " ".join(str(error).split())[:300]
        self._warn(
            f"the checkpoint of step {self._step} could not be written to {self._folder} "
            f"({reason}): it needs {need}, {free:.0f} MiB are free there. Make room, or set "
            "checkpoint.keep_last and keep_best lower. Until one is written again, a resume goes "
            "back to the checkpoint before it; nothing is drawn twice."
        )
