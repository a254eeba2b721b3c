"""The README's example of a new objective is complete, short, and works as it stands."""

import re
import sys
import types
from pathlib import Path

import torch
import yaml

from isentropic.objectives import OBJECTIVES
from isentropic.objectives.loss.leaves import leaf_gradients

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def blocks():
    """Code blocks of the section, by the path in their first line."""
    section = README.split("## Add an objective", 1)[1].split("\n## ", 1)[0]
    found = re.findall(
        r"```(?:python|yaml)\n# (\S+?)(?:, in OBJECTIVES)?\n(.*?)```", section, flags=re.DOTALL
    )
    return dict(found)


def test_the_example_is_under_forty_lines():
    lines = [line for text in blocks().values() for line in text.splitlines() if line.strip()]
    assert len(blocks()) == 4 and len(lines) < 40


def test_the_example_runs(monkeypatch):
    source, line, preset, test = blocks().values()
    module = types.ModuleType("tempered")
    monkeypatch.setitem(sys.modules, "tempered", module)
    exec(compile(source, "README.md", "exec"), module.__dict__)
    entry = eval(f"{{{line}}}", module.__dict__)["tempered"]
    monkeypatch.setitem(OBJECTIVES, "tempered", entry)

    exec(
        compile(f"{test}\ntest_gradient()", "README.md", "exec"),
        {"torch": torch, **module.__dict__},
    )
    config = entry(**yaml.safe_load(preset))
    fields = {name: torch.zeros(2, dtype=torch.float64) for name in ("logprob", "old_logprob")}
    fields |= {"advantage": torch.tensor([2.0, -1.0], dtype=torch.float64)}
    fields["loss_weight"] = torch.tensor([0.5, 0.5], dtype=torch.float64)
    result = leaf_gradients(config, config.at(1), fields)
    torch.testing.assert_close(result.d_logprob, torch.tensor([-1.0, 0.5], dtype=torch.float64))
