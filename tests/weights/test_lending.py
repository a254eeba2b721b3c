"""Two ranks lend to two engines on the same CPUs: same bytes, whoever fails, and nothing is left over.

Each side is a thread; the last tests kill a process of either side.
"""

import gc
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from isentropic.weights import lending, parcels
from isentropic.weights.channel import Round, RoundBroken
from isentropic.weights.inbox import Inbox, expected_layout
from isentropic.weights.outbox import Outbox

SHAPES = {"a": (40, 3), "b": (5,), "c": (300,)}
CPU = torch.device("cpu")
WAIT_S = 20.0


def named(seed=0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def lay_out(weights):
    """One tensor per parcel."""
    return parcels.lay_out({n: tuple(weights[n].shape) for n in weights}, torch.float32, limit=1)


def lent_memory() -> list[str]:
    """What this process has mapped or open of lent memory."""
    found = Path("/proc/self/maps").read_text().splitlines()
    for path in list(Path("/proc/self/fd").iterdir()):
        # The listing's own is closed by now.
        with suppress(FileNotFoundError):
            found.append(os.readlink(path))
    return [each for each in found if "memfd:isentropic-weights" in each]


class Sides:
    """Ranks and engines of one round after the other."""

    def __init__(self):
        self.outbox = Outbox("127.0.0.1")  # for its store
        self.inboxes = [Inbox(CPU) for _ in range(2)]
        self.held = [{}, {}]
        self.numbers = iter(range(1, 100))
        self.threads = ThreadPoolExecutor(4)

    def meeting(self, timeout_s=WAIT_S):
        host, port = self.outbox.address
        return Round(
            number=next(self.numbers), serial=1, policy_version=7, host=host, port=port,
            backend="ipc", group="1", size=4, timeout_s=timeout_s, senders=2,
        )  # fmt: skip

    def receive(self, which, meeting, load=None):
        layout = expected_layout(meeting, SHAPES, torch.float32)
        inbox = self.inboxes[which]
        inbox.begin(meeting, 2 + which)
        for index in range(len(layout.parcels)):
            inbox.take(index, load or (lambda pairs: self.held[which].update(pairs)))

    def run(self, *weights, loads=(None, None), timeout_s=WAIT_S):
        """Runs a round, `weights` per rank; returns what each side raised, the ranks first, or None."""
        meeting = self.meeting(timeout_s)
        calls = [
            self.threads.submit(lending.lend, meeting, rank, lay_out(mine), mine.items())
            for rank, mine in enumerate(weights)
        ]
        calls += [
            self.threads.submit(self.receive, which, meeting, load)
            for which, load in enumerate(loads)
        ]
        return [call.exception(timeout=WAIT_S) for call in calls]


@pytest.fixture
def sides():
    sides = Sides()
    yield sides
    sides.threads.shutdown()


def assert_held(held, weights):
    assert held.keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(held[name], tensor), name


def test_round_after_round(sides):
    """Each parcel comes in the memory of the one before; what an engine has kept stays as it was."""
    for seed in range(3):
        assert sides.run(named(seed), named(seed)) == [None] * 4
        for held in sides.held:
            assert_held(held, named(seed))
        assert sides.inboxes[0].seconds.keys() == {"load_s", "check_s"}
        assert lent_memory() == []


def test_no_rank_gathers_the_next_parcel_before_all_engines_have_this_one(sides, monkeypatch):
    """Else an engine reads the next one's bytes, or a rank waits for the others in a collective."""
    events = []

    class Gathered(dict):
        def items(self):
            for name, tensor in super().items():
                events.append(f"gathers {name}")
                yield name, tensor

    class Line(lending.Line):
        def say(self, key, value):
            events.append(key)
            super().say(key, value)

    monkeypatch.setattr("isentropic.weights.inbox.Line", Line)
    assert sides.run(Gathered(named()), Gathered(named())) == [None] * 4
    for index, name in enumerate("bc"):
        before = events[: events.index(f"gathers {name}")]
        assert {f"taken/2/{index}", f"taken/3/{index}"} <= set(before)


def test_a_changed_bit_is_refused_by_name_and_the_next_round_is_whole(sides, monkeypatch):
    honest = lending.fill_parcels

    def damaged(*arguments):
        for index, parcel in enumerate(honest(*arguments)):
            parcel.flat[2] ^= index == 1
            yield parcel

    monkeypatch.setattr(lending, "fill_parcels", damaged)
    *lent, first, second = sides.run(named(), named())
    assert all(isinstance(error, RoundBroken) for error in lent)
    refused = [error for error in (first, second) if isinstance(error, ValueError)]
    assert refused and "weight b has other bytes than were published" in str(refused[0])
    monkeypatch.undo()
    assert sides.run(named(), named()) == [None] * 4
    assert_held(sides.held[0], named())


def test_a_wrong_shape_is_refused_before_anything_is_gathered(sides):
    wrong = {**named(), "b": torch.ones(6)}
    *lent, first, second = sides.run(wrong, wrong)
    assert all(isinstance(error, RoundBroken) for error in lent)
    for error in (first, second):
        assert isinstance(error, ValueError)
        assert "weight b is [6] float32, the engine's model has [5] float32" in str(error)
    assert sides.held == [{}, {}] and lent_memory() == []


def test_weights_that_are_not_finite_end_the_round(sides):
    bad = {**named(), "c": torch.full((300,), float("inf"))}
    errors = sides.run(bad, bad)
    assert any(isinstance(error, ValueError) for error in errors[:2])
    for error in errors[2:]:
        assert isinstance(error, RoundBroken) and "weight c is not finite" in str(error)


def test_an_engine_on_another_device_is_told_where_the_ranks_are(sides, monkeypatch):
    monkeypatch.setattr(lending, "device_name", lambda device: f"GPU {device.index or 0}")
    sides.inboxes = [Inbox(torch.device("cpu", 3)) for _ in range(2)]
    *lent, first, second = sides.run(named(), named())
    assert all(isinstance(error, RoundBroken) for error in lent)
    refused = [error for error in (first, second) if isinstance(error, ValueError)]
    assert refused and "no learner rank is on GPU 3, where an engine is" in str(refused[0])
    assert "they are on GPU 0, GPU 0. Set weights.transport=objects" in str(refused[0])


def test_a_rank_without_an_engine_gives_no_handle(sides, monkeypatch):
    """On a GPU its memory would never be free again: torch waits until each handle was opened."""
    given, honest = [], lending._Memory.handle
    monkeypatch.setattr(
        lending._Memory, "handle", lambda memory: (given.append(memory), honest(memory))[1]
    )
    assert sides.run(named(), named()) == [None] * 4
    assert len(given) == 1  # both engines are on the device of rank 0


def test_memory_that_cannot_be_opened_is_explained(sides, monkeypatch):
    """As in two containers: the file's name says nothing there."""
    honest = lending._mapped
    monkeypatch.setattr(
        lending, "_mapped", lambda handle, device: honest([handle[0] + "9", handle[1]], device)
    )
    *_, first, second = sides.run(named(), named())
    said = [str(error) for error in (first, second) if not isinstance(error, RoundBroken)]
    assert said and "cannot open the memory of learner rank 0 on the CPUs of" in said[0]
    assert "Set weights.transport=objects" in said[0]


def test_nobody_waits_beyond_the_deadline(sides):
    meeting = sides.meeting(timeout_s=0.3)
    with pytest.raises(RoundBroken, match="did not arrive in 0 s"):
        lending.lend(meeting, 0, lay_out(named()), named().items())


CHILD = """
import os, signal, sys, torch
from isentropic.weights import lending, parcels
from isentropic.weights.channel import Round
from isentropic.weights.inbox import Inbox

side, port = sys.argv[1], int(sys.argv[2])
meeting = Round(number=1, serial=1, policy_version=7, host="127.0.0.1", port=port, backend="ipc",
                group="1", size=2, timeout_s=20.0)

def named():
    yield "a", torch.ones(40, 3)
    os.kill(os.getpid(), signal.SIGKILL)

if side == "rank":
    layout = parcels.lay_out({"a": (40, 3), "b": (5,), "c": (300,)}, torch.float32, limit=1)
    lending.lend(meeting, 0, layout, named())
else:
    inbox = Inbox(torch.device("cpu"))
    inbox.begin(meeting, 1)
    inbox.take(0, lambda pairs: os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.fixture
def child(sides):
    """child(side): the one end of a round in a process that kills itself after the first parcel."""
    host, port = sides.outbox.address
    meeting = Round(
        number=1, serial=1, policy_version=7, host=host, port=port, backend="ipc", group="1", size=2,
        timeout_s=WAIT_S,
    )  # fmt: skip
    started = []

    def start(side):
        path = str(Path(lending.__file__).parents[2])
        command = [sys.executable, "-c", CHILD, side, str(port)]
        started.append(subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}))
        return meeting, started[0]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_what_a_killed_rank_lent_is_gone_with_the_round(sides, child):
    """The file has no name in any folder, and an engine lets go of its mapping."""
    meeting, process = child("rank")
    inbox = sides.inboxes[0]
    inbox.begin(meeting, 1)
    inbox.take(0, lambda pairs: sides.held[0].update(pairs))
    assert lent_memory() != []
    assert process.wait(WAIT_S) == -signal.SIGKILL
    sides.outbox.call_off(meeting, "learner rank 0 died")
    with pytest.raises(RoundBroken, match="learner rank 0 died"):
        inbox.take(1, list)
    assert lent_memory() == []
    assert torch.equal(sides.held[0]["a"], torch.ones(40, 3))


def test_what_was_lent_to_a_killed_engine_is_freed(sides, child):
    meeting, process = child("engine")
    lent = sides.threads.submit(lending.lend, meeting, 0, lay_out(named()), named().items())
    assert process.wait(WAIT_S) == -signal.SIGKILL
    sides.outbox.call_off(meeting, "rollout actor 0 died")
    assert "rollout actor 0 died" in str(lent.exception(WAIT_S))
    del lent
    gc.collect()
    assert lent_memory() == []
