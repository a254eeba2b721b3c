"""A disk that fills leaves whole lines: a later row is not glued to half of one."""

import errno
import os
import resource
import signal

import pytest

from isentropic import durable
from isentropic.experiments.sweep.ledger import LEDGER, SweepLedger


def write(ledger, digest, state="running"):
    ledger.write(digest, run=digest, overrides=("seed=0",), state=state, attempts=1)


@pytest.fixture
def full_after():
    """Lets files grow to so many bytes only, as a disk that fills."""
    limit, (soft, hard) = resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(limit, (soft if size is None else size, hard))
    resource.setrlimit(limit, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


def test_a_line_that_does_not_fit_is_taken_back(tmp_path, full_after):
    ledger = SweepLedger(tmp_path)
    write(ledger, "a")
    whole = (tmp_path / LEDGER).read_bytes()
    full_after(len(whole) + 60)
    try:
        with pytest.raises(OSError):
            write(ledger, "b", "done")
    finally:
        full_after(None)
    assert (tmp_path / LEDGER).read_bytes() == whole
    assert ledger.state("b") is None
    write(ledger, "c", "interrupted")
    again = SweepLedger(tmp_path)
    assert [again.state(digest) for digest in "abc"] == ["running", None, "interrupted"]


def test_a_row_waits_for_room(tmp_path, monkeypatch):
    ledger, full, sync = SweepLedger(tmp_path), [True], os.fsync

    def fsync(descriptor):
        if full:
            raise OSError(full.pop() and errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(durable.time, "sleep", lambda seconds: None)
    write(ledger, "a")
    assert len((tmp_path / LEDGER).read_text().splitlines()) == 1
    assert SweepLedger(tmp_path).state("a") == "running"
