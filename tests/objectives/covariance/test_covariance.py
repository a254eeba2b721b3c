"""Covariance over the tokens given, and hashes that depend on seed and position alone."""

import torch

from isentropic.objectives.covariance.covariance import picked, token_covariance, token_hash


def test_covariance():
    """Means 1 and -2: (0-1)(-1+2) = -1, (2-1)(-3+2) = -1, (1-1)(...) = 0."""
    logprob, advantage = (
        torch.tensor(x, dtype=torch.float64) for x in ([-1.0, -3.0, -2.0], [0.0, 2.0, 1.0])
    )
    assert token_covariance(logprob, advantage).tolist() == [-1.0, -1.0, 0.0]


def test_picked_is_at_least_one_and_at_most_all():
    assert [picked(0.002, n) for n in (0, 1, 499, 1000, 2999)] == [0, 1, 1, 2, 5]
    assert picked(1.0, 7) == 7


def test_hash_is_the_mixer_in_plain_integers():
    """The same arithmetic with Python's integers, cut to 64 bits."""
    seed, full = 2**62 - 5, (1 << 64) - 1
    for position, got in enumerate(token_hash(seed, 5, torch.device("cpu")).tolist()):
        x = (position * 0x9E3779B97F4A7C15 + seed * 0xD1342543DE82EF95 + 0x632BE59BD9B4E019) & full
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & full
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & full
        assert got == (x ^ (x >> 31)) & ((1 << 62) - 1)


def test_hash_is_uniform_enough_and_changes_with_the_seed():
    hashes = [token_hash(seed, 4096, torch.device("cpu")) for seed in (1, 2)]
    for values in hashes:
        assert len(values.unique()) == 4096
        share = (values.double() / 2**62).mean()
        assert abs(share - 0.5) < 5 / (12 * 4096) ** 0.5
    assert not torch.equal(*hashes)
