"""Closed grammars for answers that a scorer evaluates: numbers, operators and a few names, and nothing else.

Each function returns the text that an evaluator may see, or None. What is not plain is not cleaned: it is no answer.
"""

import ast
import math
import re
from collections.abc import Callable

NODES, DEPTH, LETTERS = 4000, 500, 20_000  # of an answer, at most
POWER_BITS = 10  # of an exponent: below 1024
NUMBER_BITS = 2**15  # of what a power makes
TRIGONOMETRIC = ("sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan")
HYPERBOLIC = ("sinh", "cosh", "tanh", "asinh", "acosh", "atanh")
FUNCTIONS = (*TRIGONOMETRIC, *HYPERBOLIC, "exp", "log", "ln", "sqrt", "Abs")
CONSTANTS = ("pi",)
OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow, ast.UAdd, ast.USub)
# Neither quotes nor brackets, underscores, backslashes, comments or line breaks: Python and the evaluator then agree
# on what the text says.
ARITHMETIC = re.compile(r"[0-9+\-*/(). ]+")
EXPRESSION = re.compile(r"[A-Za-z0-9+\-*/(),. ]+")
BOARD = re.compile(r"[Q_ \n]{1,20000}")

Plain = Callable[[str], str | None]


def arithmetic(text: str) -> str | None:
    """Numbers, + - * / and powers, in parentheses."""
    return text if ARITHMETIC.fullmatch(text) and _is_small(text) else None


def expression(text: str) -> str | None:
    """Arithmetic with variables of one letter and the functions of calculus."""
    return text if EXPRESSION.fullmatch(text) and _is_small(text) else None


def nested_list(text: str) -> str | None:
    """Lists, or lists of lists, of whole numbers or single characters, written anew."""
    if len(text) > LETTERS:
        return None
    try:
        values = ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None
    return repr(values) if isinstance(values, list | tuple) and _is_plain_list(values, 2) else None


def board(text: str) -> str | None:
    """A chess board of 'Q' and '_', as text or as a list of rows."""
    return text if BOARD.fullmatch(text) else nested_list(text)


def _is_plain_list(values: object, depth: int) -> bool:
    if isinstance(values, list | tuple):
        return depth > 0 and all(_is_plain_list(value, depth - 1) for value in values)
    return type(values) is int or (isinstance(values, str) and len(values) == 1)


def _is_small(text: str) -> bool:
    """Whether the text is an expression of this grammar whose numbers stay small while it is evaluated."""
    if len(text) > LETTERS:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        return sum(1 for _ in ast.walk(tree)) <= NODES and _bits(tree, 0) <= NUMBER_BITS
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _bits(node: ast.AST, depth: int) -> int:
    """A bound on the size of a number that this part can become. Raises ValueError if it is not plain."""
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
            left, right = _bits(node.left, depth + 1), _bits(node.right, depth + 1)
            return _bits_of(node.op, left, right)
    raise ValueError(f"{type(node).__name__} is not plain")


def _bits_of(operator: ast.operator, left: int, right: int) -> int:
    if isinstance(operator, ast.Add | ast.Sub):
        return max(left, right) + 1
    if isinstance(operator, ast.Mult | ast.Div):
        return left + right
    if right > POWER_BITS or left * 2**right > NUMBER_BITS:
        raise ValueError("a power makes too large a number")
    return left * 2**right
