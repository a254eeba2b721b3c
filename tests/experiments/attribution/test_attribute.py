"""Recorded steps, attributed: the run's own bits and books, any contexts and classes, and the exact view."""

import asyncio
import json
import math
import shutil
from dataclasses import replace
from io import StringIO

import numpy as np
import pyarrow.parquet as pq
import pytest

from isentropic.controller import reporting
from isentropic.experiments.attribution.attribute import attribute, begin
from isentropic.experiments.attribution.display import Display
from isentropic.experiments.attribution.measure import Asked, Measured
from isentropic.experiments.attribution.quality import explained, quality
from isentropic.experiments.attribution.walk import plan
from isentropic.experiments.attribution.ways import WAYS
from isentropic.experiments.branch.learner import replay_learner
from isentropic.experiments.branch.replayer import Replayer, walk_to
from isentropic.experiments.commands.attribute import main
from isentropic.experiments.run.recorded import RecordedRun
from isentropic.metrics.classes import CLASSES
from isentropic.metrics.ledger import LedgerConfig
from isentropic.metrics.sinks.jsonl import read_lines


def made(recorded, out, steps, *, stretches=None, contexts=1.0, by=("class",), exact=False):
    """(summary, rows of the steps, rows of the updates, what was shown) of an attribution."""
    folder, prepared = recorded
    run = RecordedRun(folder)
    begin(out, {"steps": steps})
    stream = StringIO()
    asked = Asked(contexts=contexts, by=by, exact=exact)
    summary = asyncio.run(
        attribute(
            run,
            prepared,
            stretches or plan(run, steps),
            steps,
            asked,
            out,
            run_ranks=True,
            display=Display(stream),
        )
    )
    rows = {row["step"]: row for row in read_lines(out / "steps.jsonl")[0]}
    return summary, rows, read_lines(out / "updates.jsonl")[0], stream.getvalue()


@pytest.fixture(scope="module")
def full(recorded, tmp_path_factory):
    """All steps of the run, every way to sort, the whole first wave; and its folder."""
    out = tmp_path_factory.mktemp("full") / "attribution"
    return *made(recorded, out, [1, 2, 3, 4, 5], by=tuple(WAYS)), out


def test_the_steps_are_the_recorded_ones(full):
    summary, rows, updates, shown, _ = full
    assert (summary["compared"], summary["differing"]) == (5, 0)
    assert summary["quality"]["updates"]["identity"] < 1e-6
    assert list(rows) == [1, 2, 3, 4, 5]
    assert len(updates) > 5
    assert "step 3 (3/5)  measured" in shown and "tokens by class" in shown


def test_the_books_balance(full):
    _, rows, updates, _, _ = full
    for row in [*rows.values(), *updates]:
        parts = [row[f"ledger/{name}"] for name in ("now", "momentum", "decay")]
        assert sum(parts) == pytest.approx(row["ledger/trapezoid"], abs=2e-5 * sum(map(abs, parts)))
        assert row["ledger/trapezoid"] + row["ledger/residual"] == pytest.approx(
            row["ledger/measured"]
        )
        for way in WAYS:
            keys = [key for key in row if key.startswith(f"ledger/by/{way}/")]
            assert sum(row[key] for key in keys) == pytest.approx(row["ledger/tokens"], abs=1e-12)
        for name in CLASSES:
            assert row[f"ledger/by/class/{name}"] == row[f"ledger/{name}"]


def test_the_change_of_a_step_is_that_of_its_updates(full):
    _, rows, updates, _, _ = full
    for step, row in rows.items():
        changes = [each["ledger/measured"] for each in updates if each["step"] == step]
        assert row["ledger/measured"] == pytest.approx(sum(changes))


def test_every_token_stands_in_the_file(full):
    _, rows, _, _, out = full
    table = pq.read_table(out / "step_000004.parquet").to_pydict()
    assert math.fsum(table["contribution"]) == pytest.approx(rows[4]["ledger/tokens"], rel=1e-4)
    low = [
        part
        for part, side in zip(table["contribution"], table["by/side"], strict=True)
        if side == "low"
    ]
    assert math.fsum(low) == pytest.approx(rows[4]["ledger/low"], rel=1e-4)
    assert set(table["by/position"]) <= {f"decile_{d}" for d in range(10)}
    assert set(table["by/prompt"]) == {f"draw_{draw}" for draw in set(table["draw"])}


def test_the_books_are_those_that_a_run_keeps(recorded, tmp_path):
    """To the bit, but for the tokens, whose slopes are finer here."""
    run, prepared = RecordedRun(recorded[0]), recorded[1]
    ledger = LedgerConfig(every=1, contexts=0.5)
    config = replace(run.config, accounting=replace(run.config.accounting, ledger=ledger))

    async def train_with_a_ledger():
        async with replay_learner(config, prepared.model, exact=True, reference=False) as learner:
            replayer = Replayer(config, learner, prepared)
            await walk_to(run, replayer, 2)
            return await replayer.report(await replayer.train(run.batch(3)))

    line = asyncio.run(train_with_a_ledger())
    _, rows, _, _ = made(recorded, tmp_path / "out", [3], contexts=0.5)
    for name in ("measured", "first", "trapezoid", "now", "momentum", "decay"):
        assert rows[3][f"ledger/{name}"] == line[f"ledger/{name}"]
    for key in (key for key in line if key.startswith(("ledger/", "ledger_s/"))):
        if key != "ledger/explained":
            assert rows[3][key] == pytest.approx(line[key], rel=0.02, abs=5e-3)


