"""Seeds that depend on what is drawn, never on who draws it, when, or how many do."""

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

SEED_BITS = 62
_ALONE = threading.RLock()


def hash_seed(*parts: str | int) -> int:
    """Hashes any parts to a 62-bit seed: equal parts, equal seed, on every machine."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - SEED_BITS)


def rollout_seed(
    run_seed: int, split: str, draw: int, sample: int, wave: int, turn: int, segment: int = 0
) -> int:
    """Hashes what names one request of one rollout to the engine's seed.

    It does not depend on the actors, their number or order, the policy version or the staleness.

    Args:
        segment: which request of its turn; a turn that is written at once has only the first.
    """
    parts = (run_seed, split, draw, sample, wave, turn)
    return hash_seed("rollout", *parts, *((segment,) if segment else ()))


@contextmanager
def global_generators(seed: int | None = None) -> Iterator[None]:
    """Lets others' code seed and draw from Python's and numpy's global generators.

    One thread at a time: a sweep reads the data of one run while another runs. What the generators
    were before, they are again afterwards.

    Args:
        seed: of both; None leaves them as they are.
    """
    with _ALONE:
        states = random.getstate(), np.random.get_state()
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
