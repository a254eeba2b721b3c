"""Data as people have it: every format gives the same rows, with the place of each."""

import csv
import gzip
import json
from decimal import Decimal

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentropic.tasks.data.rows import as_answer, as_text, read_rows
from isentropic.tasks.data.sources import read_source

ROWS = [{"problem": f"{n} + 1,\n= ?", "answer": str(n + 1)} for n in range(3)]
LINES = "\n".join(map(json.dumps, ROWS))


def as_csv(path, delimiter=","):
    with path.open("w", newline="", encoding="utf-8-sig") as text:
        table = csv.DictWriter(text, ["problem", "answer"], delimiter=delimiter)
        table.writeheader()
        table.writerows(ROWS)


def as_dict(path):
    data = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(path)


def as_folder_of_files(path):
    path.mkdir()
    (path / "train.jsonl").write_text(LINES)


def as_arrow(path):
    datasets.Dataset.from_list(ROWS).save_to_disk(path.parent / "saved")
    (file,) = (path.parent / "saved").glob("*.arrow")
    file.rename(path)


WAYS = {
    "a.jsonl": lambda path: path.write_text(LINES),
    "bom.jsonl": lambda path: path.write_text(LINES, encoding="utf-8-sig"),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES.encode())),
    "list.json": lambda path: path.write_text(json.dumps(ROWS, indent=1)),
    "data.json": lambda path: path.write_text(json.dumps({"version": 1, "data": ROWS})),
    "lines.json": lambda path: path.write_text(LINES),
    "a.csv": as_csv,
    "A.CSV": as_csv,
    "semicolons.csv": lambda path: as_csv(path, ";"),
    "tabs.csv": lambda path: as_csv(path, "\t"),
    "lines.ndjson": lambda path: path.write_text(LINES),
    "a.tsv": lambda path: as_csv(path, "\t"),
    "a.parquet": lambda path: pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path),
    "a.arrow": as_arrow,
    "saved": lambda path: datasets.Dataset.from_list(ROWS).save_to_disk(path),
    "splits": as_dict,
    "files": as_folder_of_files,
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", WAYS)
def test_every_way_gives_the_same_rows(tmp_path, name):
    path = tmp_path / name
    WAYS[name](path)
    rows, skipped = read_rows(
        str(path),
        split="train",
        columns={"problem": as_text, "answer": as_answer},
        limit=None,
        on_bad_row="refuse",
    )
    assert (rows, skipped) == (ROWS, 0)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("a.jsonl", ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"]),
        ("a.csv", ["a.csv:3", "a.csv:5", "a.csv:7"]),  # where each row ends: texts have two lines
        ("list.json", ["list.json: item 1", "list.json: item 2", "list.json: item 3"]),
        ("a.parquet", ["a.parquet: row 0", "a.parquet: row 1", "a.parquet: row 2"]),
        ("splits", ["splits[train] row 0", "splits[train] row 1", "splits[train] row 2"]),
    ],
)
def test_places(tmp_path, name, places):
    WAYS[name](tmp_path / name)
    found = [str(place) for place, _ in read_source(str(tmp_path / name), "train")]
    assert found == [f"{tmp_path}/{place}" for place in places]


@pytest.mark.parametrize(
    ("column", "row", "meant"),
    [
        ("problem", {"id": 1, "question": "1+1"}, "Did you mean 'question'?"),
        ("answer", {"problem": "p", "extra": {"ground_truth": "2"}}, "'extra.ground_truth'?"),
        ("problem", {"problems": "p", "question": "q"}, "Did you mean 'problems'?"),
        ("problem", {"id": 1, "level": 2}, "no column 'problem'. Columns: id, level"),
    ],
)
def test_the_column_that_is_meant(tmp_path, column, row, meant):
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(ValueError) as error:
        read_rows(
            str(tmp_path / "a.jsonl"),
            split="",
            columns={column: as_text},
            limit=None,
            on_bad_row="refuse",
        )
    assert meant in str(error.value)


