"""The benchmark of the driver: its arithmetic by hand, and one small row from end to end."""

import asyncio
import math
from itertools import cycle
from types import SimpleNamespace

import numpy as np
import pytest

from isentropic.records import RolloutKey


@pytest.fixture
def benchmark(benchmark_script):
    return benchmark_script("controller")


@pytest.mark.parametrize(
    ("lengths", "segment", "steps", "idle"),
    [
        pytest.param([1, 3], 0, 9, 1 - 16 / 24, id="whole: half of 8 slots are done after 1 of 3"),
        pytest.param(
            [1, 1, 1, 1, 1, 1, 2, 3], 1, 1, 1 - (16 + 4 + 2) / (8 * (2 + 1 + 1)),
            id="two prompts of 8 in flight: 16 segments in 8 slots, then 4, then 2",
        ),
    ],
)  # fmt: skip
def test_idle_share_by_hand(benchmark, lengths, segment, steps, idle):
    found = benchmark.idle_share(cycle(lengths), samples=8, segment=segment, steps=steps)
    assert found == pytest.approx(idle)


def test_cut_answers_leave_fewer_slots_idle(benchmark):
    """Mean 6k, 16k at most: most slots are idle while the last answers are written.

    A slot is filled again only when the next phase begins, so segments save about half of that.
    """

    def idle(segment):
        lengths = (
            benchmark.answer_tokens("train", draw, sample, 16384)
            for draw in range(10**6)
            for sample in range(benchmark.GROUP)
        )
        return benchmark.idle_share(lengths, samples=512, segment=segment, steps=12)

    assert 0.6 < idle(0) < 0.7
    assert 0.3 < idle(2000) < 0.45


def test_an_engine_has_slots_for_its_share(benchmark):
    """Two engines, 16 samples: the ninth request of a call waits for the first that is done."""
    shape = benchmark.Shape(engines=2, samples=16, steps=1, rate=2e4, longest=64)
    engine = benchmark.Engine(0, shape, 100)
    requests = [
        SimpleNamespace(key=RolloutKey("train", 0, 0, k), token_ids=np.array([1, 0, 5]), max_tokens=20)
        for k in range(9)
    ]  # fmt: skip

    async def last(count):
        return [await one async for one in engine._generate(0, 0, requests[:count])]

    lengths = [min(20, benchmark.answer_tokens("train", 0, k, 64)) for k in range(9)]
    assert min(lengths[:8]) + lengths[8] > max(lengths[:8]), "else waiting makes no difference"
    packed = asyncio.run(last(9))
    assert packed[-1].index[-1] == 8
    assert sum(len(one.index) for one in packed) == 9


def test_a_small_row(benchmark, tmp_path):
    shape = benchmark.Shape(engines=2, samples=32, steps=1, rate=2e4, longest=256)
    row = asyncio.run(benchmark.measure(shape, tmp_path))
    lengths = [
        benchmark.answer_tokens("train", draw, sample, 256)
        for draw in range(4, 8)
        for sample in range(8)
    ]
    assert row["tokens"] == sum(lengths) / 32  # of step 2: the first is the warm-up
    assert all(math.isfinite(value) and value >= 0 for value in row.values())
    assert row["loop_ms"] <= row["all_ms"] and 0 < row["idle"] < 1
    assert {key for key, _ in benchmark.COLUMNS.values()} <= row.keys()
