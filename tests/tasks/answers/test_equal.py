"""The table of answers, equal.tsv: what equals what, and why. With the parser that is installed."""

import re
import sys
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isentropic.tasks.answers.equal import is_right
from isentropic.tasks.answers.latex import normal

sys.path.insert(0, str(Path(__file__).parents[1]))
from golds import answers, main, near_misses

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


# The sign, or one of k more, changes nothing here.
EQUAL_AFTER_ALL = {r"-0 \leq x < 1", r"\binom{5}{3}", r"-\pm 2", r"-\pm 1, \pm 2"}


@pytest.mark.parametrize("gold", sorted({gold for _, _, gold, _, _ in rows()}))
def test_near_misses_of_a_gold_answer_of_the_table_are_not_paid(gold):
    for miss in near_misses(gold):
        assert is_right(f"\\boxed{{{miss}}}", gold) is (miss in EQUAL_AFTER_ALL), miss


@pytest.mark.parametrize(
    ("gold", "misses"),
    [
        ("-1,209", ["-1210", "-12090", "1,209"]),
        (r"\frac{1}{2}", [r"\frac{1}{3}", r"\frac{1}{20}", r"-\frac{1}{2}"]),
        ("0.5", ["1.5", "10.5", "-0.5"]),
        ("0", ["1", "10", "1/0"]),
        ("Monday", ["not Monday", "Monda", ""]),
    ],
)
def test_near_misses(gold, misses):
    assert near_misses(gold) == misses


def test_the_check_of_data_files_names_what_is_graded_wrongly(tmp_path, monkeypatch, capsys):
    file = tmp_path / "few.jsonl"
    file.write_text('{"answer": "48 + 24 = 72\\n#### 72"}\n{"answer": "}{"}\n{"answer": 5}\n')
    monkeypatch.setattr(sys, "argv", ["golds.py", str(tmp_path)])
    assert answers(file) == ["72", "}{", "5"]
    assert main() == 1
    assert capsys.readouterr().out.splitlines() == [
        "few.jsonl: 3 golds, 1 not paid; near misses paid: 0",
        "    '}{'",
    ]


FRAGMENTS = sorted(
    {part for row in rows() for part in re.findall(r"\\[A-Za-z]+|\\.|\d+|[A-Za-z]+|.", row[3])}
)


@settings(max_examples=300, deadline=10_000)
@given(
    st.lists(st.sampled_from(FRAGMENTS), max_size=12), st.sampled_from([row[2] for row in rows()])
)
def test_whatever_is_answered_nothing_raises(parts, gold):
    assert is_right("\\boxed{" + "".join(parts) + "}", gold) in (True, False)


RAISED = str.maketrans("0123456789+-()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ")
LOWERED = str.maketrans("0123456789+-", "₀₁₂₃₄₅₆₇₈₉₊₋")


@given(
    st.sampled_from(["x", "2", "10", "a"]),
    st.from_regex(r"-?[1-9][0-9]{0,8}|n[+-][0-9]{1,3}", fullmatch=True),
)
def test_raised_characters_are_one_exponent_and_lowered_ones_one_index(base, index):
    assert normal(base + index.translate(RAISED)) == normal(f"{base}^{{{index}}}")
    if "n" not in index:
        assert normal(base + index.translate(LOWERED)) == normal(f"{base}_{{{index}}}")


@settings(max_examples=50, deadline=10_000)
@given(st.integers(0, 999), st.integers(1, 99), st.integers(2, 99))
def test_a_hyphen_is_a_minus_sign_and_a_dash_between_numbers_is_none(whole, top, bottom):
    # A gold that is no number accepts a difference that is not worked out.
    difference = f"{whole - Fraction(top, bottom)} + x"
    assert is_right(rf"\boxed{{x + {whole}-{top}/{bottom}}}", difference)
    assert not is_right(rf"\boxed{{x + {whole} {top}/{bottom}}}", difference)
    assert is_right(rf"\boxed{{{whole} {top}/{bottom}}}", str(whole + Fraction(top, bottom)))
    for dash in ("\N{EN DASH}", "--"):
        assert not is_right(rf"\boxed{{{whole}{dash}{top}}}", str(whole - top))
        assert is_right(rf"\boxed{{{whole}{dash}{top}}}", f"{whole}-{top}")


@settings(max_examples=50, deadline=10_000)
@given(
    st.integers(-99, 99),
    st.integers(-9, 9).filter(bool),
    st.integers(-99, 99),
    st.sampled_from(["x", "t", "\\theta"]),
)
def test_a_condition_on_one_letter_says_no_answer(value, factor, added, letter):
    assert is_right(rf"\boxed{{{letter} = {value}}}", str(value))
    assert is_right(rf"\boxed{{{letter} + {factor}a = {value}}}", str(value))
    if (factor, added) != (1, 0):
        assert not is_right(rf"\boxed{{{factor}{letter} {added:+} = {value}}}", str(value))


@settings(max_examples=50, deadline=10_000)
@given(st.integers(-99, 99), st.integers(-99, 99), st.integers(-199, 199))
def test_a_constant_says_what_it_is(one, other, value):
    assert is_right(rf"\boxed{{{one} {other:+} = {one + other}}}", str(one + other))
    assert is_right(rf"\boxed{{{one} {other:+} = {value}}}", str(value)) is (one + other == value)


@pytest.mark.parametrize(
    ("opening", "closing"), [("[", "]"), ("(", ")"), ("\\{", "\\}"), ("", "^T")]
)
@pytest.mark.parametrize("gold", ["5", r"\begin{pmatrix} 1 \end{pmatrix}", r"(2, \infty)"])
def test_what_nests_without_end_is_no_answer(gold, opening, closing):
    count = 1900 // len(opening + closing)
    assert not is_right(f"\\boxed{{{opening * count}5{closing * count}}}", gold)


def test_a_thousand_checks_take_seconds(capsys):
    pairs = [(gold, answer) for _, _, gold, answer, _ in rows()]
    started = time.process_time()
    for number in range(1000):
        gold, answer = pairs[number % len(pairs)]
        is_right(f"After step {number} it is \\boxed{{{answer}}}.", gold)
    seconds = time.process_time() - started
    with capsys.disabled():
        print(f"\n1000 checks of answers: {seconds:.1f} s")
    assert seconds < 20  # about 2 where nothing is cached
