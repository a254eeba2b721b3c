"""A request that an engine would refuse, change or never end is refused by name."""

from dataclasses import replace

import numpy as np
import pytest

from isentropic.records import Request, RolloutKey
from isentropic.rollout.checks import check_request

REQUEST = Request(
    key=RolloutKey("train", 3, 1, 2),
    turn=0,
    token_ids=np.array([1, 2, 3]),
    seed=5,
    temperature=1.0,
    max_tokens=4,
)


def check(**changes):
    check_request(replace(REQUEST, **changes), max_length=8, vocab_size=4)


@pytest.mark.parametrize("temperature", [0.0, 0.01, 2.0])
def test_temperatures_at_their_bounds(temperature):
    check(temperature=temperature)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.001}, "temperature must be 0 .greedy. or >= 0.01, got 0.001"),
        ({"temperature": 2.5}, "temperature must be >= 0 and <= 2, got 2.5"),
        ({"temperature": -1.0}, "temperature must be >= 0 and <= 2, got -1.0"),
        ({"temperature": float("nan")}, "temperature must be >= 0 and <= 2, got nan"),
        ({"max_tokens": 6}, "exceed the window of 8"),
        ({"max_tokens": 0}, "max_tokens must be >= 1"),
        ({"token_ids": np.array([1, 4])}, "token ids run from 1 to 4"),
        ({"token_ids": np.array([], dtype=np.int64)}, "the prompt is empty"),
        ({"seed": -1}, "the seed must be in"),
        ({"media": ("a.png",)}, "reads only text"),
    ],
)
def test_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=rf"request \('train', 3, 1, 2\), turn 0: .*{message}"):
        check(**changes)
