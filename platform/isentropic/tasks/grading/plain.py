"""Closed grammars for answers that a scorer evaluates: numbers, operators and a few names only.

Each function returns the text that an evaluator may see, or None. Text outside the grammar is not
cleaned up: it is not an answer.
"""

import ast
import math
import re
from collections.abc import Callable

# The largest answer that is read at all.
NODES = 4000
DEPTH = 500
LETTERS = 20_000
POWER_BITS = 10  # of an exponent: below 1024
NUMBER_BITS = 2**15  # of the result of a power
TRIGONOMETRIC = ("sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan")
HYPERBOLIC = ("sinh", "cosh", "tanh", "asinh", "acosh", "atanh")
FUNCTIONS = (*TRIGONOMETRIC, *HYPERBOLIC, "exp", "log", "ln", "sqrt", "Abs")
CONSTANTS = ("pi",)
OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.UAdd, ast.USub)
# No quotes, brackets, underscores, backslashes, comments or line breaks: with any of them Python
# and the evaluator could read the same text in two ways.
ARITHMETIC = re.compile(r"[0-9+\-*/(). ]+")
EXPRESSION = re.compile(r"[A-Za-z0-9+\-*/(),. ]+")
BOARD = re.compile(r"[Q_ \n]{1,20000}")

Plain = Callable[[str], str | None]


def arithmetic(text: str) -> str | None:
    """Accepts numbers, + - * / and powers, with parentheses."""
    return text if ARITHMETIC.fullmatch(text) and _is_small(text) else None


def expression(text: str) -> str | None:
    """Accepts arithmetic with variables of one letter and the functions of calculus."""
    return text if EXPRESSION.fullmatch(text) and _is_small(text) else None


def nested_list(text: str) -> str | None:
    """Accepts lists, or lists of lists, of whole numbers or single characters; writes them anew."""
    if len(text) > LETTERS:
        return None
    try:
        values = ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return repr(values) if isinstance(values, list | tuple) and _is_plain_list(values, 2) else None


def board(text: str) -> str | None:
    """Accepts a chess board of 'Q' and '_', as text or as a list of rows."""
    return text if BOARD.fullmatch(text) else nested_list(text)


def _is_plain_list(values: object, depth: int) -> bool:
    if isinstance(values, list | tuple):
        return depth > 0 and all(_is_plain_list(value, depth - 1) for value in values)
    return type(values) is int or (isinstance(values, str) and len(values) == 1)


def _is_small(text: str) -> bool:
    """Returns True for an expression of this grammar whose numbers stay small when evaluated."""
    if len(text) > LETTERS:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        return sum(1 for _ in ast.walk(tree)) <= NODES and _bits(tree, 0) <= NUMBER_BITS
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _bits(node: ast.AST, depth: int) -> int:
    """Bounds the bits of the number that this part can become; raises ValueError if not plain."""
    if depth > DEPTH:
        raise ValueError("too deep")
    match node:
        case ast.Constant(value=int(value)) if type(value) is int:
            return value.bit_length()
        case ast.Constant(value=float(value)) if math.isfinite(value):
            return int(abs(value)).bit_length() + 1
        case ast.Name(id=name) if len(name) == 1 or name in CONSTANTS:
            return 1
        case ast.Call(func=ast.Name(id=name), args=[_] | [_, _], keywords=[]) if name in FUNCTIONS:
            return max(_bits(argument, depth + 1) for argument in node.args) + 1
        case ast.UnaryOp() if isinstance(node.op, OPERATORS):
            return _bits(node.operand, depth + 1)
        case ast.BinOp() if isinstance(node.op, OPERATORS):
            left = _bits(node.left, depth + 1)
            right = _bits(node.right, depth + 1)
            return _bits_of(node.op, left, right)
    raise ValueError(f"{type(node).__name__} is not plain")


def _bits_of(operator: ast.operator, left: int, right: int) -> int:
    """Bounds the bits of the result of `operator` on numbers of `left` and `right` bits."""
    if isinstance(operator, ast.Add | ast.Sub):
        return max(left, right) + 1
    if isinstance(operator, ast.Mult | ast.Div):
        return left + right
    if right > POWER_BITS or left * 2**right > NUMBER_BITS:
        raise ValueError("a power makes too large a number")
    return left * 2**right
