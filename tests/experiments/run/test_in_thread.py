"""A coroutine runs to its end where a loop runs already, and Ctrl-C reaches it."""

import asyncio
import signal
import threading

import pytest

from isentropic.experiments.run.in_thread import gets_signals, in_thread, run_anywhere


async def answer():
    await asyncio.sleep(0)
    return threading.current_thread()


async def fails():
    raise ValueError("so it is")


async def press_ctrl_c():
    await asyncio.sleep(0.1)  # by then the main thread waits
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def test_a_loop_that_runs_is_no_obstacle():
    async def cell():
        assert not gets_signals()
        return run_anywhere(answer())

    assert asyncio.run(cell()) is not threading.main_thread()
    assert gets_signals()
    assert run_anywhere(answer()) is threading.main_thread()


def test_an_error_comes_out_as_it_is():
    with pytest.raises(ValueError, match="so it is"):
        in_thread(fails())


def test_ctrl_c_cancels():
    ended = []

    async def work():
        try:
            await press_ctrl_c()
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        in_thread(work())
    assert ended == [True]


def test_ctrl_c_is_handed_on_and_the_work_ends_in_its_own_way():
    stop = []

    async def work():
        await press_ctrl_c()
        while not stop:
            await asyncio.sleep(0.01)
        return "saved"

    assert in_thread(work(), interrupt=lambda: stop.append(True)) == "saved"