def test_a_step_without_a_checkpoint_is_walked_to(recorded, tmp_path, full):
    summary, rows, _, shown = made(recorded, tmp_path / "out", [4])
    assert summary["compared"] == 2  # from the checkpoint of step 2
    assert "step 3 (1/2)  on the way" in shown
    assert list(rows) == [4]
    assert rows[4] == {key: value for key, value in full[1][4].items() if key in rows[4]}


def test_exact_view(recorded, tmp_path):
    """From the start nothing was before; from a checkpoint it is a class of its own, and fades."""
    ways = ("class", "side")
    _, rows, updates, shown = made(recorded, tmp_path / "all", [1, 2, 3], by=ways, exact=True)
    for row in updates:
        for way in ways:
            parts = [value for key, value in row.items() if key.startswith(f"ledger/exact/{way}/")]
            parts += [row["ledger/exact/before"], row["ledger/decay"]]
            whole = sum(row[f"ledger/{part}"] for part in ("now", "momentum", "decay"))
            assert sum(parts) == pytest.approx(whole, abs=1e-6 * sum(map(abs, parts)))
        assert row["ledger/exact/before"] == 0
    assert rows[3]["exact/since"] == 0
    assert "with the momentum that is theirs" in shown

    _, later, updates, _ = made(recorded, tmp_path / "later", [3, 4], by=("class",), exact=True)
    assert later[3]["exact/since"] == later[4]["exact/since"] == 2
    assert updates[0]["ledger/exact/before"] == pytest.approx(updates[0]["ledger/momentum"])
    assert later[4]["ledger/exact/before"] != later[4]["ledger/momentum"]
    assert later[3]["ledger/trapezoid"] == rows[3]["ledger/trapezoid"]


def test_a_wrong_sign_of_push_for_one_class_shows(recorded, tmp_path, monkeypatch, full):
    """The line `tokens` leaves the line `now`, which knows nothing of tokens."""
    honest = quality([full[1][3]])["tokens"]
    whole = reporting.update_tokens

    def planted(config, update):
        tokens = whole(config, update)
        wrong = (tokens.table.advantage < 0) & (np.exp(tokens.table.old_logprob) < 0.5)
        assert wrong.any()
        tokens.push[wrong] *= -1
        return tokens

    monkeypatch.setattr("isentropic.experiments.attribution.measure.update_tokens", planted)
    _, rows, _, _ = made(recorded, tmp_path / "out", [3])
    assert honest < 5e-3
    assert quality([rows[3]])["tokens"] > 0.2


class Terminal(StringIO):
    def isatty(self):
        return True


def test_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    display = Display(stream)
    with display.bar(3):
        display.begin(7, measured=True)
        display.end(7, Measured(differing=["kl/k3"]), None)
        display.begin(8, measured=False)
    shown = stream.getvalue()
    assert "step 8, on the way" in shown and "1/3" in shown
    assert "step 7: 1 numbers are not those of the recorded line: kl/k3" in shown


def test_r_squared():
    rows = [
        {"ledger/measured": measured, "ledger/residual": missed}
        for measured, missed in ((1.0, 0.1), (2.0, -0.1), (3.0, 0.0))
    ]
    assert explained(rows, "ledger/residual") == pytest.approx(1 - 0.02 / 2)
    assert math.isnan(explained(rows[:2], "ledger/residual"))


@pytest.fixture
def here(recorded, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(recorded[0], folder)
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["steps=9"], "recorded steps 1 to 5. Choose from those", id="outside"),
        pytest.param(["steps=3-2"], "range 3-2 runs backwards", id="backwards"),
        pytest.param(["steps=two"], "steps='two' cannot be read", id="no number"),
        pytest.param(["steps=3", "contexts=0"], "contexts must be > 0 and <= 1, got 0", id="none"),
        pytest.param(
            ["steps=3", "by=clas"], "by must be one of class, class_s, side", id="no class"
        ),
        pytest.param(
            ["steps=3", "by=prompt", "exact=true"], "a momentum buffer for every prompt", id="open"
        ),
        pytest.param(["steps=3", "name=../x"], "name must be 1 to 64 letters", id="name"),
        pytest.param(["steps=3", "step=3"], "Did you mean 'steps'", id="misspelled"),
        pytest.param([], "which steps?", id="no steps"),
    ],
)
def test_bad_input(here, capsys, arguments, message):
    assert main([f"run={here}", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (here / "attribution").exists()


def test_a_run_without_recorded_steps(here, capsys):
    shutil.rmtree(here / "rollouts")
    assert main([f"run={here}", "steps=1"]) == 2
    assert "holds no step" in capsys.readouterr().err


def test_a_gap_on_the_way(here, capsys):
    (here / "rollouts" / "step_000003.parquet").unlink()
    assert main([f"run={here}", "steps=4"]) == 2
    assert "recorded no step 3, which must be trained again" in capsys.readouterr().err


def test_another_attribution_is_not_written_over(tmp_path):
    out = tmp_path / "a"
    begin(out, {"steps": [1]})
    (out / "steps.jsonl").write_text("old")
    begin(out, {"steps": [1]})
    assert not (out / "steps.jsonl").exists()
    with pytest.raises(ValueError, match="Choose another name"):
        begin(out, {"steps": [2]})
    (out / "summary.json").write_text(json.dumps({"else": 1}))
    with pytest.raises(ValueError, match="has another attribution, or other files"):
        begin(out, {"steps": [1]})
