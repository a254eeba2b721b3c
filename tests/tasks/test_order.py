"""Each prompt once per epoch, in an order that the seed and the epoch decide."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isentropic.tasks.order import index_of


@settings(deadline=None)  # a busy machine is no fault
@given(size=st.integers(1, 300), seed=st.integers(0, 2**62), epoch=st.integers(0, 3))
def test_every_index_once_per_epoch(size, seed, epoch):
    drawn = [index_of(epoch * size + position, size, seed) for position in range(size)]
    assert sorted(drawn) == list(range(size))


def test_another_epoch_or_seed_is_another_order():
    def order(epoch, seed):
        return [index_of(epoch * 100 + position, 100, seed) for position in range(100)]

    orders = [order(0, 7), order(1, 7), order(0, 8)]
    assert len(set(map(tuple, orders))) == 3
    assert order(0, 7) == orders[0]
    unmoved = sum(index == position for position, index in enumerate(orders[0]))
    assert unmoved < 10, "it is no shuffle"


@pytest.mark.parametrize(("draw", "size"), [(-1, 5), (0, 0)])
def test_refuses_what_has_no_prompt(draw, size):
    with pytest.raises(ValueError, match=f"got draw {draw}, size {size}"):
        index_of(draw, size, seed=0)
