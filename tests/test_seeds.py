"""Others' code draws from the global generators as if it had them alone, and leaves no trace."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from isentropic.seeds import global_generators


def draw():
    return random.random(), float(np.random.random())


def test_what_is_drawn_depends_on_the_seed_alone_and_is_forgotten():
    random.seed(3)
    np.random.seed(3)
    expected = [draw(), draw()]
    random.seed(3)
    np.random.seed(3)
    first = draw()
    with global_generators(7):
        one = draw()
    with global_generators():
        np.random.seed(5)  # as a generator of reasoning-gym does
    with global_generators(7):
        assert draw() == one
    assert [first, draw()] == expected


def test_one_thread_at_a_time():
    """A sweep reads the prompts of one run in a thread while another run draws its own."""
    with global_generators(1):
        alone = [draw(), draw()]
    inside, go_on = threading.Event(), threading.Event()

    def interrupted():
        with global_generators(1):
            one = draw()
            inside.set()
            go_on.wait(10)
            return [one, draw()]

    def other():
        with global_generators(2):
            return draw()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(interrupted)
        assert inside.wait(10)
        second = pool.submit(other)
        assert not second.done()
        go_on.set()
        assert first.result(10) == alone
        assert second.result(10) != alone[0]
