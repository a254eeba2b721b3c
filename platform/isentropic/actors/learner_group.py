"""All learner ranks behind awaitables: `protocols.LearnerGroup` over Ray."""

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError
from torch.distributed import DistError

from isentropic.actors.transport import Published
from isentropic.actors.transport.broadcast import LATE_S, BroadcastWeights, Route
from isentropic.actors.waiting import wait_all, wait_one
from isentropic.controller.protocols import LearnerLost, WaitError
from isentropic.durable import FileEntry
from isentropic.records import MicroBatch, StepBatch, StepResult, TokenScores
from isentropic.weights.channel import Round, RoundBroken

# How gloo and NCCL put it.
PEER_LOST = re.compile(r"gloo/|NCCL|ProcessGroup|Connection (closed|reset) by peer")
MEETINGS = 3  # a port that was free can be taken before rank 0 listens on it


class RayLearnerGroup:
    """Implements `protocols.LearnerGroup`.

    A rank that dies fails the call with its name; the group is then lost.

    Args:
        actors: `LearnerActor` handles; `setup` puts them in the order of their ranks.
        dtype: of published weights, that of the engines.
        timeout_s: deadline of one call.
        context_parallel: ranks in a row that work on one batch together.
        route: to the engines, for `weights.transport=broadcast`; None: through Ray's object store.
    """

    def __init__(
        self,
        actors: Sequence[Any],
        *,
        dtype: str,
        timeout_s: float,
        context_parallel: int = 1,
        route: Route | None = None,
    ) -> None:
        self.num_ranks = len(actors)
        self.num_batches = len(actors) // context_parallel
        self._context_parallel = context_parallel
        self._actors = list(actors)
        self._dtype = dtype
        self._timeout_s = timeout_s
        self._route = route
        self._gathering: asyncio.Task | None = None  # of the last publication, by broadcast

    async def setup(self, timeout_s: float) -> None:
        """Numbers the ranks by where they lie, lets them meet and build their shards."""
        places = await self._all(
            "place", [()] * self.num_ranks, what="starting", timeout_s=timeout_s
        )
        self._actors = [self._actors[index] for index in by_place(places)]
        if self._route is not None:
            self._route.sender = self._actors[0]
        for attempt in range(MEETINGS):
            address = await wait_one(
                self._actors[0].address.remote(),
                who="learner rank 0",
                what="starting",
                timeout_s=timeout_s,
            )
            try:
                await self._all(
                    "setup",
                    [(address, rank) for rank in range(self.num_ranks)],
                    what="building the model",
                    timeout_s=timeout_s,
                )
            except Exception as error:
                if "EADDRINUSE" not in str(error) or attempt == MEETINGS - 1:
                    raise
            else:
                return

    async def score(
        self, batches: Sequence[Sequence[MicroBatch]], *, reference: bool
    ) -> list[list[TokenScores]]:
        return await self._by_batch(
            "score", [(batch, reference) for batch in batches], what="old-policy pass"
        )

    async def update(self, batches: Sequence[StepBatch]) -> list[StepResult]:
        what = f"updates of step {batches[0].step}"
        return await self._by_batch("update", [(batch,) for batch in batches], what=what)

    async def publish(self) -> Published:
        """Returns when rank 0 has all weights; with a route, when the ranks have begun to gather.

        What goes wrong after that is raised where the weights are loaded, and by the next call. If
        the route lends, the ranks gather when engines load: until they have, no update may come.
        """
        if self._route is not None:
            return await self._begin_publishing(self._route)
        answers = await self._all(
            "publish", [(self._dtype,)] * self.num_ranks, what="publishing weights"
        )
        return answers[0]

    async def save(self, folder: Path) -> None:
        await self._all("save", [(folder,)] * self.num_ranks, what=f"saving to {folder}")

    async def offload(self) -> None:
        """Lets every rank move its state to the host."""
        await self._all("offload", [()] * self.num_ranks, what="moving the state off the GPU")

    async def restore(self) -> None:
        """Moves it back."""
        await self._all("restore", [()] * self.num_ranks, what="moving the state to the GPU")

    async def begin_save(self, folder: Path) -> None:
        await self._all(
            "begin_save", [(folder,)] * self.num_ranks, what="copying the state to be saved"
        )

    async def end_save(self) -> dict[str, FileEntry]:
        written = await self._all("end_save", [()] * self.num_ranks, what="writing a checkpoint")
        return {name: entry for files in written for name, entry in files.items()}

    async def load(self, folder: Path) -> None:
        await self._all("load", [(folder,)] * self.num_ranks, what=f"loading {folder}")

    async def configure(self, **settings: Any) -> None:
        """Takes another objective and hyper-parameters: the arguments of `Learner.configure`."""
        await self._all("configure", [(settings,)] * self.num_ranks, what="another configuration")

    async def remember(self) -> None:
        """Lets every rank keep a copy of its state in memory."""
        await self._all("remember", [()] * self.num_ranks, what="keeping a copy of the state")

    async def recall(self) -> None:
        """Goes back to the copy."""
        await self._all("recall", [()] * self.num_ranks, what="going back to the copy of the state")

    async def is_remembered(self) -> bool:
        """Returns True if the state of every rank is its copy, to the bit."""
        return all(
            await self._all(
                "is_remembered", [()] * self.num_ranks, what="comparing the state with its copy"
            )
        )

    async def export(self, folder: Path) -> None:
        """Writes a Hugging Face folder."""
        await self._all("export", [(folder,)] * self.num_ranks, what=f"exporting to {folder}")

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)

    async def _by_batch(self, method: str, arguments: Sequence[tuple], *, what: str) -> list[Any]:
        """Calls `method` with the arguments of each batch on the ranks that work on it together.

        Their answers are the same: the first one's counts.
        """
        shared = [values for values in arguments for _ in range(self._context_parallel)]
        answers = await self._all(method, shared, what=what)
        return answers[:: self._context_parallel]

    async def _begin_publishing(self, route: Route) -> BroadcastWeights:
        await self._gathered()
        [(version, serial, address)] = await self._call(
            "begin_post", [(self._dtype,)], what="publishing weights"
        )
        if route.lends:
            return BroadcastWeights(version, serial, address, route, self._lend)
        posts = [(serial, self._dtype)] * self.num_ranks
        self._gathering = asyncio.ensure_future(self._call("post", posts, what="gathering weights"))
        # Else asyncio complains if nobody asks any more, because the run has ended.
        self._gathering.add_done_callback(lambda task: task.cancelled() or task.exception())
        return BroadcastWeights(version, serial, address, route, route.send, self._gathering)

    async def _lend(self, meeting: Round) -> dict[str, float]:
        """Takes part in a round with every rank; returns the seconds of the slowest."""
        found = await self._call(
            "lend",
            [(meeting, self._dtype)] * self.num_ranks,
            what="gathering weights",
            timeout_s=meeting.timeout_s + 2 * LATE_S,
        )
        return {phase: max(seconds[phase] for seconds in found) for phase in found[0]}

    async def _gathered(self) -> None:
        """Waits for the last publication, once: the ranks work on one call after another."""
        gathering, self._gathering = self._gathering, None
        if gathering is not None:
            await asyncio.shield(gathering)

    async def _all(
        self, method: str, arguments: Sequence[tuple], *, what: str, timeout_s: float | None = None
    ) -> list[Any]:
        """Calls `method` on every rank with its own arguments."""
        assert len(arguments) == self.num_ranks, (
            f"{len(arguments)} batches for {self.num_ranks} ranks"
        )
        await self._gathered()
        return await self._call(method, arguments, what=what, timeout_s=timeout_s)

    async def _call(
        self, method: str, arguments: Sequence[tuple], *, what: str, timeout_s: float | None = None
    ) -> list[Any]:
        """Calls `method` on the first ranks, one for each of `arguments`."""
        actors = self._actors[: len(arguments)]
        refs = [
            getattr(actor, method).remote(*values)
            for actor, values in zip(actors, arguments, strict=True)
        ]
        who = [f"learner rank {rank}" for rank in range(len(actors))]
        deadline = timeout_s or self._timeout_s
        try:
            return await wait_all(refs, who=who, what=what, timeout_s=deadline, actors=actors)
        except (RuntimeError, DistError) as error:
            # A round may be off for what an engine said, whatever that was.
            if is_loss(error) and not isinstance(error, RoundBroken):
                raise LearnerLost(str(error)) from error
            raise


def by_place(places: Sequence[tuple[str, list[str]]]) -> list[int]:
    """Returns the order of actors by node, then by GPU: neighbours in rank are neighbours in place.

    Ray starts them in any order. Rings of NCCL cross from node to node as often as ranks do.

    Args:
        places: node and GPUs of each actor; nodes keep the order in which they first come.
    """
    nodes = list(dict.fromkeys(node for node, _ in places))

    def position(index: int) -> tuple:
        node, gpus = places[index]
        # Numbers by their value; UUIDs and names of MIG parts have one length.
        return nodes.index(node), [(len(gpu), gpu) for gpu in gpus], index

    return sorted(range(len(places)), key=position)


def is_loss(error: BaseException) -> bool:
    """Returns True if a rank died, did not answer, or cannot reach its peers: the group is lost."""
    if isinstance(error, WaitError | DistError) or isinstance(error.__cause__, RayActorError):
        return True
    return PEER_LOST.search(str(error)) is not None
