"""A wait for room ends at the deadline, or once nobody wants the places any more."""

import threading
import time

import pytest

from isentropic.actors.nodes import reserving
from isentropic.actors.nodes.reserving import Places


class FullGroup:
    """Waits in vain; the caller may give up meanwhile."""

    def __init__(self, given_up=None):
        self.given_up, self.waits = given_up, 0

    def wait(self, seconds):
        self.waits += 1
        if self.given_up is not None and self.waits == 2:
            self.given_up.set()
        return False


def test_a_wait_that_is_given_up_ends(monkeypatch):
    given_up = threading.Event()
    group = FullGroup(given_up)
    monkeypatch.setattr(reserving, "placement_group", lambda bundles: group)
    places = Places(given_up=given_up)
    with pytest.raises(TimeoutError, match="2 engines"):
        places.reserve("2 engines", [{"CPU": 1}], time.monotonic() + 3600)
    assert group.waits == 2
    assert places.groups == [group]  # for `release`


def test_a_wait_ends_at_the_deadline(monkeypatch):
    group = FullGroup()
    monkeypatch.setattr(reserving, "placement_group", lambda bundles: group)
    with pytest.raises(TimeoutError, match="1 rank"):
        Places().reserve("1 rank", [{"CPU": 1}], time.monotonic() - 1)
    assert group.waits == 1
