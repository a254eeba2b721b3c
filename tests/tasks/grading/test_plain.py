"""What may reach an evaluator: numbers, operators and a closed list of names. All else is no answer."""

import time

import pytest

from isentropic.tasks.grading import plain

ARITHMETIC = ["6*(98 - 54) - 34 - 66", "1*3*5 + 9", "-(2 + 3)/4", "2**10", " 1 + 1 ", "3.5*2"]
EXPRESSIONS = [
    "-417560*y**6 - 327405*y**5 + 623128*y**4",
    "-exp(x)*sin(x) + exp(x)*cos(x) + C",
    "2*x**(3/2)/3 + C",
    "log(x, 2) + ln(x) + Abs(x) + sqrt(2)*pi",
    "x*asin(3*x) + sqrt(1 - 9*x**2)/3 + C",
    "+".join(f"{index}*x**{index}" for index in range(1, 300)),
]
LISTS = {
    "[1, 2, 3]": "[1, 2, 3]",
    "[[0,1],\n [1,0]]": "[[0, 1], [1, 0]]",
    "(1, -2)": "(1, -2)",
    "['A', \"B\"]": "['A', 'B']",
    "[['Q', '_'], ['_', 'Q']]": "[['Q', '_'], ['_', 'Q']]",
}
# Code, and text that an evaluator could take for code.
CODE = [
    "__import__('os').system('id')",
    'sin(\'__import__("os").system("id")\')',
    'exp("1")',
    "sin(b'1')",
    "x.__class__",
    "().__class__",
    "x[0]",
    "[open for x in [1]]",
    "{1: 2}",
    "lambda: 1",
    "(lambda: 1)()",
    "lambdify(x)",
    "Integral(x, x)",
    "sympify(x)",
    "S(x)",
    "N(x)",
    "eval(x)",
    "sin(x, evaluate=x)",
    "sin(*x)",
    "sin(x)(x)",
    "f'{x}'",
    "(x := 1)",
    "1 if x else 2",
    "x or 1",
    "not x",
    "1 < 2",
    "x = 1",
    "x; x",
    "1 # comment",
    "(1 # comment\n + 2)",
    "x\\\n+1",
    "`x`",
    "x!",
    "1_000",
    "_",
    "__",
    "1j",
    "True",
    "None",
    "...",
    "await x",
    "\uff53\uff49\uff4e(x)",
    "\u00aa",
    "x\x00",
    "\u2028",
    "1 +",
    "",
]
# Would fill the memory or the day.
LARGE = [
    "9**9**9",
    "(9**99)**99",
    "((((2**32)**32)**32)**32)",
    "x**99999999",
    "9**(100*100*100)",
    "2**-(9**9)",
    "1e999",
    "9" * 6000,
    "(" * 5000,
    "-" * 5000 + "1",
    "(" * 150 + "1" + ")" * 300,
    "1+" * 50_000 + "1",
    "sin(" * 90 + "x" + ")" * 90 + "+x" * 3000,
]


@pytest.mark.parametrize("text", ARITHMETIC)
def test_arithmetic_is_plain(text):
    assert plain.arithmetic(text) == text
    assert plain.expression(text) == text


@pytest.mark.parametrize("text", EXPRESSIONS, ids=lambda text: text[:40])
def test_expressions_are_plain(text):
    assert plain.expression(text) == text


@pytest.mark.parametrize(("text", "written"), LISTS.items())
def test_lists_are_written_anew(text, written):
    assert plain.nested_list(text) == written


@pytest.mark.parametrize(
    "grammar", [plain.arithmetic, plain.expression, plain.nested_list, plain.board]
)
@pytest.mark.parametrize("text", [*CODE, *LARGE], ids=lambda text: repr(text)[:40])
def test_nothing_else_is(text, grammar):
    if (grammar, text) in {(plain.board, "_"), (plain.board, "__")}:
        return  # a square of a board, or two
    started = time.monotonic()
    assert grammar(text) is None
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "text",
    ["['ab']", "[1.5]", "[[[1]]]", "[None]", "{1}", "5", "[[1, [2]]]", "['__import__']", "[b'a']"],
)
def test_lists_hold_whole_numbers_and_characters_only(text):
    assert plain.nested_list(text) is None


def test_a_board_may_be_drawn():
    assert plain.board("_ Q\nQ _") == "_ Q\nQ _"
    assert plain.board("Q_x") is None


def test_variables_are_no_part_of_arithmetic():
    assert plain.arithmetic("2*x") is None
