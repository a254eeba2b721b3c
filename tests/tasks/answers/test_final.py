"""Which part of a response is its answer."""

import pytest

from isentropic.tasks.answers.equal import is_right
from isentropic.tasks.answers.final import LAST_CHARACTERS, final_answer

CASES = [
    pytest.param(r"so it is \boxed{18}.", "18", id="the box"),
    pytest.param(r"\boxed{1}, no: \boxed{2}", "2", id="the last box"),
    pytest.param(r"\boxed{1}, \boxed{2}", "2", id="boxes near each other are not joined"),
    pytest.param(r"\boxed{1} and \boxed{2}", "2", id="nor with a word between them"),
    pytest.param(r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}", id="braces in it"),
    pytest.param(r"\boxed{\{1, 2\}}", r"\{1, 2\}", id="escaped braces in it"),
    pytest.param(r"\boxed{x = \boxed{5}}", "5", id="a box in a box"),
    pytest.param(r"\boxed 5", "5", id="no braces: one token"),
    pytest.param(r"$\boxed{5}$ cm", "5", id="in mathematics"),
    pytest.param(r"\fbox{5}", "5", id="the plain frame"),
    pytest.param(r"\boxed  {5}", "5", id="spaces in front of the brace"),
    pytest.param("\\boxed{\n5\n}", "5", id="on lines of its own"),
    pytest.param(r"the answer is 7, or \boxed{}", None, id="an empty box pays no other number"),
    pytest.param(r"the answer is 7, or \boxed{ }", None, id="nor one with a space"),
    pytest.param(r"\boxed{7} and then \boxed{}", None, id="nor another box"),
    pytest.param(r"it is 7: \boxed{12", None, id="never closed: perhaps 123"),
    pytest.param(r"\boxed{7}, better \boxed{1}2}", "1", id="closed at the first brace that can"),
    pytest.param(r"\boxed{7} #### 8", "7", id="the box outranks the mark"),
    pytest.param(r"the final answer is 8, \boxed{7}", "7", id="the box outranks words"),
    pytest.param(r"\boxed{7}. The answer is 8.", "7", id="words behind it, too"),
    pytest.param("48 + 24 = 72\n#### 72", "72", id="the mark of GSM8K"),
    pytest.param("#### 1\n#### 2\n", "2", id="the last mark"),
    pytest.param("the answer is 7\n####", None, id="an empty mark pays no other number"),
    pytest.param("#### $1,000", "$1,000", id="money"),
    pytest.param("5 + 6 = 11, the answer is 11.", "11", id="the last number"),
    pytest.param("Of 5 apples 25% are red. The answer is 25%.", "25%", id="with its percent sign"),
    pytest.param("The answer is $5x+3t$.", "5x+3t", id="the last formula, whole"),
    pytest.param("Final Answer: **73**", "73", id="emphasis around the last number"),
    pytest.param("The total is **$70,000**.", "70000", id="emphasis around money"),
    pytest.param(r"<think>\boxed{5}</think> I give up.", None, id="a box of the thinking"),
    pytest.param(r"<think>\boxed{5}, wait", None, id="a box of thinking that never ends"),
    pytest.param(r"\boxed{5}</think> So \boxed{6}", "6", id="a box behind the thinking"),
    pytest.param("7 + 1</think>The answer is 8", "8", id="words behind the thinking"),
    pytest.param("The answer is 5. That fails. The result is 7.", "7", id="the last such words"),
    pytest.param("The answer is 5 or 6.", None, id="an alternative"),
    pytest.param("The answer is not 5.", None, id="a denial"),
    pytest.param("The answer is (3, 4).", "(3, 4)", id="the whole clause: a point"),
    pytest.param("The answer is 3.14.", "3.14", id="a full stop in it"),
    pytest.param("The answer is 5 cm, because 2 + 3 = 5.", "5 cm", id="without its reason"),
    pytest.param("The answer is 5. But that is wrong.", None, id="taken back"),
    pytest.param("The answer is:\n\n$$\n5\n$$", "5", id="on lines of its own"),
    pytest.param("**Answer:** option B", "B", id="a choice"),
    pytest.param("The sum is 5. So x = 7.", "7", id="the last number"),
    pytest.param("Therefore, $2x = 5$.", "2x = 5", id="a last formula, whole"),
    pytest.param("So there are 5 apples.", "5", id="the last number, of a sentence"),
    pytest.param("I do not know.", None, id="nothing"),
    pytest.param("", None, id="empty"),
    pytest.param(r"\boxed", None, id="a box of nothing"),
    pytest.param(r"\boxedness is 5", "5", id="a command that begins like one"),
]


