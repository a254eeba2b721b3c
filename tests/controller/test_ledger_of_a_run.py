"""The entropy ledger of whole fake runs: its books balance, and tokens stand in the run folder."""

import pyarrow.parquet as pq
import pytest

FULL = ("accounting.ledger.every=1", "accounting.ledger.contexts=1.0")


def test_the_books_of_a_step_balance(fake_run):
    """One update per step, on policy: the learner's step is the loss's own, in closed form."""
    run = fake_run("learner.updates_per_rollout=1", *FULL).run()
    for step, line in run.lines.lines.items():
        if step == 0 or not line["update/count"]:
            continue
        classes = ("pa_hp", "pa_lp", "na_hp", "na_lp", "zero_adv")
        size = sum(abs(line[f"ledger/{name}"]) for name in classes)
        assert line["ledger/tokens"] == pytest.approx(line["ledger/now"], abs=1e-4 * size)
        assert line["ledger/trapezoid"] + line["ledger/residual"] == pytest.approx(
            line["ledger/measured"]
        )
        assert line["cf/gppo/entropy_change"] == pytest.approx(line["ledger/now"], abs=1e-4 * size)
    assert run.lines.lines[6]["ledger/explained"] > 0.9


@pytest.mark.parametrize("terms", ["entropy_bonus", "nll"])
def test_the_panel_has_the_added_terms_in_nats(terms, fake_run):
    """What is used and stands in the panel too says what the ledger measured, terms included."""
    used = "{name: ce_gppo, ratio: token, clip_low: 0.2, clip_high: 0.2, beta1: 0.5, beta2: 1.0, dual_clip: null}"
    run = fake_run(f"terms={terms}", f"+accounting.counterfactuals.used={used}", *FULL).run()
    lines = [line for step, line in run.lines.lines.items() if step and line["update/count"]]
    assert lines
    for line in lines:
        assert line["cf/used/entropy_change"] == pytest.approx(line["ledger/tokens"], rel=1e-6)


def test_the_measured_change_is_that_of_the_curve(fake_run):
    """The fake policy has one entropy for all contexts: the next step's line tells it too."""
    run = fake_run(*FULL).run()
    lines = run.lines.lines
    for step in range(1, 6):
        change = lines[step + 1]["entropy/mean"] - lines[step]["entropy/mean"]
        assert lines[step]["ledger/measured"] == pytest.approx(change, abs=1e-6)


def test_only_measured_steps_have_books(fake_run):
    run = fake_run("accounting.ledger.every=3").run()
    having = [step for step, line in run.lines.lines.items() if "ledger/now" in line]
    assert having == [3, 6]
    files = sorted(path.name for path in (run.folder / "attribution").iterdir())
    assert files == ["step_000003.parquet", "step_000006.parquet"]


def test_tokens_add_up_to_the_line(fake_run):
    run = fake_run(*FULL).run()
    line = run.lines.lines[4]
    rows = pq.read_table(run.folder / "attribution" / "step_000004.parquet").to_pydict()
    assert sum(rows["contribution"]) == pytest.approx(line["ledger/tokens"], rel=1e-4)
    assert set(rows["update"]) == set(range(line["update/count"]))


def test_a_run_has_the_same_numbers_without_a_ledger(fake_run):
    """All but the books themselves."""
    with_books = fake_run(*FULL, folder="with").run().stable
    without = fake_run("accounting.ledger.every=0", folder="without").run().stable
    for step, line in without.items():
        other = {key: with_books[step][key] for key in line}
        assert other == line
