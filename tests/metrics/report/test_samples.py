"""Which samples are shown, what became of them, and that what a model wrote is text."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isentropic.metrics.report.page import environment
from isentropic.metrics.report.samples import pick_samples
from isentropic.metrics.report.samples.tokens import Turn, pieces


def names(samples):
    return [(sample.draw, sample.sample) for sample in samples]


def rendered(block):
    return environment().get_template(block.template).render(block=block)


@pytest.fixture
def ledger(make, tmp_path):
    """`ledger(step)` writes rollouts/step_*.parquet of the run folder `tmp_path`."""
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "trained").mkdir()
    return lambda step=1: make.ledger(tmp_path / "rollouts", step=step)


def write_fates(run, fates, step=1):
    """{(draw, sample): fate}; without a fate the row is of an older version."""
    rows = [
        {"split": "train", "draw": draw, "wave": 0, "sample": sample}
        | ({"fate": fate} if fate else {})
        for (draw, sample), fate in fates.items()
    ]
    pq.write_table(pa.Table.from_pylist(rows), run / "trained" / f"step_{step:06d}.parquet")


FATES = {(0, i): "flat" for i in range(3)} | {(1, i): "flat" for i in range(4)}
FATES |= {(2, 0): "trained", (2, 1): "overlong", (2, 2): "queued"}


def test_kinds(ledger, tmp_path):
    """Draw 0 is all right, draw 1 all wrong, draw 2 mixed with the longest response last."""
    ledger()
    kinds = pick_samples(tmp_path).kinds

    assert names(kinds["Best"])[:2] == [(0, 0), (2, 0)]
    assert names(kinds["Worst"])[:2] == [(1, 0), (2, 1)]
    assert names(kinds["Flat groups"]) == [(1, 1), (1, 2), (0, 2)]
    assert names(kinds["Longest"]) == [(2, 2)]
    shown = [name for samples in kinds.values() for name in names(samples)]
    assert len(shown) == len(set(shown))
    assert "Dropped" not in kinds  # nobody knows


def test_one_dropped_sample_for_each_reason(ledger, tmp_path):
    ledger()
    write_fates(tmp_path, FATES)
    samples = pick_samples(tmp_path)
    page = rendered(samples)

    assert "Dropped" not in samples.kinds  # one of each reason stands among the others
    assert [sample.fate for sample in samples.kinds["Longest"]] == ["queued"]
    assert "dropped: flat. The rewards of its wave are all equal" in page
    assert "dropped: overlong. It is rewarded, but it was cut off" in page
    assert ">queued</span>" in page and "dropped: queued" not in page
    assert ">trained</span>" in page and "dropped: trained" not in page


def test_fates_of_an_older_version(ledger, tmp_path):
    """It has rows for what was trained on, and no reasons."""
    ledger()
    write_fates(tmp_path, {(2, 0): None, (2, 1): None})
    samples = pick_samples(tmp_path)

    assert "Dropped" not in samples.kinds
    assert [sample.fate for sample in samples.kinds["Best"]] == ["", "trained", ""]


def test_the_newest_step_that_was_trained(ledger, tmp_path):
    """With staleness the ledger is ahead of the training."""
    ledger(step=1)
    ledger(step=2)
    write_fates(tmp_path, FATES, step=1)
    assert pick_samples(tmp_path).source == "step_000001.parquet"
    write_fates(tmp_path, FATES, step=2)
    assert pick_samples(tmp_path).source == "step_000002.parquet"


def test_the_newest_file_that_can_be_read(ledger, tmp_path):
    ledger(step=1)
    (tmp_path / "rollouts" / "step_000002.parquet").write_bytes(b"damaged")
    samples = pick_samples(tmp_path)

    assert samples.source == "step_000001.parquet"
    assert "step_000002.parquet cannot be read" in samples.notes[0]


def test_damaged_fates_are_named(ledger, tmp_path):
    ledger()
    (tmp_path / "trained" / "step_000001.parquet").write_bytes(b"damaged")
    samples = pick_samples(tmp_path)

    assert samples.kinds["Best"]
    assert samples.notes[0].startswith("trained/step_000001.parquet cannot be read")


def test_no_ledger_no_samples(tmp_path):
    assert rendered(pick_samples(tmp_path)).strip() == ""


def test_model_text_is_escaped(ledger, tmp_path):
    ledger()
    page = rendered(pick_samples(tmp_path))

    assert "<script" not in page and "<img" not in page
    assert "&lt;script&gt;document.title" in page


CHARACTERS = "a<cdefgh"


def decode(ids):
    return "".join(CHARACTERS[token] for token in ids)


def tokens_of(samples, kind="Best"):
    (turn,) = samples.kinds[kind][0].tokens_by_turn
    return [(token.text, token.tint, token.weight) for token in turn]


def write_rollouts(run, logprob):
    """One sample of four tokens, the first of them the prompt's."""
    (run / "rollouts").mkdir()
    row = {"split": "train", "draw": 7, "wave": 0, "sample": 0, "reward": 1.0, "origin": "policy"}
    row |= {"prompt": '{"messages": []}', "response": ["bcd"], "finish_reason": "stop"}
    row |= {"turns": [[1, 4]], "token_ids": [0, 1, 2, 3], "rollout_logprob": logprob}
    pq.write_table(pa.Table.from_pylist([row]), run / "rollouts" / "step_000001.parquet")