def test_a_row_of_a_table_with_other_fields_than_its_head(tmp_path):
    (tmp_path / "a.csv").write_text("problem,answer\n1+1,2\n1+2,3,4\n1+3\n")
    rows, skipped = read_rows(
        str(tmp_path / "a.csv"),
        split="",
        columns={"answer": as_answer},
        limit=None,
        on_bad_row="skip",
    )
    assert (rows, skipped) == ([{"answer": "2"}], 2)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("splits", "dev", r"split 'dev' \(task\.train_split, task\.eval_split\) cannot be read"),
        ("files", "dev", r"split 'dev'"),
        ("empty", "train", r"It must be a file \(\.jsonl, .*a folder .*a data set of the Hub"),
        ("splits", "trian", r"it has train, test\. Did you mean 'train'"),
        ("sheet.xlsx", "train", r"sheet\.xlsx has an ending that names no format.*\.csv"),
        ("no/such-set", "train", r"task\.path=no/such-set with the split 'train' .*cannot be read"),
        ("no such set", "train", r"task\.path=.*/no such set is no name of a data set"),
        ("no.csv", "train", r"there is no file .*no\.csv\. Did you mean 'a\.csv'"),
    ],
)
def test_sources_that_cannot_be_used(tmp_path, name, split, message):
    WAYS["a.csv"](tmp_path / "a.csv")
    if name in WAYS:
        WAYS[name](tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "sheet.xlsx").write_bytes(b"PK\x03\x04\xff")
    path = name if "/" in name else str(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        list(read_source(path, split))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "a.json.gz"])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda packed: b"problem,answer\n", id="not packed"),
        pytest.param(lambda packed: packed[: len(packed) // 2], id="cut"),
        pytest.param(lambda packed: packed[:10] + b"\xff" * 20 + packed[30:], id="damaged"),
    ],
)
def test_a_damaged_gz_is_named(tmp_path, name, damage):
    packed = gzip.compress(b'{"problem": "1+1", "answer": "2"}\n' * 50)
    (tmp_path / name).write_bytes(damage(packed))
    with pytest.raises(ValueError, match=rf"{name} cannot be read \(\w+"):
        list(read_source(str(tmp_path / name), "train"))


@pytest.mark.parametrize("name", ["a" * 256, "a" * 256 + ".jsonl"])
def test_a_name_that_is_too_long(tmp_path, name):
    with pytest.raises(ValueError, match=r"task\.path=.* has a name that is too long"):
        list(read_source(str(tmp_path / name), "train"))


def test_a_table_with_a_column_twice(tmp_path):
    (tmp_path / "a.csv").write_text("problem,answer,answer\n1+1,2,3\n")
    with pytest.raises(ValueError, match=r"a\.csv has 2 columns named 'answer'"):
        list(read_source(str(tmp_path / "a.csv"), "train"))


def test_a_column_of_a_parquet_file_twice(tmp_path):
    """The reader takes the last one; of one inside another it says nothing that names it."""
    names = ["problem", "answer", "answer"]
    pyarrow.parquet.write_table(
        pyarrow.table([["1+1"], ["2"], ["3"]], names), tmp_path / "a.parquet"
    )
    with pytest.raises(ValueError, match=r"a\.parquet has 2 columns named 'answer'"):
        list(read_source(str(tmp_path / "a.parquet"), "train"))
    inner = pyarrow.StructArray.from_arrays([pyarrow.array([2]), pyarrow.array([3])], ["gold"] * 2)
    pyarrow.parquet.write_table(pyarrow.table({"reward_model": inner}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet has 2 columns named 'reward_model\.gold'"):
        list(read_source(str(tmp_path / "b.parquet"), "train"))


TWICE = '{"problem": "1+1", "answer": "2", "answer": "3"}'
INSIDE = '{"problem": "1+1", "extra": [{"answer": "2", "answer": "3"}]}'
ONCE = '{"problem": "1+2", "answer": "3", "extra": {"answer": "3"}}'


@pytest.mark.parametrize("row", [TWICE, INSIDE])
@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.jsonl", "{once}\n{twice}\n", r"a\.jsonl:2"),
        ("a.json", "[{once}, {twice}]", r"a\.json: item 2"),
        ("data.json", '{{"data": [{once}, {twice}]}}', r"data\.json: item 2"),
    ],
)
def test_a_key_of_a_row_twice(tmp_path, name, content, place, row):
    (tmp_path / name).write_text(content.format(once=ONCE, twice=row))
    read = {"split": "", "columns": {"answer": as_answer}, "limit": None}
    with pytest.raises(ValueError, match=rf"{place}: has the key 'answer' twice, such as"):
        read_rows(str(tmp_path / name), on_bad_row="refuse", **read)
    rows, skipped = read_rows(str(tmp_path / name), on_bad_row="skip", **read)
    assert (rows, skipped) == ([{"answer": "3"}], 1)


