"""Names lead to runs, and frames hold what the folder holds."""

import json

import numpy as np
import pytest

import isentropic
from isentropic.controller.storage.ledger import read_batch


def test_a_run_is_found_by_name_and_by_path(runs):
    assert isentropic.load_run("low").folder == runs / "low"
    assert isentropic.load_run(runs / "low").config.objective.beta1 == 0.0
    assert isentropic.load_run("grid/one").status == "finished"
    assert repr(isentropic.load_run("low")) == f"<Run low, ce_gppo, finished, {runs / 'low'}>"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lwo", r"no such folder.* Did you mean 'low'\?"),
        ("grid", r"holds 1 run and is none itself\. .*grid/one'\), or all: compare\('grid'\)"),
    ],
)
def test_what_is_no_run(runs, name, message):
    with pytest.raises(ValueError, match=message):
        isentropic.load_run(name)


def test_metrics_are_the_lines(runs):
    lines = [json.loads(line) for line in (runs / "low" / "metrics.jsonl").open()]
    frame = isentropic.load_run("low").metrics
    assert list(frame.index) == [line["step"] for line in lines] == list(range(7))
    assert frame.loc[4, "entropy/mean"] == lines[4]["entropy/mean"]
    assert np.isnan(frame.loc[0, "entropy/mean"])
    updates = isentropic.load_run("low").updates
    assert updates.index.names == ["step", "update"]
    assert len(updates) == len((runs / "low" / "updates.jsonl").read_text().splitlines()) > 0


def test_an_empty_run_has_empty_frames(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    run = isentropic.load_run(tmp_path)
    assert run.metrics.empty and run.updates.empty and run.alarms.empty and run.steps == []


def test_rollouts_are_those_of_the_ledger(runs):
    run = isentropic.load_run("low")
    batch = read_batch(runs / "low" / "rollouts", 3)
    frame = run.rollouts(3)
    keys = list(frame[["split", "draw", "wave", "sample"]].itertuples(index=False, name=None))
    assert keys == [tuple(rollout.key) for rollout in batch.rollouts]
    assert list(frame["reward"]) == [rollout.reward for rollout in batch.rollouts]
    assert list(frame["tokens"]) == [rollout.num_response_tokens for rollout in batch.rollouts]
    trained = frame[frame["fate"] == "trained"]
    assert trained["advantage"].notna().all() and 0 < len(trained) < len(frame)
    assert frame.loc[frame["fate"] != "trained", "advantage"].isna().all()


def test_answers_to_held_out_prompts(runs):
    """The share of right ones is the line's; nothing became of them, so there is no fate."""
    run = isentropic.load_run("low")
    assert run.evaluated[0] == 0 and len(run.evaluated) > 1
    for step in run.evaluated:
        frame = run.rollouts(step, split="eval")
        assert set(frame["split"]) == {"eval"} and "fate" not in frame
        right = (frame["reward"] == 1).groupby(frame["draw"]).mean().mean()
        assert right == pytest.approx(run.metrics.loc[step, "eval/avg_at_k"])
    start = run.rollouts(0, split="start")
    assert list(start["draw"]) == sorted(set(frame["draw"]))


def test_a_step_that_a_data_frame_made_a_float_is_the_same(runs):
    run = isentropic.load_run("low")
    assert run.rollouts(3.0).equals(run.rollouts(3))


def test_tokens_add_up_to_the_books(runs):
    """The sum over tokens is the ledger's own, so none is lost, doubled or beside its place."""
    run = isentropic.load_run("low")
    assert run.measured == [3, 6]
    frame = run.tokens(3)
    assert len(frame) == run.rollouts(3)["tokens"].sum()
    booked = run.metrics.loc[3, "ledger/tokens"]
    assert frame["contribution"].sum() == pytest.approx(booked, rel=1e-5) and booked != 0
    scored = frame.dropna(subset="old_logprob")
    assert np.allclose(scored["logprob"], scored["old_logprob"], atol=1e-4)  # one policy
    assert {"old_entropy", "sensitivity", "advantage"} <= set(frame)
    assert "contribution" not in run.tokens(2)


def test_the_texts_of_tokens_joined_are_the_response(runs):
    from isentropic.models.tiny import build_tokenizer

    run = isentropic.load_run("low")
    draw = run.rollouts(3)["draw"][0]
    frame = run.tokens(3, draw=draw)
    assert set(frame["draw"]) == {draw}
    for _, tokens in frame.groupby("sample"):
        ids = list(tokens["token_id"])
        assert "".join(tokens["text"]) == build_tokenizer().decode(ids)
        assert list(tokens["position"]) == list(range(len(ids)))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda run: run.rollouts(99), r"has no recorded step 99\. rollouts/ has 1, 2, 3, 4, 5, 6"),
        (
            lambda run: run.rollouts(1, split="eval"),
            r"has no recorded step 1\. evaluations/ has 0, ",
        ),
        (
            lambda run: run.rollouts(0, split="evla"),
            r"train, eval, start; got 'evla'\. Did you mean",
        ),
        (lambda run: run.rollouts("3"), r"a step is a whole number, got '3'"),
        (lambda run: run.rollouts(2.5), r"a step is a whole number, got 2\.5"),
        (lambda run: run.tokens(float("nan")), r"a step is a whole number, got nan"),
        (lambda run: run.tokens(3, draw=999), r"step 3 of .* has no draw 999\. It has \d+, "),
        (lambda run: run.tokens(3, attribution="a"), "has no attribution 'a'.* It has none; jobs"),
        (lambda run: run.plot("entropy/maen"), r"Did you mean 'entropy/mean'\?"),
    ],
)
def test_what_a_run_does_not_have_is_refused(runs, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(isentropic.load_run("low"))


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / "step_000001.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match=r"step_000001\.parquet cannot be read"):
        isentropic.load_run(tmp_path).rollouts(1)


def test_an_attribution_by_name(fake_runs, tmp_path):
    """jobs/attribute.py writes its tokens in a folder of its own."""
    import shutil

    shutil.copytree(fake_runs / "low", tmp_path / "low")
    (tmp_path / "low" / "attribution" / "mine").mkdir()
    own = tmp_path / "low" / "attribution" / "step_000003.parquet"
    own.rename(own.parent / "mine" / own.name)
    run = isentropic.load_run(tmp_path / "low")
    assert "contribution" not in run.tokens(3)
    assert run.tokens(3, attribution="mine")["contribution"].notna().any()
    with pytest.raises(ValueError, match=r"Did you mean 'mine'\?"):
        run.tokens(3, attribution="mien")


def test_the_entropy_is_drawn_by_step(runs):
    run = isentropic.load_run("low")
    (line,) = run.plot_entropy(color="black").get_lines()
    assert list(line.get_xdata()) == [1, 2, 3, 4, 5, 6]
    assert list(line.get_ydata()) == list(run.metrics["entropy/mean"].dropna())
    assert line.axes.get_ylabel() == "entropy (nats per token)"
