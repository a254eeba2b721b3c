"""Inputs that are broken in every way: a clear error or a counted skip, never another exception, never a hang."""

import json
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from isentropic.controller.storage import checkpoints
from isentropic.controller.storage.checkpoints import Manifest
from isentropic.controller.storage.ledger import LedgerError, ledger_path, read_batch
from isentropic.experiments.settings.keys import flat
from isentropic.experiments.settings.load import load
from isentropic.experiments.statements.runs import run_statements
from isentropic.metrics.report.run_data import read_run
from isentropic.metrics.sinks.jsonl import JsonlFile, read_lines
from isentropic.tasks.rows import read_rows

ROOT = Path(__file__).resolve().parents[2]

many = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)
rows = st.dictionaries(st.sampled_from(["problem", "answer", "x"]), json_values, max_size=3)
lines = (
    st.binary(max_size=60)
    | rows.map(lambda row: json.dumps(row).encode())
    | st.just(b'{"problem": "1+1", "answer": "2"}')
)


@many
@given(st.lists(lines, max_size=12), st.sampled_from(["refuse", "skip"]))
def test_data_rows(tmp_path, written, on_bad_row):
    """Good rows and counted bad ones, or a ValueError with file and line."""
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\n".join(written))
    try:
        good, skipped = read_rows(
            str(path),
            split="train",
            columns=("problem", "answer"),
            limit=None,
            on_bad_row=on_bad_row,
        )
    except ValueError as error:
        assert str(path) in str(error)
        return
    assert all(isinstance(value, str) and value.strip() for row in good for value in row.values())
    assert len(good) + skipped == sum(1 for line in path.read_bytes().split(b"\n") if line.strip())


@many
@given(st.binary(max_size=300))
def test_parquet_that_is_none(tmp_path, written):
    path = tmp_path / "data.parquet"
    path.write_bytes(b"PAR1" + written + b"PAR1")
    with pytest.raises(ValueError, match=r"data\.parquet"):
        read_rows(str(path), split="train", columns=("problem",), limit=None, on_bad_row="skip")


@many
@given(
    st.lists(
        st.binary(max_size=40) | json_values.map(lambda value: json.dumps(value).encode()),
        max_size=6,
    )
)
def test_metrics_files(tmp_path, written):
    """Resume repairs a torn last line and refuses other damage by its line; the report shows what it can read."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\n".join(written))
    (tmp_path / "alarms.jsonl").write_bytes(path.read_bytes())
    for read in (
        lambda: read_lines(path),
        lambda: JsonlFile(path, resume_step=3).close(),
        lambda: read_run(tmp_path).raised,
    ):
        try:
            read()
        except ValueError as error:
            assert str(tmp_path) in str(error)


@many
@given(
    st.lists(json_values, max_size=4),
    st.sampled_from(["metrics", "updates", "alarms", "environment"]),
)
def test_statements_on_any_lines(tmp_path, written, name):
    """Whatever lines say, they are judged or left out, or refused with their file."""
    good = [{"step": 1, "policy_version": 0, "entropy/mean": 1.0}]
    for each in ("metrics", "updates", "alarms"):
        lines = [*good, *(written if each == name else [])]
        (tmp_path / f"{each}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "config.yaml").write_text(
        "objective: {name: ce_gppo, ratio: token, beta1: 0.5, beta2: 1.0}"
    )
    (tmp_path / "environment.json").unlink(missing_ok=True)
    if name == "environment":
        (tmp_path / "environment.json").write_text(json.dumps(written))
    try:
        assert all(row.verdict == "undecided" for row in run_statements([tmp_path]))
    except ValueError as error:
        assert str(tmp_path) in str(error)


@pytest.mark.parametrize(
    "name", ["metrics.jsonl", "updates.jsonl", "alarms.jsonl", "environment.json", "config.yaml"]
)
def test_a_folder_in_a_files_place(tmp_path, name):
    (tmp_path / name).mkdir()
    try:
        assert read_run(tmp_path).notes  # told, and left out
        assert read_lines(tmp_path / "updates.jsonl") == ([], False)
    except ValueError as error:
        assert str(tmp_path / name) in str(error)


@pytest.fixture(scope="module")
def composed():
    """The demo's config as Hydra hands it over, and its dotted keys."""
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        cfg = OmegaConf.to_container(
            compose("config", overrides=["experiment=ce_gppo_tiny"]), resolve=True
        )
    return cfg, sorted(flat(cfg))


