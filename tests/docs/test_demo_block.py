"""README's block of the demo has the form that the terminal prints, and says what its numbers depend on."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [
    {"step": 0, "eval/avg_at_k": 0.25, "eval/pass_at_k": 0.5},
    {"step": 1, "reward/mean": 0.25, "entropy/mean": 0.5},
    {"step": 2, "reward/mean": 0.75, "entropy/mean": 0.125, "eval/avg_at_k": 0.5, "eval/pass_at_k": 0.75},
]  # fmt: skip


def form(block):
    """The block without its numbers: digits, bars of curves and the name of the run."""
    block = re.sub(r"[▁▂▃▄▅▆▇█]+", "~", block)
    return re.sub(r"runs/[^/]+/", "runs/NAME/", re.sub(r"\d\.\d{3}", "N", block))


def test_the_block_is_made_by_the_script(docs_script):
    demo = docs_script("make_demo")
    (block,) = demo.BLOCK.findall(README)
    made = demo.block("demo", LINES, 4)
    assert made.splitlines()[:3] == [
        "held-out avg@4  0.250 -> 0.500",
        "held-out pass@4  0.500 -> 0.750",
        "reward   0.250 -> 0.750  ▁█",
    ]
    assert form(block) == form(made)


def test_the_text_beside_it_says_what_it_depends_on():
    below = README.partition("make_demo.py")[2].split("![", 1)[0]
    assert "depend on the processor's arithmetic" in below
    assert "avg@4" in below and "pass@4" in below
