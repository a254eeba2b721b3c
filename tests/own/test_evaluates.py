"""Every way to run a text that an answer holds is one, and what rewards are mostly made of is none."""

import pytest

from isentropic.own.evaluates import evaluator, imported

FUNCTION = "def grade(prompt, response, row):\n    return {}\n"
RUNS = {
    "eval": "eval(response)",
    "exec by another name": "(lambda run: run(response))(exec)",
    "compile": "compile(response, '', 'eval')",
    "builtins": "__builtins__['eval'](response)",
    "import of a text": "__import__(response)",
    "globals": "globals()[response]()",
    "a method by name": "getattr(row, response)()",
    "getattr in other hands": "list(map(getattr, [row], [response]))",
    "setattr": "setattr(row, response, 1)",
    "the name of a way": "getattr(row, '__globals__')",
    "the classes of all": "().__class__.__base__.__subclasses__()",
    "a function's code": "grade.__code__",
}
IMPORTS = {
    "sympy": "import sympy",
    "parse_expr": "from sympy.parsing.sympy_parser import parse_expr",
    "builtins": "import builtins",
    "pandas": "import pandas as pd",
    "numexpr": "import numexpr",
    "pickle": "import pickle",
    "yaml": "import yaml",
    "jinja2": "from jinja2 import Template",
    "code": "import code",
    "timeit": "from timeit import timeit",
    "types": "import types",
    "importlib": "import importlib",
    "os": "import json, os",
    "subprocess": "import subprocess",
    "a helper's package": "from helper_of_mine.grades import compute",
    "what lies beside it": "from . import helper",
    "in a function": "def f():\n    import math_verify",
    "part of a module": "import logging.config",
    "a shell of asyncio": "from asyncio import create_subprocess_shell",
    "a method by a name": "from operator import methodcaller",
    "hints that are evaluated": "import typing\ntyping.get_type_hints(object)",
    "a pickle of numpy": "import numpy as np\nnp.load('f', allow_pickle=True)",
}


@pytest.mark.parametrize("way", RUNS)
def test_pythons_own_ways_are_named_with_their_line(way):
    assert "(line 2)" in evaluator(FUNCTION.format(RUNS[way]))


@pytest.mark.parametrize("way", IMPORTS)
def test_modules_that_are_not_known_to_be_harmless_are_named(way):
    assert evaluator(f"{IMPORTS[way]}\n{FUNCTION.format('1.0')}").startswith("it ")
    assert evaluator("import re\nimport sympy\n") == "it imports sympy (line 2)"


def test_a_plain_reward_runs_nothing():
    text = """
import json, math, re, asyncio, aiohttp
import collections.abc, numpy as np
from dataclasses import dataclass
from difflib import SequenceMatcher
from fractions import Fraction
from urllib.parse import urlsplit

from isentropic.records import Prompt

NUMBER = re.compile(r"\\d+")

def grade(prompt, response, row):
    said = json.loads(response)
    return getattr(said, "right", 0.0) + np.mean([float(Fraction(x)) for x in NUMBER.findall(response)])
"""
    assert evaluator(text) == ""


def test_what_its_functions_import_is_known_too():
    text = "import re\ndef f():\n    from sympy.core import Integer\n    from . import beside\n"
    assert imported(text) == ["re", "sympy.core"]