@pytest.mark.parametrize(("response", "answer"), CASES)
def test_final_answer(response, answer):
    assert final_answer(response) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        pytest.param("5 + 6 = 11, the answer is 11", None, id="the last number so far"),
        pytest.param("so $x = 5$. Then", None, id="the last formula so far"),
        pytest.param(r"so \boxed{6}. Let me check: 7", "6", id="a box that is closed"),
        pytest.param(r"\boxed{6} or \boxed{1", None, id="a box that is not"),
        pytest.param(r"\boxed 1", None, id="a bare box that may go on"),
        pytest.param(r"\boxed 1 is", "1", id="a bare box that has ended"),
        pytest.param("#### 12", None, id="a marked line that may go on"),
        pytest.param("#### 12\nThat is", "12", id="a marked line that has ended"),
        pytest.param("#### 12\n#### 1", None, id="and another one that may"),
    ],
)
def test_of_a_response_that_was_cut_off(response, answer):
    assert final_answer(response, truncated=True) == answer


@pytest.mark.parametrize(
    ("response", "gold", "right"),
    [
        ("The answer is 5. Checking: that fails. The result is 7.", "5", False),
        ("The answer is 5. Checking: that fails. The result is 7.", "7", True),
        ("The final answer is 5, but that is wrong; the correct value is 6.", "5", False),
        ("The answer is not 5.", "5", False),
        ("The answer is clearly not 5.", "5", False),
        ("The answer is 5 or 6.", "6", False),
        ("the answer is 5 million", "5", False),
        ("the answer is 5 million", "5000000", True),
        ("the answer is 5x", "5", False),
        ("x > 5", "5", False),
        ("Therefore, $2x = 5$.", "5", False),
        ("Therefore, $x = 5$.", "5", True),
        ("It is 6 (see equation 5)", "5", False),
        ("The answer is 3√2", "3", False),
        ("The answer is 3√2", r"3\sqrt{2}", True),
        ("the answer is (3, 4)", "4", False),
        ("the answer is (3, 4)", "(3, 4)", True),
        ("step 2", "2", False),
        ("1 + 1 = 2", "2", True),
        ("So in total Mark has 28 + 7 = 35 plants in his garden.", "35", True),
        ("The answer is 72 clips altogether in April and May.", "72", True),
        ("The answer is 5 million euros in 3 years.", "5", False),
        ("The answer is 5 million euros in 3 years.", "5,000,000", True),
        ("Answer: 72 (approximately)", "72", True),
        ("The result is 40 in April and 32 in May, so 72 in total.", "72", False),
        ("The solution: First we add. Then we get 72.", "72", True),
        ("The answer is 72. However, one could argue that clips break.", "72", True),
        ("The answer is 72. Wait, that is wrong: it is 71.", "72", False),
        ("The total is **$70,000**.", "70000", True),
        ("The answer is B", "B", True),
        ("The answer is No.", "No", True),
    ],
)
def test_of_what_is_said(response, gold, right):
    assert is_right(response, gold) is right


@pytest.mark.parametrize("behind", ["", " so x is 5"])
def test_a_box_far_from_the_end_is_still_the_answer(behind):
    assert final_answer("\\boxed{6}" + " a" * LAST_CHARACTERS + behind) == "6"


def test_a_box_longer_than_the_searched_end_is_no_later_number():
    content = "6" + " a" * LAST_CHARACTERS + " 5"
    assert final_answer(f"\\boxed{{{content}}}") == content
    assert final_answer(f"\\boxed{{{content}") is None


def test_a_mark_far_from_the_end_is_still_the_answer():
    assert final_answer("#### 1\n" + " and 2" * LAST_CHARACTERS) == "1"


def test_without_box_and_mark_only_the_end_of_a_long_response_is_read():
    assert final_answer("The answer is 1.\n" + " " * LAST_CHARACTERS) is None
