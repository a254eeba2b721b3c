"""A row a trained sample, with what it was trained by."""

import pyarrow.parquet as pq


def test_the_rows_are_the_trained_samples(fake_run):
    run = fake_run("run.steps=2").run()
    table = pq.read_table(run.folder / "trained" / "step_000002.parquet").to_pydict()

    assert len(table["draw"]) == run.lines.lines[2]["update/samples"]
    assert set(table["draw"]) <= {4, 5, 6, 7} and set(table["source"]) == {"new"}
    right = [
        advantage
        for advantage, reward in zip(table["advantage"], table["reward"], strict=True)
        if reward == 1
    ]
    wrong = [
        advantage
        for advantage, reward in zip(table["advantage"], table["reward"], strict=True)
        if reward == 0
    ]
    assert min(right) > 0 > max(wrong)
