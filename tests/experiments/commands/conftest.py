"""Commands run in this process: what they do to it as a program of its own is undone."""

import signal

import pytest


@pytest.fixture(autouse=True)
def _the_process_is_as_before(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)
