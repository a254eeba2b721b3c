"""Rows of one folder are of the same settings, measured in the same way, each of its own run."""

import asyncio
import json
import re
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from isentropic.experiments.branch import branch as branch_module
from isentropic.experiments.branch.arms import Arm
from isentropic.experiments.branch.branch import RUNS, append, begin, branch
from isentropic.experiments.branch.point import Comparison
from isentropic.experiments.run.lock import run_lock
from isentropic.metrics.report.branches import BRANCHES, SETTINGS, Branches
from isentropic.metrics.sinks.jsonl import read_lines


def comparison(folder, *, beta1=1.0, contexts=256, exact=False, orders=1):
    folder.mkdir(parents=True, exist_ok=True)
    arms = tuple(
        Arm(
            label=label,
            overrides=(f"objective.beta1={value}",),
            config=SimpleNamespace(objective=SimpleNamespace(beta1=value), terms=None),
        )
        for label, value in (("base", 0.0), ("other", beta1))
    )
    return Comparison(
        run=SimpleNamespace(folder=folder),
        settings=arms,
        exact=exact,
        contexts=contexts,
        orders=orders,
    )


def rows(of, step, **numbers):
    named = {"step": step, "run": of.run_name}
    return [named | {"setting": arm.label, "entropy": 1.0} | numbers for arm in of.settings]


@pytest.fixture
def of(tmp_path):
    return comparison(tmp_path / "runs" / "a")


@pytest.fixture
def out(tmp_path, of):
    """A folder with the points 10 and 20 of run a."""
    out = tmp_path / "out"
    assert begin(out, of) == set()
    append(out, rows(of, 10))
    append(out, rows(of, 20))
    return out


def test_the_points_of_another_run_are_not_done(tmp_path, of, out):
    other = comparison(tmp_path / "runs" / "b")
    assert begin(out, other) == set()
    append(out, rows(other, 10, entropy=2.0))
    append(out, rows(other, 30)[:1])  # killed inside the point
    assert begin(out, of) == {10, 20}
    assert begin(out, other) == {10}
    assert len(read_lines(out / BRANCHES)[0]) == 2 * 3
    assert Branches(out).num_points == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contexts": 8}, "contexts 256, now 8"),
        ({"exact": True}, "exact False, now True"),
        ({"orders": 2}, "orders 1, now 2"),
        ({"beta1": 0.5}, "branches of other settings"),
    ],
)
@pytest.mark.parametrize("earlier", [False, True], ids=["now", "of an earlier version"])
def test_other_measurements_are_refused(tmp_path, out, changes, message, earlier):
    if earlier:
        as_earlier(out)
        message = re.sub(r"^((contexts|exact) .*),", r"\1 \(not kept, so taken\),", message)
    before = (out / BRANCHES).read_bytes()
    with pytest.raises(ValueError, match=message):
        begin(out, comparison(tmp_path / "runs" / "a", **changes))
    assert (out / BRANCHES).read_bytes() == before


def as_earlier(out):
    """Take out what an earlier version did not keep."""
    settings = json.loads((out / SETTINGS).read_text())
    for values in settings.values():
        del values["contexts"], values["exact"]
    (out / SETTINGS).write_text(json.dumps(settings))
    (out / RUNS).unlink()


def test_a_folder_of_an_earlier_version_goes_on(of, out):
    text = (out / SETTINGS).read_text()
    as_earlier(out)
    assert begin(out, of) == {10, 20}
    assert (out / SETTINGS).read_text() == text


def test_two_runs_of_one_name_are_not_mixed(tmp_path, of, out):
    """Sweeps call their runs after what they sweep: seed_0-35a657 in each of them."""
    twin = comparison(tmp_path / "others" / "a")
    with pytest.raises(ValueError, match=r"branches of another run that is called a, .*runs/a"):
        begin(out, twin)
    shutil.rmtree(of.run.folder)  # moved there
    assert begin(out, twin) == {10, 20}


@pytest.mark.parametrize("name", [SETTINGS, RUNS])
@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_damaged_file_is_named(of, out, name, text):
    (out / name).write_text(text)
    with pytest.raises(ValueError, match=rf"{name} cannot be read .*out=<folder>"):
        begin(out, of)


def test_two_processes_do_not_write_at_once(tmp_path, of, out, monkeypatch):
    async def nothing(*given):
        with pytest.raises(ValueError, match="is in use"), run_lock(out):
            pass

    monkeypatch.setattr(branch_module, "branch_workers", nothing)
    asyncio.run(branch(of, None, [30], out, processes=1, say=print))
    with run_lock(out), pytest.raises(ValueError, match="is in use"):
        asyncio.run(branch(of, None, [30], out, processes=1, say=print))


def test_rows_are_sorted_by_run_and_point(tmp_path, of, out, monkeypatch):
    async def both(compared, prepared, left, processes, keep):
        for step in left:
            keep(list(reversed(rows(compared, step))))

    monkeypatch.setattr(branch_module, "branch_workers", both)
    other = replace(of, run=SimpleNamespace(folder=tmp_path / "runs" / "0"))
    asyncio.run(branch(other, None, [30, 10], out, processes=1, say=lambda text: None))
    found = [(row["run"], row["step"], row["setting"]) for row in read_lines(out / BRANCHES)[0]]
    points = [("0", 10), ("0", 30), ("a", 10), ("a", 20)]
    assert found == [(*point, label) for point in points for label in ("base", "other")]
