"""How tests of docs/ reach the scripts that make its pages."""

import importlib.util
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="session")
def docs_script():
    """Loads a script of docs/ by name, without what it puts on `sys.path`."""

    def load(name):
        place = sys.path[0]
        spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.path[0] = place
        return module

    return load