def test_a_folder_of_files_names_the_column_too(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "train.jsonl").write_text(TWICE)
    with pytest.raises(ValueError, match=r"cannot be read .*answer.* twice"):
        list(read_source(str(tmp_path / "files"), "train"))


def test_the_list_of_rows_twice(tmp_path):
    (tmp_path / "a.json").write_text(f'{{"data": [{ONCE}], "data": [{ONCE}]}}')
    with pytest.raises(ValueError, match=r"a\.json has the key 'data' twice"):
        list(read_source(str(tmp_path / "a.json"), "train"))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        pytest.param(0.1 + 0.2, "0.3", id="a sum"),
        pytest.param(100 / 3, "33.3333333333333", id="what no decimal can write"),
        pytest.param(3 - 4e-16, "3", id="nearly whole"),
        pytest.param(float(np.float32(0.1)), "0.1", id="of float32"),
        pytest.param(0.333251953125, "0.333251953125", id="few digits: as it is"),
        pytest.param(1.1e22, "1.1e+22", id="huge"),
    ],
)
def test_a_float_is_written_without_its_noise(number, text):
    assert as_answer(number) == text


@given(st.decimals(-(10**6), 10**6, allow_nan=False, allow_infinity=False, places=3))
def test_any_decimal_survives_arithmetic(number):
    """Three times a third of it, and a tenth more and less: as it was written."""
    for noisy in (
        float(number) / 3 * 3,
        float(number) + 0.1 - 0.1 if abs(number) > 1 else float(number),
    ):
        assert Decimal(as_answer(noisy)) == number


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "files"])
def test_narrow_floats_are_the_decimals_that_made_them(tmp_path, name):
    """16777.6 is 16777.599609375 in float32, and 0.1 is 0.0999755859375 in float16."""
    table = pyarrow.table(
        {
            "single": pyarrow.array([16777.6, None], pyarrow.float32()),
            "half": pyarrow.array(np.array([0.1, 2048.0], np.float16)),
            "inside": pyarrow.array(
                [{"gold": [0.3]}] * 2, pyarrow.struct([("gold", pyarrow.list_(pyarrow.float32()))])
            ),
            "double": pyarrow.array([16777.599609375, 0.5]),
        }
    )
    path = tmp_path / name
    if name == "a.arrow":
        with (
            pyarrow.OSFile(str(path), "wb") as sink,
            pyarrow.ipc.new_stream(sink, table.schema) as stream,
        ):
            stream.write_table(table)
    else:
        path.parent.mkdir(exist_ok=True)
        if name == "files":
            path.mkdir()
        pyarrow.parquet.write_table(table, path / "train.parquet" if name == "files" else path)
    rows = [row for _, row in read_source(str(path), "train")]
    assert rows == [
        {"single": 16777.6, "half": 0.1, "inside": {"gold": [0.3]}, "double": 16777.599609375},
        {"single": None, "half": 2048.0, "inside": {"gold": [0.3]}, "double": 0.5},
    ]


class Hub:
    """Stands for `datasets.load_dataset`: keeps what it was asked for."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def __call__(self, name, config, *, split, revision):
        self.asked.append((name, config, split, revision))
        if isinstance(self.answer, Exception):
            raise self.answer
        return datasets.Dataset.from_list(self.answer)


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("openai/gsm8k:main", ("openai/gsm8k", "main", "test", None)),
        ("owner/a.b@v1.0", ("owner/a.b", None, "test", "v1.0")),
        ("owner/name:a-b@refs/pr/1", ("owner/name", "a-b", "test", "refs/pr/1")),
    ],
)
def test_a_data_set_of_the_hub(monkeypatch, path, asked):
    hub = Hub(ROWS)
    monkeypatch.setattr("datasets.load_dataset", hub)
    found = list(read_source(path, "test"))
    assert [row for _, row in found] == ROWS and hub.asked == [asked]
    assert str(found[1][0]) == f"{path}[test] row 1"


def test_without_a_network_the_key_and_the_way_out_are_named(monkeypatch):
    monkeypatch.setattr("datasets.load_dataset", Hub(ConnectionError("Couldn't reach it")))
    with pytest.raises(ValueError, match=r"task\.eval_path=a/b .*does not reach the Hub") as error:
        list(read_source("a/b", "test", "task.eval_path"))
    assert "give its files here (task.eval_path=<file or folder>)" in str(error.value)
