"""Weights that go together."""

from isentropic.weights.groups import in_groups


def test_groups_keep_the_order_and_the_limit():
    found = [*in_groups([3, 4, 2, 9, 1, 1], size=lambda item: item, limit=7)]
    assert found == [[3, 4], [2], [9], [1, 1]]
    assert not [*in_groups([], size=lambda item: item, limit=7)]
