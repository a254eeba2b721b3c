"""The benchmark of the driver: its arithmetic by hand, and one small row from end to end."""

import asyncio
import importlib.util
import math
import sys
from itertools import cycle
from pathlib import Path

import pytest

SPEC = importlib.util.spec_from_file_location(
    "controller_benchmark", Path(__file__).resolve().parents[2] / "benchmarks" / "controller.py"
)


@pytest.fixture(scope="module")
def benchmark():
    module = importlib.util.module_from_spec(SPEC)
    path = list(sys.path)
    sys.modules[SPEC.name] = module
    SPEC.loader.exec_module(module)
    sys.path[:] = path  # it puts `platform` first, as a script must
    return module


@pytest.mark.parametrize(
    ("segment", "phases", "idle"),
    [
        pytest.param(0, 1, 1 / 3, id="whole: 1 + 3 tokens in 2 slots of 3"),
        pytest.param(1, 9, 0.0, id="every slot is filled again after each token"),
        pytest.param(2, 1, 1 / 4, id="cut after 2: 1 + 2 tokens in 2 slots of 2"),
    ],
)
def test_idle_share_by_hand(benchmark, segment, phases, idle):
    assert benchmark.idle_share(cycle([1, 3]), 2, segment, phases) == pytest.approx(idle)


def test_cut_answers_leave_fewer_slots_idle(benchmark):
    """Mean 6k, 16k at most: most slots are idle while the last answers are written."""

    def idle(segment):
        lengths = (benchmark.answer_tokens("train", draw, 0, 16384) for draw in range(10**6))
        return benchmark.idle_share(lengths, 64, segment, phases=30)

    assert 0.55 < idle(0) < 0.7
    # Half a segment is lost per answer: 500 of 5,800 + 500 tokens.
    assert idle(1000) == pytest.approx(500 / 6300, abs=0.02)


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