@settings(many, max_examples=60)
@given(st.data())
def test_configs(composed, data):
    """Any value at any key, or a key that nobody knows: a config that holds, or a ValueError that names a key."""
    cfg, keys = composed
    wrong = OmegaConf.create(cfg)
    changed = data.draw(st.lists(st.sampled_from(keys), min_size=1, max_size=2))
    for key in changed:
        suffix = data.draw(st.sampled_from(["", "", "", "x"]))
        value = data.draw(json_values)
        OmegaConf.update(wrong, key + suffix, value, force_add=True, merge=False)
    try:
        load(wrong)
    except ValueError as error:
        assert str(error).strip()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    temporary = checkpoints.begin(folder, 2)
    (temporary / "learner" / "weights.bin").write_bytes(bytes(range(200)))
    state = {"buffer": np.arange(5), "on": True}
    about = {"config": {"seed": 0}}
    manifest = Manifest(step=2, policy_version=4, next_draw=8, about=about, files={})
    return checkpoints.commit(folder, temporary, manifest, state)


@many
@given(st.data())
def test_any_damage_to_a_checkpoint_is_seen(checkpoint, data):
    """Some bytes of some file are others: it is passed over, with a message that names it."""
    files = sorted(
        path for path in checkpoint.rglob("*") if path.is_file() and path.name != "manifest.json"
    )
    path = data.draw(st.sampled_from(files))
    whole = path.read_bytes()
    start = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.integers(0, 20))
    damaged = whole[:start] + data.draw(st.binary(max_size=20)) + whole[start + cut :]
    said = []
    path.write_bytes(damaged)
    try:
        found = checkpoints.latest(checkpoint.parent, said.append)
    finally:
        path.write_bytes(whole)
    if damaged == whole:
        assert found is not None and not said
    else:
        assert found is None and len(said) == 1 and str(checkpoint) in said[0]


@many
@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_manifest_is_a_checkpoint_or_an_error(checkpoint, written):
    path = checkpoint / "manifest.json"
    whole = path.read_bytes()
    said = []
    path.write_bytes(written)
    try:
        found = checkpoints.latest(checkpoint.parent, said.append)
    finally:
        path.write_bytes(whole)
    assert found is None and len(said) == 1


@many
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "step": json_values,
            "policy_version": json_values,
            "next_draw": json_values,
            "about": json_values,
            "files": json_values | st.dictionaries(st.text(max_size=10), json_values, max_size=3),
        },
    )
)
def test_a_manifest_of_wrong_types(checkpoint, values):
    path = checkpoint / "manifest.json"
    whole = path.read_bytes()
    said = []
    written = {key: value for key, value in json.loads(whole).items() if key != "digest"}
    checkpoints.write_manifest(checkpoint, written | values)  # with the digest of what it says
    try:
        found = checkpoints.latest(checkpoint.parent, said.append)
    finally:
        path.write_bytes(whole)
    if found is None:
        assert len(said) == 1
    else:
        manifest = found[1]
        assert all(
            type(value) is int
            for value in (manifest.step, manifest.policy_version, manifest.next_draw)
        )


@many
@given(st.binary(max_size=300))
def test_a_ledger_that_is_none(tmp_path, written):
    ledger_path(tmp_path, 3).write_bytes(b"PAR1" + written)
    with pytest.raises(LedgerError, match="step_000003"):
        read_batch(tmp_path, 3)


@many
@given(
    st.dictionaries(st.sampled_from(["step", "draws", "next_draw", "x"]), json_values, max_size=4)
)
def test_a_ledger_of_someone_else(tmp_path, about):
    text = json.dumps(about).encode()
    metadata = {"isentropic": text, "isentropic_crc32": str(zlib.crc32(text))}
    table = pa.table({"draw": [1, 2]}).replace_schema_metadata(metadata)
    pq.write_table(table, ledger_path(tmp_path, 3))
    with pytest.raises(LedgerError, match="step_000003"):
        read_batch(tmp_path, 3)
