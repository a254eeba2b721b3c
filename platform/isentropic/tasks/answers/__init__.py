"""Mathematical answers: which part of a response is the answer, and whether it equals the gold one.

    final.py      the answer of a response: its last box
    said.py       the answer of a response without a box: what it says last
    latex.py      one spelling for everything that LaTeX writes in several ways
    numbers.py    exact rational numbers
    units.py      what is counted or measured
    structure.py  lists, tuples, sets, intervals, matrices, equations: what an answer is made of
    kinds/        equations that say an answer; numbers in words, in other groups of digits, in other
                  bases; times of day; residue classes; sets of real numbers, as intervals
    symbolic.py   formulas, by latex2sympy
    finished.py   whether an answer is worked out, or the question over again
    equal.py      the rules, one per kind of answer, in order

Each rule either decides or leaves the pair to the next one, and a pair that no rule decides is not
equal: a right answer in an unusual spelling costs one reward, a wrong answer that is paid bends the
experiment. `tests/tasks/answers/` has the table of what equals what, and why.
"""

import logging

# It warns that its time limits are off. They need signals; who grades has a harder limit.
logging.getLogger("math_verify").setLevel(logging.ERROR)
