"""The table of answers, equal.tsv: what equals what, and why. With the parser that is installed."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isentropic.tasks.answers.equal import is_right

TABLE = Path(__file__).with_name("equal.tsv")


def rows():
    """(section, whether right, gold, answer, why) of each line of the table."""
    section = ""
    for line in TABLE.read_text(encoding="utf-8").splitlines()[1:]:
        if line.startswith("# "):
            section = line[2:]
            continue
        expected, gold, answer, why = line.split("\t")
        yield section, expected == "yes", gold, answer, why


@pytest.mark.parametrize(
    ("expected", "gold", "answer"),
    [
        pytest.param(expected, gold, answer, id=f"{section}: {gold} <- {answer}: {why}")
        for section, expected, gold, answer, why in rows()
    ],
)
def test_table(expected, gold, answer):
    assert is_right(f"So it is \\boxed{{{answer}}}.", gold) is expected


@pytest.mark.parametrize("gold", sorted({gold for _, _, gold, _, _ in rows()}))
def test_every_gold_answer_of_the_table_is_right_itself(gold):
    assert is_right(f"\\boxed{{{gold}}}", gold)
    assert not is_right("\\boxed{}", gold)
    assert not is_right("", gold)


@pytest.mark.parametrize("gold", ["\\boxed{72}", "48 + 24 = 72\n#### 72", "$72$", "#### 72"])
def test_a_gold_column_may_hold_the_solution(gold):
    assert is_right("\\boxed{72}", gold)
    assert not is_right("\\boxed{48}", gold)


FRAGMENTS = sorted(
    {part for row in rows() for part in re.findall(r"\\[A-Za-z]+|\\.|\d+|[A-Za-z]+|.", row[3])}
)


@settings(max_examples=300, deadline=10_000)
@given(
    st.lists(st.sampled_from(FRAGMENTS), max_size=12), st.sampled_from([row[2] for row in rows()])
)
def test_whatever_is_answered_nothing_raises(parts, gold):
    assert is_right("\\boxed{" + "".join(parts) + "}", gold) in (True, False)


def test_a_thousand_checks_take_seconds(capsys):
    pairs = [(gold, answer) for _, _, gold, answer, _ in rows()]
    started = time.perf_counter()
    for number in range(1000):
        gold, answer = pairs[number % len(pairs)]
        is_right(f"After step {number} it is \\boxed{{{answer}}}.", gold)
    with capsys.disabled():
        print(f"\n1000 checks of answers: {time.perf_counter() - started:.1f} s")