def test_tokens_of_a_measured_step_have_the_colour_of_their_contribution(tmp_path):
    """-4 in two updates, 0 and +1 of 4: a square root of 1, 0 and 1/2 of the full strength."""
    write_rollouts(tmp_path, [-9.0, -9.0, -9.0])
    rows = [(0, 0, -3.0), (1, 0, -1.0), (0, 1, 0.0), (0, 2, 1.0)]
    key = {"split": "train", "draw": 7, "wave": 0, "sample": 0}
    table = [
        key | {"update": update, "position": position, "contribution": value}
        for update, position, value in rows
    ]
    (tmp_path / "attribution").mkdir()
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "attribution" / "step_000001.parquet")
    samples = pick_samples(tmp_path, decode)
    page = rendered(samples)

    assert tokens_of(samples) == [("<", "down", 80), ("c", "", 0), ("d", "up", 40)]
    assert [token.text for token in samples.legend.ends] == ["-4 nats", "+1 nats"]
    assert "<span class='t down' style='--w:80' title='-4 nats'>&lt;</span>c<span" in page


def test_tokens_of_another_step_are_shaded_by_their_surprise(tmp_path):
    write_rollouts(tmp_path, [-2.0, -0.01, -1.0])
    samples = pick_samples(tmp_path, decode)

    assert tokens_of(samples) == [("<", "shade", 80), ("c", "", 0), ("d", "shade", 40)]
    assert "-log p" in samples.legend.text
    assert pick_samples(tmp_path).kinds["Best"][0].tokens_by_turn == ()  # no tokenizer, no colours


def test_tokens_that_make_one_character_are_one_piece():
    """Bytes for tokens: two of them make one letter; its value is their sum."""
    turn = Turn(ids=list("aéb".encode()), values=[1.0, 2.0, 3.0, None])
    read = lambda ids: bytes(ids).decode("utf-8", "replace")  # noqa: E731

    assert list(pieces(read, turn)) == [("a", 1.0), ("é", 5.0), ("b", None)]


def test_the_first_evaluation_beside_the_last(ledger, make, tmp_path):
    """The prompt whose answer became right comes first; an answer that stayed is not shown."""
    ledger()
    (tmp_path / "evaluations").mkdir()
    for step, said in ((0, ("no", "same", "well")), (20, ("yes", "same", "fine"))):
        rows = [
            {"split": "eval", "draw": draw, "wave": 0, "sample": 0, "origin": "policy"}
            | {"prompt": '{"messages": []}', "response": [text], "finish_reason": "stop"}
            | {"turns": [[1, 4]], "reward": float(text == "yes")}
            for draw, text in reversed(list(enumerate(said)))
        ]
        path = tmp_path / "evaluations" / f"step_{step:06d}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
    shown = pick_samples(tmp_path).kinds["First evaluation beside the last"]

    assert [sample.responses[0] for sample in shown] == ["no", "yes", "well", "fine"]
    assert [sample.when for sample in shown] == ["after step 0", "after step 20"] * 2
