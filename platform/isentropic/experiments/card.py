"""The model card of an exported checkpoint: what it is, how it was made, how it is served."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isentropic.config import ModelConfig, method_name
from isentropic.experiments.run.recorded import Plain
from isentropic.folders import CACHED
from isentropic.models.source import EMBEDDED, EMBEDDED_VISION

SCORE = "eval/avg_at_k"
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def model_card(
    config: Plain,
    values: Mapping[str, Any],
    lines: Mapping[int, Mapping[str, Any]],
    *,
    step: int,
    version: int,
    dtype: str,
) -> str:
    """Returns the text of README.md. It names no folder of this machine.

    Args:
        values: all of the config, as plain values, which know the presets that were chosen.
        lines: those of metrics.jsonl, by step.
        step, version: of the checkpoint; the version counts updates of the weights.
    """
    rollout, learner = config.rollout, config.learner
    hub, base = _base(config.model)
    rows = {
        "model": base + (f", revision {config.model.revision}" if config.model.revision else ""),
        "method": method_name(values),
        "task": values["task"]["name"],
        "steps": f"{step} of {config.run.steps}, {version} updates",
        "seed": values["seed"],
        f"held-out avg@{config.evaluation.samples}": _score(config, lines, step),
        "weights": f"{dtype}, {_trained(config)}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"""---
library_name: transformers
pipeline_tag: text-generation
{f"base_model: {hub}" + chr(10) if hub else ""}tags:
- reinforcement-learning
- isentropic
---

# {config.run.name}, step {step}

| | |
|---|---|
{table}

avg@k is the share of right answers among k samples per held-out prompt.

## How it was made

By reinforcement learning, with isentropic. A step draws {rollout.group_size} responses, of at most
{rollout.max_response_tokens} tokens, to each of {rollout.prompts_per_step} prompts at temperature
{rollout.temperature:g}, and makes {learner.updates_per_rollout} updates with AdamW at learning rate
{learner.lr:g} ({learner.lr_schedule}). The run's `config.yaml` has every other value.

## How to use it

In this folder: `{serve_command(Path("."), config.model)}`. `transformers` loads the folder with
`AutoModelForCausalLM.from_pretrained`.
"""


def serve_command(folder: Path, model: ModelConfig) -> str:
    """Returns the command line that serves the exported folder."""
    trust = " --trust-remote-code" if model.trust_remote_code else ""
    return f"vllm serve {shlex.quote(str(folder))}{trust}"


def _base(model: ModelConfig) -> tuple[str | None, str]:
    """Returns the Hub name of what the run began with, if it has one, and what to call it."""
    if model.path in (EMBEDDED, EMBEDDED_VISION):
        return None, f"isentropic's own small model, {model.name}"
    if HUB_NAME.fullmatch(model.path) and not Path(model.path).exists():
        return model.path, model.path
    return None, Path(model.path.removeprefix(CACHED)).name


def _score(config: Plain, lines: Mapping[int, Mapping[str, Any]], step: int) -> str:
    """Returns the last score up to the step, with that of the start."""
    measured = {at: line[SCORE] for at, line in lines.items() if at <= step and SCORE in line}
    if not measured:
        return "not measured"
    last = max(measured)
    late = f" after step {last}" if last != step else ""
    start = f"; {measured[0]:.3f} before training" if last and 0 in measured else ""
    return f"{measured[last]:.3f}{late}, temperature {config.evaluation.temperature:g}{start}"


def _trained(config: Plain) -> str:
    lora = config.learner.lora
    return f"adapters of rank {lora.rank}, merged" if lora else "all of them trained"
