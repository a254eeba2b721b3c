"""Which samples are shown, what became of them, and that what a model wrote is text."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isentropic.metrics.report.page import environment
from isentropic.metrics.report.samples import pick_samples


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
    assert names(kinds["Flat groups"]) == [(1, 0), (1, 1), (0, 0), (0, 1)]
    assert names(kinds["Longest"])[0] == (2, 2)
    assert "Dropped" not in kinds  # nobody knows


def test_one_dropped_sample_for_each_reason(ledger, tmp_path):
    ledger()
    write_fates(tmp_path, FATES)
    samples = pick_samples(tmp_path)
    page = rendered(samples)

    assert names(samples.kinds["Dropped"]) == [(0, 0), (2, 1)]
    assert [sample.fate for sample in samples.kinds["Longest"]] == ["queued", "flat", "flat"]
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
