"""One sender and two receivers over gloo, each in a thread: a round reaches all, or is off for all."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from isentropic.weights import parcels
from isentropic.weights.channel import Line, Round, RoundBroken
from isentropic.weights.inbox import Inbox, expected_layout
from isentropic.weights.outbox import Outbox

SHAPES = {"a": (40, 3), "b": (5,), "c": (300,)}
WAIT_S = 20.0


def named(seed=0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


class Sides:
    """An outbox and two inboxes, which live from round to round as in the actors."""

    def __init__(self):
        self.outbox = Outbox("127.0.0.1")
        self.inboxes = [Inbox(torch.device("cpu")) for _ in range(2)]
        self.held = [{}, {}]
        self.numbers = iter(range(1, 100))
        self.threads = ThreadPoolExecutor(4)

    def publish(self, weights, limit=1):
        """Lays out one tensor per parcel; gathering begins with `outbox.post`."""
        shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        return self.outbox.open(parcels.lay_out(shapes, torch.float32, limit))

    def meeting(self, serial, group="1", receivers=2):
        host, port = self.outbox.address
        return Round(
            number=next(self.numbers), serial=serial, policy_version=7, host=host, port=port,
            backend="gloo", group=group, size=1 + receivers, timeout_s=WAIT_S,
        )  # fmt: skip

    def receive(self, which, meeting, rank, load=None):
        """What an engine does in `receive_weights`."""
        layout = expected_layout(meeting, SHAPES, torch.float32)
        inbox = self.inboxes[which]
        inbox.begin(meeting, rank)
        for index in range(len(layout.parcels)):
            inbox.take(index, load or (lambda pairs: self.held[which].update(pairs)))

    def run(self, meeting, *loads):
        """Sends and receives at once; returns what each raised, the sender first, or None."""
        calls = [self.threads.submit(self.outbox.send, meeting)]
        calls += [
            self.threads.submit(self.receive, which, meeting, 1 + which, load)
            for which, load in enumerate(loads or (None, None))
        ]
        return [call.exception(timeout=WAIT_S) for call in calls]


@pytest.fixture
def sides():
    return Sides()


def assert_held(held, weights):
    assert held.keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(held[name], tensor), name


def test_two_rounds_of_one_group(sides):
    for seed in range(2):
        serial = sides.publish(named(seed))
        sides.outbox.post(serial, named(seed).items())
        assert sides.run(sides.meeting(serial)) == [None, None, None]
        for held in sides.held:
            assert_held(held, named(seed))
        assert sides.inboxes[0].seconds.keys() == {"load_s", "check_s"}


def test_a_parcel_arrives_while_the_next_is_gathered(sides):
    """The second tensor is gathered only after a receiver has loaded the first."""
    serial = sides.publish(named())
    arrived = threading.Event()

    def gathered():
        for name, tensor in named().items():
            if name == "b":
                assert arrived.wait(WAIT_S)
            yield name, tensor

    def load(pairs):
        sides.held[0].update(pairs)
        arrived.set()

    posting = sides.threads.submit(sides.outbox.post, serial, gathered())
    assert sides.run(sides.meeting(serial), load, None) == [None, None, None]
    posting.result()
    assert_held(sides.held[0], named())


def test_an_engine_that_comes_back_gets_what_was_sent_before(sides):
    """The learner has published newer weights since; the draw under the old ones is not over."""
    old, new = sides.publish(named(0)), sides.publish(named(1))
    for seed, serial in enumerate((old, new)):
        sides.outbox.post(serial, named(seed).items())
    assert sides.run(sides.meeting(old, group="2", receivers=1), None) == [None, None]
    assert_held(sides.held[0], named(0))
    assert sides.run(sides.meeting(new, group="3")) == [None, None, None]
    assert_held(sides.held[1], named(1))
    sides.outbox.forget(new)
    assert sides.outbox._posts.keys() == {new}


def test_a_changed_bit_is_refused_by_name_and_the_next_round_is_whole(sides):
    serial = sides.publish(named())
    sides.outbox.post(serial, named().items())
    sides.outbox._posts[serial].parcels[1].flat[2] ^= 1
    sent, *received = sides.run(sides.meeting(serial))
    assert isinstance(sent, RoundBroken)
    assert "weight b has other bytes" in str(received[0] or received[1])
    assert any(isinstance(error, ValueError) for error in received)

    sides.outbox._posts[serial].parcels[1].flat[2] ^= 1
    assert sides.run(sides.meeting(serial, group="2")) == [None, None, None]
    assert_held(sides.held[0], named())


def test_a_wrong_shape_is_refused_before_anything_is_loaded(sides):
    wrong = {**named(), "b": torch.ones(6)}
    serial = sides.publish(wrong)
    sides.outbox.post(serial, wrong.items())
    sent, *received = sides.run(sides.meeting(serial))
    assert isinstance(sent, RoundBroken)
    for error in received:
        assert isinstance(error, ValueError)
        assert "weight b is [6] float32, the engine's model has [5] float32" in str(error)
    assert sides.held == [{}, {}]


def test_a_receiver_that_fails_ends_the_round_for_all(sides):
    serial = sides.publish(named())
    sides.outbox.post(serial, named().items())

    def fail(pairs):
        raise MemoryError("no room")

    sent, first, second = sides.run(sides.meeting(serial), None, fail)
    assert isinstance(second, MemoryError)
    # The first may have been through with its last parcel by then.
    assert first is None or isinstance(first, RoundBroken)
    assert isinstance(sent, RoundBroken) and "no room" in str(sent)


def test_weights_that_cannot_be_gathered_end_the_round(sides):
    bad = {**named(), "c": torch.full((300,), float("inf"))}
    serial = sides.publish(bad)
    with pytest.raises(ValueError, match="weight c is not finite"):
        sides.outbox.post(serial, bad.items())
    sent, *received = sides.run(sides.meeting(serial))
    assert isinstance(sent, ValueError)
    for error in received:
        assert isinstance(error, RoundBroken) and "weight c is not finite" in str(error)


def test_nobody_waits_for_one_that_never_comes(sides):
    """Called off from outside, as the pool does when an engine has died before it joined."""
    serial = sides.publish(named())
    sides.outbox.post(serial, named().items())
    meeting = sides.meeting(serial)
    threading.Timer(0.3, sides.outbox.call_off, (meeting, "rollout actor 1 died")).start()
    sent, received = sides.run(meeting, None)
    for error in (sent, received):
        assert isinstance(error, RoundBroken) and "rollout actor 1 died" in str(error)


def test_nobody_waits_for_one_that_died_while_it_connected(sides):
    """It has come, and is gone before the others reach it."""
    serial = sides.publish(named())
    sides.outbox.post(serial, named().items())
    meeting = sides.meeting(serial)
    Line(meeting).say("here/2", "")
    threading.Timer(0.5, sides.outbox.call_off, (meeting, "rollout actor 1 died")).start()
    start = time.monotonic()
    for error in sides.run(meeting, None):
        assert isinstance(error, RoundBroken) and "rollout actor 1 died" in str(error)
    assert time.monotonic() - start < WAIT_S / 2
