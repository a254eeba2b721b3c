"""The check of a GPU: it goes on where it stopped, says what failed, and its parts run with tiny sizes on a CPU."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest
import torch

spec = importlib.util.spec_from_file_location(
    "gpu_check", Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_check.py"
)
gpu_check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gpu_check)

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@without_gpu
def test_without_a_gpu_it_says_so_and_ends_with_2(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu_check.py"])

    assert gpu_check.main() == 2
    assert "needs a GPU, and torch sees none here" in capsys.readouterr().err


def test_an_unknown_part_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu_check.py", "--small", "--parts", "head,nccl"])
    with pytest.raises(SystemExit) as stopped:
        gpu_check.main()

    assert stopped.value.code == 2
    assert "--parts names nccl; there are install, head" in capsys.readouterr().err


def test_a_part_that_has_a_result_is_not_run_again(tmp_path, capsys):
    path = tmp_path / "results.json"
    path.write_text(
        json.dumps({"head": {"rows": [{"head": "torch", "ms": 12.345678}], "seconds": 1.0}})
    )

    assert gpu_check.check(["head"], path, small=True, again=False) == 0
    assert capsys.readouterr().out.split()[:7] == [
        "head",
        "(1.0",
        "s)",
        "head",
        "torch",
        "ms",
        "12.35",
    ]


def test_a_part_that_raises_is_reported(monkeypatch):
    def broken(small):
        raise RuntimeError("out of memory")

    monkeypatch.setitem(gpu_check.PARTS, "head", broken)
    result = gpu_check.run_part("head", True)

    assert "rows" not in result
    assert "FAILED" in gpu_check.table("head", result)
    assert "RuntimeError: out of memory" in gpu_check.table("head", result)


def test_a_part_whose_process_died_is_reported():
    """Out of memory on the host ends a process without a word."""
    died = subprocess.CompletedProcess([], -9, stdout="Loading\n")

    assert gpu_check._answer(died)["error"] == "the process ended with -9"


def test_a_run_is_summed_up_by_medians_and_the_worst_probe():
    lines = [
        {"step": 1, "time/sync_s": 1.0, "sync/probe_logprob_abs_max": 0.1, "reward/mean": 1.0},
        {"step": 2, "time/sync_s": 5.0, "sync/probe_logprob_abs_max": 0.4},
        {"step": 3, "time/sync_s": 2.0, "sync/probe_logprob_abs_max": 0.2},
    ]
    assert gpu_check._summary(lines) == {
        "steps": 3,
        "sync/probe_logprob_abs_max median": 0.2,
        "sync/probe_logprob_abs_max max": 0.4,
        "time/sync_s": 2.0,
    }


def test_without_gpus_a_part_keeps_its_turns():
    short = ("run.steps=3", "cluster=shared_gpu")

    assert gpu_check._on_cpus(short) == ["cluster.placement=shared", "run.steps=3"]
    assert gpu_check._on_cpus(("cluster=gpu", "cluster.gpus_per_rank=0.5")) == []


def test_two_runs_are_compared_but_for_their_times():
    lines = [
        {"step": step, "entropy/mean": 1.0, "ledger/now": float("nan"), "time/step_s": step}
        for step in (1, 2, 3)
    ]
    later = [line | {"time/step_s": 0.5} for line in lines]
    other = [*later[:2], later[2] | {"entropy/mean": 1.25, "reward/mean": 0.5}]

    assert gpu_check._differences(later, lines) == {
        "steps": 3,
        "equal_to_the_bit": True,
        "entropy_differs_by": 0.0,
    }
    assert gpu_check._differences(lines, other) == {
        "steps": 3,
        "equal_to_the_bit": False,
        "first_at_step": 3,
        "keys": ["entropy/mean", "reward/mean"],
        "entropy_differs_by": 0.25,
    }
    assert not gpu_check._differences(lines[:2], lines)["equal_to_the_bit"]


def test_a_part_of_its_own_settings_wins():
    command = gpu_check._command("resume", True, Path("m"), Path("r"), ["checkpoint.every=1"])

    assert [each for each in command if each.startswith("checkpoint.every")] == [
        "checkpoint.every=1"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("part", ["head", "attention", "learner", "repeats", "park"])
def test_a_part_runs_with_tiny_sizes_on_a_cpu(part, tmp_path):
    path = tmp_path / "results.json"

    assert gpu_check.check([part], path, small=True, again=False) == 0
    (first, *_) = json.loads(path.read_text())[part]["rows"]
    assert first


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.parametrize(("part", "steps"), [("sync", 2), ("shared", 3), ("experts", 3)])
def test_a_part_that_trains_runs_on_a_cpu(part, steps, tmp_path):
    path = tmp_path / "results.json"

    assert gpu_check.check([part], path, small=True, again=False) == 0
    (row,) = json.loads(path.read_text())[part]["rows"]
    assert row["steps"] == steps
    assert row["time/sync_s"] > 0 and row["time/update_s"] > 1e-3
    assert row["sync/probe_logprob_abs_max max"] < 1e-3


@pytest.mark.slow
@pytest.mark.engine
def test_a_killed_run_is_compared_on_a_cpu(tmp_path):
    path = tmp_path / "results.json"

    assert gpu_check.check(["books", "resume"], path, small=True, again=False) == 0
    result = json.loads(path.read_text())
    (books,), (resume,) = result["books"]["rows"], result["resume"]["rows"]
    assert books["update_with_books_s"] > books["update_without_books_s"] > 0
    assert resume["equal_to_the_bit"] and resume["entropy_differs_by"] == 0
    assert 1 <= resume["killed_after_step"] < resume["steps"] == 6
