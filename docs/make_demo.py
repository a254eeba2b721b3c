"""Writes README's block of the demo from a run: python docs/make_demo.py runs/<name>

The run is that of `make demo`. The block is what the terminal shows at its end. The pictures of its report
are docs/make_screenshots.py's.
"""

# ruff: noqa: E402, the source root is put on sys.path before the package is imported

import io
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT / "platform")

from isentropic.experiments.run.folder import read_config
from isentropic.metrics.sinks.jsonl import read_lines
from isentropic.metrics.sinks.terminal import Terminal

README = ROOT / "README.md"
MARK = "<!-- made by docs/make_demo.py from a run of `make demo` -->\n"
BLOCK = re.compile(re.escape(MARK) + r"```\n(.*?)```\n", re.DOTALL)


def block(name: str, rows: Sequence[Mapping[str, Any]], samples: int) -> str:
    """Return the last lines of the terminal, for a run of this name in runs/."""
    text = io.StringIO()
    files = {
        key: f"runs/{name}/{key}.{end}" for key, end in (("metrics", "jsonl"), ("report", "html"))
    }
    Terminal(len(rows), samples=samples, stream=text).summary(rows, files)
    return text.getvalue()


def main(arguments: list[str]) -> int:
    """Rewrite it; return the exit code."""
    run = Path(arguments[0])
    config = read_config(run)
    rows, _ = read_lines(run / "metrics.jsonl")
    made = block(config["run"]["name"], rows, config["evaluation"]["samples"])
    text = README.read_text(encoding="utf-8")
    README.write_text(BLOCK.sub(lambda _: f"{MARK}```\n{made}```\n", text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
