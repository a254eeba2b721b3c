"""Run folders that are odd, but can be read: a report, or a ValueError that names the file."""

import json
import os
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isentropic.metrics.report import write_report
from isentropic.metrics.report.find import find_run
from isentropic.metrics.report.page import environment
from isentropic.metrics.report.run_data import read_run
from isentropic.metrics.report.samples import COLUMNS, pick_samples
from isentropic.metrics.report.settings import group_settings
from isentropic.metrics.report.write import branch_page, compare_page, run_page

many = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
few = settings(many, max_examples=6)  # with the PNGs, half a second each
NOBODY = 65534  # a user that may read only what everybody may
REMEDIES = ("Restore", "restore", "remove", "Give")

numbers = st.sampled_from(
    [0, 1, -1, 3, 2.0, 2.5, True, 1e308, -1e308, 1e-320, 10**400, 2**63, float("nan"), float("inf")]
)
words = st.sampled_from(["", "raised", "stop", "entropy/mean", "2026-99-99T25:00", "\0", "\ud800"])
values = st.recursive(
    st.none() | numbers | words | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
METRICS = (
    "policy_version",
    "eval/policy_version",
    "entropy/mean",
    "entropy/trained",
    "entropy/histogram",
    "entropy/decile_0",
    "entropy/predicted_change",
    "entropy/measured_change",
    "entropy/measured_change_se",
    "entropy/prediction_correlation",
    "reward/mean",
    "eval/avg_at_k",
    "eval/a/avg_at_k",
    "clip/low_frac",
    "clip/dual_frac",
    "grad_share/pa_hp",
    "cf/x/cosine",
    "mismatch/logprob_abs_max",
    "response/tokens_mean",
    "response/truncated_frac",
    "time/step_s",
    "time/update_s",
    "other/x",
)
ALARM = ("rule", "state", "level", "action", "metric", "message")
CONFIG = {
    "run": ("name", "steps", "label"),
    "model": ("name", "path"),
    "objective": ("name", "beta1", "beta2", "x"),
    "evaluation": ("samples",),
    "filter": ("name",),
}


def objects(names, **needed):
    """Objects with some of the keys, and odd values."""
    return st.fixed_dictionaries(needed, optional=dict.fromkeys(names, values))


def lines(names):
    """Lines that are kept for their step, and lines that are anything."""
    with_step = objects(names, step=st.integers(0, 4) | st.sampled_from([1.0, 2.0]))
    return st.lists(with_step | objects(("step", *names)) | values, max_size=5)


configs = values | objects(
    ("seed",), **{slot: objects(names) | values for slot, names in CONFIG.items()}
)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_run(folder, data):
    folder.mkdir(exist_ok=True)
    write_lines(folder / "metrics.jsonl", data.draw(lines(METRICS)))
    write_lines(folder / "alarms.jsonl", data.draw(lines(ALARM)))
    (folder / "config.yaml").write_text(yaml.safe_dump(data.draw(configs)))
    environment = values | objects(("started", "git"))
    (folder / "environment.json").write_text(json.dumps(data.draw(environment)))
    (folder / "statements.json").write_text(json.dumps(data.draw(values | st.lists(values))))
    return folder


def reported(folder, make):
    """What `make` gives; None for a refusal, which names the place and says what to do."""
    try:
        return make()
    except ValueError as error:
        assert str(folder) in str(error)
        assert any(remedy in str(error) for remedy in REMEDIES), error


@many
@given(st.data())
def test_any_run(tmp_path, data):
    runs = [read_run(write_run(tmp_path / name, data)) for name in "ab"]
    run_page(runs[0]).render()
    compare_page(group_settings(runs), title="x", out=tmp_path / "a" / "report.html").render()


@few
@given(st.data())
def test_any_run_with_its_pictures(tmp_path, data):
    write_run(tmp_path / "a", data)
    write_run(tmp_path / "b", data)
    assert write_report([tmp_path], tmp_path / "report.html").exists()


@many
@given(rows=lines(("setting", "run", "entropy", "reward")), statements=values)
def test_any_branches(tmp_path, rows, statements):
    (tmp_path / "statements.json").write_text(json.dumps(statements))
    write_lines(tmp_path / "branches.jsonl", rows)
    reported(tmp_path, lambda: branch_page(tmp_path).render())
    settled = [
        row | {"setting": row.get("setting")}
        for row in rows
        if isinstance(row, dict) and type(row.get("step")) is int and 0 <= row["step"] < 5
    ]
    write_lines(tmp_path / "branches.jsonl", settled)
    branch_page(tmp_path).render()


@many
@given(
    name=st.sampled_from(
        ["metrics.jsonl", "alarms.jsonl", "config.yaml", "environment.json", "statements.json"]
    ),
    content=st.binary(max_size=60),
)
def test_any_bytes(make, tmp_path, name, content):
    folder = tmp_path / "a"
    if not folder.exists():
        make.run(folder, steps=2, alarm=1)
    whole = (folder / name).read_bytes() if (folder / name).exists() else b"[]"
    (folder / name).write_bytes(content)
    reported(folder, lambda: run_page(read_run(folder)).render())
    reported(
        folder,
        lambda: compare_page(
            group_settings([read_run(folder)]), title="x", out=folder / "x"
        ).render(),
    )
    (folder / name).write_bytes(whole)


cells = {
    pa.int64(): st.integers(-2, 3),
    pa.int8(): st.integers(-2, 3),
    pa.float64(): st.floats(),
    pa.string(): st.sampled_from(
        ["train", "policy", "", "1", "{}", "[]", '{"messages": [1]}', "\0"]
    ),
    pa.binary(): st.sampled_from([b"train", b"\xff"]),
    pa.bool_(): st.booleans(),
    pa.timestamp("ns"): st.integers(-(2**62), 2**62),
    pa.date64(): st.integers(-(2**40), 2**40).map(lambda day: 86_400_000 * (day // 10**3)),
    pa.list_(pa.string()): st.lists(st.none() | st.just("x"), max_size=2),
    pa.list_(pa.int64()): st.lists(st.integers(0, 3), max_size=2),
    pa.list_(pa.list_(pa.int64())): st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=2),
    pa.struct({"x": pa.int64()}): st.just({"x": 1}),
    pa.null(): st.none(),
}
PROMPTS = st.sampled_from(
    ['{"messages": [{"content": "x"}], "answer": [1]}', "{}", "[]", "1", "", "[" * 5000, "x"]
)


@st.composite
def parquets(draw, names):
    """A table with some of the columns, of right and of other types."""
    length = draw(st.integers(0, 3))
    columns = {}
    for name in names:
        right = COLUMNS.get(name, pa.string())
        kind = draw(st.sampled_from([right] * 12 + list(cells)))
        cell = PROMPTS if (name, kind) == ("prompt", right) else cells[kind]
        if draw(st.integers(0, 20)) and kind == right:
            filled = st.lists(cell, min_size=length, max_size=length)
        else:
            filled = st.lists(st.none() | cell, min_size=length, max_size=length)
        if draw(st.integers(0, 20)):
            columns[name] = pa.array(draw(filled), kind)
    return pa.table(columns)


@settings(many, max_examples=200)
@given(ledger=parquets(tuple(COLUMNS)), fates=parquets(("split", "draw", "wave", "sample", "fate")))
def test_any_parquet(tmp_path, ledger, fates):
    """What cannot be shown is named, and passed over."""
    for name, table in (("rollouts", ledger), ("trained", fates)):
        (tmp_path / name).mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / name / "step_000001.parquet")
    samples = pick_samples(tmp_path)
    environment().get_template(samples.template).render(block=samples)

    assert samples.source or samples.notes or "train" not in str(ledger["split"])


@pytest.mark.parametrize("name", ["metrics.jsonl", "alarms.jsonl", "branches.jsonl"])
@pytest.mark.parametrize("depth", [90, 900, 100_000])
def test_lines_that_are_nested_deeply(make, tmp_path, name, depth):
    folder = make.run(tmp_path / "a", steps=2)
    deep = "[" * depth + "]" * depth
    (folder / name).write_text(f'{{"step": 1, "setting": {deep}, "message": {deep}}}\n')

    if depth > 1000:
        with pytest.raises(ValueError, match=f"{name}, line 1 is nested too deep to be read"):
            write_report([folder], folder / "report.html")
    else:
        assert write_report([folder], folder / "report.html").exists()


@pytest.mark.parametrize("name", ["environment.json", "statements.json"])
@pytest.mark.parametrize("depth", [90, 900, 100_000])
def test_json_that_is_nested_deeply(make, tmp_path, name, depth):
    folder = make.run(tmp_path / "a", steps=2)
    deep = "[" * depth + "]" * depth
    (folder / name).write_text(f'{{"started": {deep}, "git": {{"commit": {deep}}}}}')
    assert write_report([folder], folder / "report.html").exists()

    (folder / name).write_text(f'[{{"id": {deep}}}]')
    page = write_report([folder, folder], folder / "report.html").read_text()
    assert f"{name} cannot be read" in page or (name, depth) < ("statements.json", 1000)


ODD_CONFIGS = {
    "a list": "[1, 2]",
    "a number": "3",
    "no YAML": "a: [1,",
    "no UTF-8": b"\xff\xfe\x00",
    "a key that is none": "null: 1",
    "an interpolation that is open": "a: ${",
    "code": "a: !!python/object/apply:os.getcwd []",
    "too deep": "a: " + "[" * 400 + "]" * 400,
    "a number of 5000 digits": "a: 1" + "0" * 5000,
    "aliases of aliases": "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in pairwise("abcdefghi")),
}


@pytest.mark.parametrize("text", ODD_CONFIGS.values(), ids=ODD_CONFIGS)
def test_a_config_that_is_none(make, tmp_path, text):
    folder = make.run(tmp_path / "a", steps=2)
    (folder / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    run = read_run(folder)

    assert run.config == {} and run.last_step == 2
    assert "config.yaml cannot be read" in run.notes[0]


def test_an_empty_config_says_nothing(make, tmp_path):
    folder = make.run(tmp_path / "a", steps=2)
    (folder / "config.yaml").write_text("")

    assert "2 in steps" not in run_page(read_run(folder)).render()
    assert read_run(folder).notes == []


def test_steps_and_versions_that_are_no_counts(tmp_path):
    """2.0 is a step; a version that is none gives way to the step; the rest is counted."""
    rows = [
        {"step": 1, "policy_version": "8", "entropy/mean": 1.0},
        {"step": 2.0, "policy_version": 8.0, "entropy/mean": 2.0},
        {"step": 3, "entropy/mean": 3.0},
    ]
    lost = [{"step": step} for step in (1.5, "4", True, None, -1, 10**400, [1])]
    write_lines(tmp_path / "metrics.jsonl", [*rows, *lost, {}, 7, "x"])
    run = read_run(tmp_path)

    assert run.curve("entropy/mean") == [(1, 1, 1.0), (8, 2, 2.0), (3, 3, 3.0)]
    assert any("without a step (a whole number, 0 or more): 10;" in note for note in run.notes)


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("metrics.jsonl", True),
        ("alarms.jsonl", True),
        ("branches.jsonl", True),
        ("config.yaml", False),
        ("environment.json", False),
        ("statements.json", False),
        ("rollouts/step_000001.parquet", False),
    ],
)
@pytest.mark.parametrize("kind", ["pipe", "broken link", "ring of links", "folder"])
def test_what_is_no_file(make, tmp_path, name, refused, kind):
    """It is named, and nothing waits for it."""
    folder = make.run(tmp_path / "a", steps=2, ledger=True)
    path = folder / name
    path.unlink(missing_ok=True)
    make_odd = {
        "pipe": lambda: os.mkfifo(path),
        "broken link": lambda: path.symlink_to("nowhere"),
        "ring of links": lambda: path.symlink_to(path.name),
        "folder": path.mkdir,
    }
    make_odd[kind]()
    if refused and (name != "branches.jsonl" or kind == "ring of links"):
        with pytest.raises(ValueError, match=f"{path} (cannot be read|is no file)"):
            write_report([folder], folder / "report.html")
        return
    page = write_report([folder, folder], folder / "report.html").read_text()
    page += run_page(read_run(folder)).render()
    assert (
        name == "branches.jsonl"
        or f"{path.name} cannot be read" in page
        or (f"{path.name} is no file" in page)
    )


