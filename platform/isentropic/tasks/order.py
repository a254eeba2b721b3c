"""The order in which prompts are drawn: a keyed shuffle of every epoch, in constant memory."""

from isentropic.seeds import hash_seed

ROUNDS = 6


def index_of(draw: int, size: int, seed: int) -> int:
    """Index of the prompt of draw `draw`; an epoch of `size` draws has each index exactly once.

    A pure function: no state, so that resume, branches and several processes agree. A balanced
    Feistel network permutes the smallest even-bit range that holds `size`; what falls outside walks
    on until it is inside (Black and Rogaway 2002, "cycle walking"; under four rounds on average).
    """
    if draw < 0 or size < 1:
        raise ValueError(
            "a draw needs draw >= 0 and a data set of at least one prompt, got "
            f"draw {draw}, size {size}."
        )
    epoch, value = divmod(draw, size)
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    key = hash_seed("order", seed, epoch)
    while True:
        value = _feistel(value, half_bits, key)
        if value < size:
            return value


def _feistel(value: int, half_bits: int, key: int) -> int:
    """A permutation of [0, 4 ** half_bits)."""
    mask = (1 << half_bits) - 1
    left, right = value >> half_bits, value & mask
    for round_ in range(ROUNDS):
        left, right = right, left ^ (hash_seed(key, round_, right) & mask)
    return left << half_bits | right
