"""Which samples are shown, and that what a model wrote is text."""

from isentropic.metrics.report.samples import pick_samples, samples_html


def names(rows):
    return [(row["draw"], row["sample"]) for row in rows]


def test_kinds(make, tmp_path):
    """Draw 0 is all right, draw 1 all wrong, draw 2 mixed with the longest response last."""
    make.ledger(tmp_path)
    kinds = pick_samples(tmp_path).kinds

    assert names(kinds["Best"])[:2] == [(0, 0), (2, 0)]
    assert names(kinds["Worst"])[:2] == [(1, 0), (2, 1)]
    assert names(kinds["Flat groups"]) == [(1, 0), (1, 1), (0, 0), (0, 1)]
    assert names(kinds["Longest"])[0] == (2, 2)


def test_the_newest_file_that_can_be_read(make, tmp_path):
    make.ledger(tmp_path, step=1)
    (tmp_path / "step_000002.parquet").write_bytes(b"damaged")
    samples = pick_samples(tmp_path)

    assert samples.source == "step_000001.parquet"
    assert "step_000002.parquet cannot be read" in samples.notes[0]


def test_no_ledger_no_samples(tmp_path):
    assert samples_html(pick_samples(tmp_path / "rollouts")) == ""


def test_model_text_is_escaped(make, tmp_path):
    make.ledger(tmp_path)
    page = samples_html(pick_samples(tmp_path))

    assert "<script" not in page and "<img" not in page
    assert "&lt;script&gt;document.title" in page
