r"""Whether an equation says an answer, its right side: x = 5 says 5, 2x = 5 does not.

    x = 5, f(2) = 5, \text{Area} = 5, \sin x = 5   a name, of what is asked
    2 + 3 = 5, but not 3 = 5                       a constant, if it is what it is said to be
    10 \bmod 7 = 3, 2 \star 3 = 5, 1 + ... + 9 = 45   a constant that is not computed here
    x + y = 15, |AB| = 5                           an expression in two letters may be what is asked
    2x = 5, x + 2 = 5, |x| = 5, x^2 = 4            a condition on one letter: its value is another

Texts are in their normal form (`latex.normal`).
"""

import re

from isentropic.tasks.answers.numbers import read_number
from isentropic.tasks.answers.structure import NAME, ONE_NAME, Equation
from isentropic.tasks.answers.units import split_unit

# Values of one thing, though a name stands in them: \sin x, \sin 2x and \sin^2 x are asked for,
# \ln x is not. So are the norm of a vector, the size of a set, |S|, and the modulus |z|; |x| is a
# condition on x. f^{-1}(3) is a value of a function, x^* a name, and _5C_2 a number.
VALUE_OF = re.compile(
    rf"\\(?:sin|cos|tan|cot|sec|csc|det|deg|dim|arg)\s*(?:\^\d\s*)?\d*\s*{ONE_NAME}"
    r"|\\\|[^|]*\\\||\|(?:[A-Zzw]|\\vec\s*\{[A-Za-z]+\})\|"
    r"|[fghFGH]\^(?:\d|\{[^{}]*\})\s*\([^()A-Za-z]*\)|[A-Za-z]\^\{?\\cdot\s*\}?"
    r"|(?:\{\})?[_^](?:\d|\{\d+\})\s*[CP]_(?:\d|\{\d+\})"
)
# Of numbers, and yet not computed here: operations that the question defines, sums with dots.
NOT_COMPUTED = re.compile(
    r"\\(?:b|p)?mod(?![A-Za-z])|\\(?:max|min)(?![A-Za-z])|\|\s*\\\{|\\ldots|\.\.\.|\\#|@"
    r"|\\(?:oplus|ominus|otimes|odot|star|bigstar|diamond|Diamond|bigcirc|triangle|square|Box"
    r"|heartsuit|spadesuit|clubsuit|diamondsuit)(?![A-Za-z])"
)
DOTS = re.compile(r"\\ldots|\.\.\.")  # 1 + 2 + ... + n is no condition on n
ACCENT = re.compile(r"\\(?:bar|tilde|dot|ddot|widehat|widetilde|mathcal|mathbb)\s*\{?([A-Za-z])\}?")
# Written like a function of a name, f(x): a product, x(x + 1), and what is solved for x.
CONDITION = re.compile(r"([A-Za-z])\s*\(.*\1.*\)|\\(?:ln|log|exp)(?![A-Za-z]).*")
GREEK = (
    "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|vartheta|iota|kappa|lambda|mu|nu|xi|rho"
    "|sigma|tau|phi|varphi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Xi|Sigma|Phi|Psi|Omega"
)
# Bound by what stands in front, the other letter is no unknown: \max_x f(x) is a number.
BINDING = "max|min|sup|inf|lim"
SIGN = re.compile(rf"\\(?!(?:text|{GREEK}|{BINDING})(?![A-Za-z]))[A-Za-z]+|(?<![A-Za-z])e(?=\s*\^)")
LETTER = re.compile(
    r"\\text\{[^{}]*\}|\\?[A-Za-z](?:(?<=\\.)[A-Za-z]+)?(?:_(?:\w|\{[^{}]*\}))?'*(?:\([^()A-Za-z]+\))?"
)


def names_what_is_asked(equation: Equation) -> bool:
    """Whether a side is a name, or an expression that a question may ask the value of."""
    # x &= 5 is a line of a table of equations, \# a number of things.
    left = ACCENT.sub(r" \1", equation.left.rstrip("°& ").removeprefix(r"\#")).strip()
    if equation.value != equation.right:  # 5 = x
        return True
    named = NAME.fullmatch(left) or VALUE_OF.fullmatch(left)
    if named and not CONDITION.fullmatch(left):
        return True
    if read_number(split_unit(left)[0]):
        return False
    letters = set(LETTER.findall(SIGN.sub(" ", left)))
    if letters - {r"\max", r"\min"}:
        return len(letters) > 1 or DOTS.search(left) is not None
    # What has neither letters nor digits stands for nothing: ? = 5, __ = 5.
    return bool(NOT_COMPUTED.search(left)) or not re.search(r"[^\W_]", left)