@pytest.mark.parametrize("name", ["x\0y", "n" * 256, "a/" * 3000])
def test_names_that_no_folder_can_have(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"no such folder.*Give a run folder"):
        find_run(name)


def test_rings_of_folders_end(make, tmp_path):
    make.run(tmp_path / "a", steps=1)
    (tmp_path / "up").symlink_to(tmp_path)
    (tmp_path / "ring").symlink_to("ring")

    assert "1 runs of 1 setting" in write_report([tmp_path], tmp_path / "report.html").read_text()


@pytest.fixture
def as_nobody():
    """A folder that nobody's user may enter, and the rights of that user (root may read all)."""
    root = Path(tempfile.mkdtemp())  # that of pytest is closed to others
    root.chmod(0o755)
    user = os.geteuid()
    (root / "sweep").mkdir(mode=0o755)
    yield root / "sweep", lambda: os.seteuid(NOBODY) if user == 0 else None
    os.seteuid(user)
    for folder in (root / "sweep").iterdir():
        folder.chmod(0o755)
    shutil.rmtree(root)


@pytest.mark.parametrize("given", ["sweep", "run"])
def test_a_folder_that_may_not_be_entered(make, as_nobody, given):
    sweep, become_nobody = as_nobody
    make.run(sweep / "open", steps=1)
    make.run(sweep / "closed", steps=1).chmod(0)
    path = sweep if given == "sweep" else sweep / "closed"
    become_nobody()

    with pytest.raises(ValueError, match=r"closed.* cannot be read: Permission denied\. Give"):
        write_report([path], sweep / "report.html")


@pytest.mark.parametrize("place", ["out", "pictures", "parent"])
def test_a_report_that_cannot_be_written(make, tmp_path, place):
    folder = make.run(tmp_path / "a", steps=2)
    out = folder / "out" / "report.html"
    if place == "out":
        out.mkdir(parents=True)
    elif place == "pictures":
        out.parent.mkdir()
        (out.parent / "report").touch()
    else:
        out.parent.touch()

    with pytest.raises(ValueError, match=f"cannot be written: {out.parent}.*name another file"):
        write_report([folder], out)
