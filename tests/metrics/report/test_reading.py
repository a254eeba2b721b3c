"""What counts as a number, a step and a text in a file that anybody may have written."""

import pytest

from isentropic.metrics.report.reading import is_number, whole, words


@pytest.mark.parametrize("value", [0, -3, 2.5, 1e100, 10**100])
def test_numbers(value):
    assert is_number(value)


@pytest.mark.parametrize(
    "value", [True, None, "1", [1], float("nan"), float("inf"), 1e101, -(10**400)]
)
def test_no_numbers(value):
    assert not is_number(value)


@pytest.mark.parametrize(
    ("value", "count"),
    [(0, 0), (3, 3), (3.0, 3), (2**53, 2**53), (2**53 + 1, None), (-1, None), (0.5, None)],
)
def test_whole(value, count):
    assert whole(value) == count and type(whole(value)) is type(count)


def test_words_of_what_python_cannot_print():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    assert words(nested) == words(10**5000) == "..."
    while nested:
        nested = nested.pop()  # freed from the outside: no deep recursion there either
    assert words([1, None]) == "[1, None]"
