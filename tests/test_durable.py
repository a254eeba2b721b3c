"""A disk that is full for a moment costs nothing; one that stays full raises."""

import errno
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from isentropic import durable
from isentropic.durable import when_there_is_room
from isentropic.metrics.sinks.jsonl import JsonlFile, read_lines


@pytest.fixture
def waits(monkeypatch):
    """Records the seconds that would be waited; no time passes."""
    waited = []
    monkeypatch.setattr(durable.time, "sleep", waited.append)
    return waited


class Disk:
    """Fails so many times, then takes three bytes at a time."""

    def __init__(self, failures, number=errno.ENOSPC):
        self.failures = failures
        self.number = number
        self.taken = b""

    def write(self, data):
        if self.failures:
            self.failures -= 1
            raise OSError(self.number, "")
        self.taken += bytes(data[:3])
        return len(data[:3])

    def close(self):
        pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_room_comes(waits, number):
    disk = Disk(2, number)
    assert when_there_is_room(partial(disk.write, b"abc")) == 3
    assert (disk.taken, waits) == (b"abc", [0.1, 0.3])


def test_no_room_comes(waits):
    with pytest.raises(OSError, match="28"):
        when_there_is_room(partial(Disk(99).write, b"abc"))
    assert len(waits) == 4


def test_other_errors_are_no_matter_of_room(waits):
    with pytest.raises(OSError, match="5"):
        when_there_is_room(partial(Disk(1, errno.EIO).write, b"abc"))
    assert waits == []


def test_parquet_says_when_the_disk_is_full(tmp_path):
    """The ledger's writer keeps the error's number, and removes the file, which is a link here."""
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match="space") as caught:
        pq.write_table(pa.table({"a": list(range(100_000))}), tmp_path / "full")
    assert caught.value.errno == errno.ENOSPC


def test_a_line_is_written_once_and_whole(tmp_path, waits):
    file = JsonlFile(tmp_path / "metrics.jsonl")
    file.write({"step": 1})
    disk = file._file = Disk(2)
    file.write({"step": 2, "text": "\u00e4"})
    assert disk.taken == b'{"step": 2, "text": "\xc3\xa4"}\n'
    assert read_lines(tmp_path / "metrics.jsonl") == ([{"step": 1}], False)
