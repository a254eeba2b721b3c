"""Checkpoints of a run that goes on: copied at once, written while the next steps run."""

import asyncio
import copy
import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isentropic.config import Config
from isentropic.controller.protocols import LearnerGroup
from isentropic.controller.storage import checkpoints
from isentropic.controller.storage.checkpoints import Manifest
from isentropic.metrics.sinks.jsonl import sync_logs


class Saver:
    """Writes one checkpoint at a time.

    The loop waits for the copies alone. Writing, making durable and hashing take several times as long, and the
    longer the larger the model; of a run that is killed in the meantime the checkpoint before it is the last one.
    """

    def __init__(
        self, config: Config, learner: LearnerGroup, folder: Path, warn: Callable[[str], None]
    ) -> None:
        """folder: of all checkpoints; warn: told of those that found no room."""
        self._last, self._keep_last = config.run.steps, config.checkpoint.keep_last
        self._learner, self._folder, self._warn = learner, folder, warn
        self._step = 0
        self._verified: dict[Path, checkpoints.Signature] = {}
        self._writing: asyncio.Task | None = None

    async def begin(self, manifest: Manifest, state: dict[str, Any], keep: set[int]) -> None:
        """Copies the learner's state and `state`; the checkpoint before it is complete, or given up.

        Args:
            manifest: without its files.
            keep: the steps whose checkpoints stay, beside the newest ones.
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
                self._write(temporary, manifest, copy.deepcopy(state), keep)
            )

    async def finish(self) -> None:
        """Returns when the last checkpoint is complete. No room for it is told; at the last step it is a fault."""
        writing, self._writing = self._writing, None
        if writing is not None:
            try:
                await writing
            except OSError as error:
                self._give_up(error)

    async def look(self) -> None:
        """Tells what became of the last checkpoint, where that is known."""
        if self._writing is not None and self._writing.done():
            await self.finish()

    async def settle(self) -> None:
        """Returns when nothing is being written, whatever came of it."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)

    def cancel(self) -> None:
        """The run ends now: nothing is waited for."""
        if self._writing is not None:
            self._writing.cancel()

    async def _write(
        self, temporary: Path, manifest: Manifest, state: dict[str, Any], keep: set[int]
    ) -> None:
        try:
            await self._learner.end_save()
            # The lines up to this step must not be lost later than the checkpoint that stands on them.
            await asyncio.to_thread(sync_logs, self._folder.parent)
            path = await asyncio.to_thread(
                checkpoints.commit, self._folder, temporary, manifest, state
            )
            self._verified[path] = checkpoints.signature(path)
            await asyncio.to_thread(
                checkpoints.prune, self._folder, self._keep_last, keep, self._verified
            )
        except OSError:
            # Now, not later: the ledger may be waiting for the room.
            checkpoints.discard(self._folder, manifest.step)
            raise

    def _check_room(self) -> None:
        """Half a checkpoint on a disk that it fills would leave the next rollouts no room."""
        need, free = (
            max(checkpoints.sizes(self._folder), default=0),
            shutil.disk_usage(self._folder).free,
        )
        if free < need:
            raise OSError(errno.ENOSPC, "the checkpoint before it has more bytes than are free")

    def _give_up(self, error: OSError) -> None:
        checkpoints.discard(self._folder, self._step)
        if self._step == self._last:
            raise error
        sizes = checkpoints.sizes(self._folder)
        need = f"about {max(sizes) / 2**20:.0f} MiB" if sizes else "an unknown size"
        free = shutil.disk_usage(self._folder).free / 2**20
        reason = " ".join(str(error).split())[:300]
        self._warn(
            f"the checkpoint of step {self._step} could not be written to {self._folder} ({reason}): it needs {need}, "
            f"{free:.0f} MiB are free there. Make room, or set checkpoint.keep_last and keep_best lower. Until one is "
            "written again, a resume goes back to the checkpoint before it; nothing is drawn twice."
        )
