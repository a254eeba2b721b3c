"""A start that misses its deadline is told from one that fails."""

import pytest

from isentropic.actors.launch import start_explained
from isentropic.controller.protocols import LearnerLost, NotStarted, WaitError


def lost(cause):
    error = LearnerLost(str(cause))
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        pytest.param(WaitError("engine 0 is late."), NotStarted, id="an engine is late"),
        pytest.param(lost(WaitError("rank 0 is late.")), NotStarted, id="a rank is late"),
        pytest.param(lost(RuntimeError("rank 0 died")), LearnerLost, id="a rank died"),
        pytest.param(ValueError("no such model"), ValueError, id="refused"),
    ],
)
def test_only_a_missed_deadline_may_be_tried_again(error, raised):
    with pytest.raises(raised) as caught, start_explained():
        raise error
    assert type(caught.value) is raised
    assert raised is not NotStarted or "cluster.startup_timeout_s" in str(caught.value)
