"""The stopwatch of a step."""

import time

import pytest

from isentropic.controller.step import Stopwatch


def test_a_phase_entered_twice_adds_up_and_one_that_fails_counts():
    watch = Stopwatch()
    with watch("update"):
        time.sleep(0.02)
    first = watch.seconds["update"]
    with pytest.raises(KeyError), watch("update"):
        time.sleep(0.02)
        raise KeyError
    watch.stop()
    assert first >= 0.02
    assert watch.seconds["update"] >= first + 0.02
    assert watch.total >= watch.seconds["update"]


def test_each_phase_is_named_when_it_begins():
    begun = []
    watch = Stopwatch(begun.append)
    with watch("waited"), watch("update"):
        pass

    assert begun == ["waited", "update"]
