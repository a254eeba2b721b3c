"""The index of a checkpoint, perhaps a stranger's: it makes records and changes nothing else."""

import pathlib
import pickle
import time

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from isentropic.learner.state import SafeReader


def name(module, attribute):
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def build(target, **attributes):
    """The pickle of an index that first sets attributes of something that it names."""
    index = Metadata(state_dict_metadata={}, planner_data=None, storage_data={}, storage_meta=None)
    index.storage_meta = StorageMeta()
    state = b"".join(
        b"X" + len(key).to_bytes(4, "little") + key.encode() + value
        for key, value in attributes.items()
    )
    setting = target + b"N}(" + state + b"u\x86b0"
    return b"\x80\x02" + setting + pickle.dumps(index, protocol=2)[2:]


ENUM = (
    name("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING")
    + b"(K\x00t"  # its first member
    + b"R"
)


@pytest.mark.parametrize(
    ("target", "attribute"),
    [
        pytest.param(name("pathlib", "PosixPath"), "is_file", id="a path"),
        pytest.param(name("torch.distributed.checkpoint.metadata", "Metadata"), "x", id="a class"),
        pytest.param(name("torch.serialization", "_get_layout"), "x", id="a function"),
        pytest.param(ENUM, "x", id="a member"),
    ],
)
def test_an_index_that_changes_a_class_of_this_process_is_refused(tmp_path, target, attribute):
    before = pathlib.Path.is_file
    text = build(target, **{attribute: name("collections", "OrderedDict")})
    (tmp_path / ".metadata").write_bytes(text)
    with pytest.raises(ValueError, match="sets attributes of"):
        SafeReader(tmp_path).read_metadata()
    assert pathlib.Path.is_file is before and not hasattr(Metadata, "x")


def test_an_index_of_ours_is_read_and_a_torn_one_is_called_damaged(tmp_path):
    state = {f"model/{n}": torch.arange(4.0) + n for n in range(300)}
    dcp.save(state, checkpoint_id=tmp_path)
    began = time.monotonic()
    known = SafeReader(tmp_path).read_metadata()
    assert time.monotonic() - began < 5
    assert known.state_dict_metadata.keys() == state.keys()
    zeros = {key: torch.zeros(4) for key in state}
    dcp.load(zeros, storage_reader=SafeReader(tmp_path))
    assert all(torch.equal(zeros[key], value) for key, value in state.items())

    whole = (tmp_path / ".metadata").read_bytes()
    for end in range(0, len(whole) - 1, 97):
        (tmp_path / ".metadata").write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"is damaged|sets attributes|of ours holds"):
            SafeReader(tmp_path).read_metadata()
