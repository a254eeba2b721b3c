"""Samples per second against TRL's GRPOTrainer: same weights, prompts, reward, loss and learning rate.

    python benchmarks/peers.py                       # the whole table: 50 minutes on two cores
    python benchmarks/peers.py --only a,c --rounds 5
    python benchmarks/peers.py --only a --small      # one step of each side: does it run?
    python benchmarks/peers.py filter=drop_flat      # other settings, by the names of conf/

    a    the embedded task, 64 prompts x 8 answers, 8 updates per step
    b    SmolLM2-135M on sums, 4 x 8 answers of at most 256 tokens, 2 updates, in float32
    b16  as b, both sides in bfloat16 (float32 weights in the optimizer)
    c    as a, with 2 updates

The sides take turns, each in processes of its own, and change who goes first in every round. A
step lasts from one line of metrics to the next, by one clock outside; the first is not counted.
Both sides train on every answer and use all cores: this project draws a and c with an engine per
core, b with an engine of two threads. TRL draws with transformers' `generate` and, as is best for
it here, makes one pass per update, without gradient checkpointing. It gets
a virtual environment of its own under .cache/peers, on top of this project's packages. Measure on
a quiet machine: other work on its cores slows TRL far more than this project.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT / "platform")

from isentropic.config import Config  # noqa: E402
from isentropic.experiments.settings.compose import compose_run  # noqa: E402
from isentropic.experiments.settings.load import load  # noqa: E402
from isentropic.folders import cache_folder  # noqa: E402
from isentropic.models.pretrained import load_chat  # noqa: E402
from isentropic.models.source import model_folder  # noqa: E402
from isentropic.records import Prompt  # noqa: E402
from isentropic.tasks import TASKS  # noqa: E402
from isentropic.tasks.base import Task, reward_of  # noqa: E402
from isentropic.tasks.chat import Chat  # noqa: E402
from isentropic.tasks.order import index_of  # noqa: E402

TRL = "trl==1.16.0"
VENV = ROOT / ".cache" / "peers"
HERE, PEER = "isentropic", "TRL"
POLL_S = 0.02  # how exactly a line's time is known
LOG_TAIL = 3000  # characters of a failed side's output that are shown

COMMON = (
    "objective=dapo",
    "filter=keep_all",  # TRL trains on every answer
    "evaluation.every=0",
    "checkpoint.every=0",
    "tracking.wandb=disabled",
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What one row is measured at."""

    title: str
    overrides: tuple[str, ...]
    steps: int  # measured per round


EMBEDDED = (
    "experiment=ce_gppo_tiny",
    "rollout.prompts_per_step=64",
    "rollout.group_size=8",
    "rollout.num_actors=2",
)
SMOLLM2 = (
    "experiment=smollm2_chain_sum",
    "rollout.prompts_per_step=4",
    "rollout.group_size=8",
    "rollout.max_response_tokens=256",
    "model.max_length=384",
    "learner.updates_per_rollout=2",
    "cluster.cpus_per_engine=2",
)
BFLOAT16 = ("rollout.dtype=bfloat16", "learner.dtype=bfloat16", "rollout.probe_tolerance=0.3")
CASES = {
    "a": Case(
        title="embedded task, 64 x 8 answers, 8 updates",
        overrides=(*EMBEDDED, "learner.updates_per_rollout=8"),
        steps=15,
    ),
    "b": Case(title="SmolLM2-135M on sums, 4 x 8 answers, 2 updates", overrides=SMOLLM2, steps=2),
    "b16": Case(
        title="SmolLM2-135M on sums, in bfloat16", overrides=(*SMOLLM2, *BFLOAT16), steps=2
    ),
    "c": Case(
        title="embedded task, 64 x 8 answers, 2 updates",
        overrides=(*EMBEDDED, "learner.updates_per_rollout=2"),
        steps=15,
    ),
}


def settings(case: Case, steps: int, more: Sequence[str] = ()) -> list[str]:
    """The overrides of a run that trains the step that is not counted and `steps` more."""
    return [*case.overrides, *COMMON, *more, f"run.steps={steps + 1}"]


def read(overrides: Sequence[str]) -> Config:
    return load(compose_run(overrides))


# What is measured: lines of metrics, and when they came.

Seen = list[tuple[float, dict[str, Any]]]


@dataclass(frozen=True)
class Measured:
    """One run of one side."""

    samples_s: float  # answers per second
    tokens_s: float  # response tokens per second
    tokens: float  # per answer
    step_s: float
    line: dict[str, Any]  # metrics of the last step


def measured(seen: Seen, samples: int, tokens_key: str) -> Measured:
    """Speed over all steps but the first; `samples` answers per step."""
    counted = [(at, line) for at, line in seen if line["step"] >= 1]
    if len(counted) < 2:
        raise SystemExit(f"a run of two steps or more is needed, got {len(counted)} lines.")
    step_s = (counted[-1][0] - counted[0][0]) / (len(counted) - 1)
    tokens = statistics.mean(line[tokens_key] for _, line in counted[1:])
    return Measured(
        samples_s=samples / step_s,
        tokens_s=samples * tokens / step_s,
        tokens=tokens,
        step_s=step_s,
        line=counted[-1][1],
    )


def watch(command: Sequence[str], metrics: Path, log: Path, env: Mapping[str, str]) -> Seen:
    """Run a command to its end; returns the JSON lines of `metrics` and when each was written.

    Raises:
        SystemExit: the command failed; its last output is shown.
    """
    seen: Seen = []
    with log.open("w") as output:
        process = subprocess.Popen(command, env=env, cwd=ROOT, stdout=output, stderr=output)
        running = True
        while running:
            running = process.poll() is None
            text = metrics.read_text() if metrics.is_file() else ""
            whole = text[: text.rfind("\n") + 1].splitlines()
            seen += [(time.perf_counter(), json.loads(line)) for line in whole[len(seen) :]]
            time.sleep(POLL_S)
    if process.returncode:
        tail = log.read_text(errors="replace")[-LOG_TAIL:]
        raise SystemExit(f"{' '.join(command)} ended with code {process.returncode}:\n{tail}")
    return seen


def environment() -> dict[str, str]:
    """Both sides choose their own number of threads; neither asks the Hub for anything."""
    env = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    return env | {"PYTHONPATH": str(ROOT / "platform"), "HF_HUB_OFFLINE": "1"}


def run_here(overrides: Sequence[str], folder: Path) -> Seen:
    """Train by jobs/train.py."""
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), *overrides, f"run.dir={folder}/run"]
    return watch(command, folder / "run" / "metrics.jsonl", folder / "log", environment())


def run_trl(overrides: Sequence[str], folder: Path) -> Seen:
    """Train by TRL, in its virtual environment."""
    command = [str(VENV / "bin" / "python"), __file__, "--trl", str(folder), *overrides]
    return watch(command, folder / "metrics.jsonl", folder / "log", environment())


def samples_per_step(config: Config) -> int:
    return config.rollout.prompts_per_step * config.rollout.group_size


def compare(overrides: Sequence[str], first: str) -> dict[str, Measured]:
    """One run of each side, `first` first."""
    samples = samples_per_step(read(overrides))
    sides = {HERE: (run_here, "response/tokens_mean"), PEER: (run_trl, "completions/mean_length")}
    found = {}
    for side in sorted(sides, key=lambda side: side != first):
        run, tokens_key = sides[side]
        with tempfile.TemporaryDirectory() as folder:
            found[side] = measured(run(overrides, Path(folder)), samples, tokens_key)
        print(f"    {side}: {found[side].samples_s:.2f} samples/s", file=sys.stderr, flush=True)
    return found


# The table.


def ratios(rounds: Sequence[Mapping[str, Measured]], unit: str) -> list[float]:
    """By how much this project is ahead, in each round; 1: both are as fast."""
    return [getattr(found[HERE], unit) / getattr(found[PEER], unit) for found in rounds]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median and, if there are several, the least and the most."""
    middle = f"{statistics.median(values):.{digits}f}"
    return (
        f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})" if values[1:] else middle
    )


def table(name: str, rounds: Sequence[Mapping[str, Measured]]) -> str:
    """A case's rows: both sides' speeds, and by how much this project is ahead."""
    rows = [f"{name}: {CASES[name].title}; rounds: {len(rounds)}, median (least to most)"]
    for side in (HERE, PEER):
        own = [found[side] for found in rounds]
        rows.append(
            f"    {side:<11} {spread([each.samples_s for each in own])} samples/s, "
            f"{spread([each.tokens_s for each in own], 0)} tokens/s, "
            f"{spread([each.tokens for each in own], 1)} tokens per answer, "
            f"{spread([each.step_s for each in own])} s per step"
        )
    by_samples, by_tokens = ratios(rounds, "samples_s"), ratios(rounds, "tokens_s")
    rows.append(f"    ratio       {spread(by_samples)} by samples, {spread(by_tokens)} by tokens")
    return "\n".join([*rows, *done(rounds[-1])])


def done(found: Mapping[str, Measured]) -> list[str]:
    """What each side did besides the updates; numbers of its last line of metrics."""
    here, peer = found[HERE].line, found[PEER].line
    return [
        f"    {HERE} wrote {len(here)} statistics per step, with reward {here['reward/mean']:.3f} and "
        f"the exact entropy, {here['entropy/mean']:.3f} nats,",
        "        over all response tokens under the weights that drew them. A pass before the updates",
        "        scores logprob, entropy, sensitivity and sum p^2. Answers go to disk before they train.",
        f"    {PEER} wrote {len(peer)} statistics per step, with reward {peer['reward']:.3f} and "
        f"the exact entropy, {peer['entropy']:.3f} nats,",
        "        of each update's tokens under that update's weights. A pass before the updates scores",
        "        logprob. Answers are not kept.",
    ]


# TRL's side. It gets the same overrides and reads everything from the same config.


def train_prompts(config: Config, task: Task) -> list[Prompt]:
    """The prompts of all steps, in the order in which a run draws them."""
    draws = range(config.run.steps * config.rollout.prompts_per_step)
    return [task.prompt("train", index_of(i, task.size("train"), config.seed)) for i in draws]


def trl_arguments(config: Config, folder: Path) -> dict[str, Any]:
    """What GRPOConfig gets; one of its steps is one update."""
    rollout, learner, updates = config.rollout, config.learner, config.learner.updates_per_rollout
    return {
        "output_dir": str(folder / "trl"),
        "max_steps": config.run.steps * updates,
        "per_device_train_batch_size": samples_per_step(config) // updates,
        "gradient_accumulation_steps": 1,
        "steps_per_generation": updates,
        "num_iterations": 1,
        "num_generations": rollout.group_size,
        "max_completion_length": rollout.max_response_tokens,
        "temperature": rollout.temperature,
        "top_p": rollout.top_p,
        "top_k": max(0, rollout.top_k),  # off: 0 there, -1 here
        "shuffle_dataset": False,
        "learning_rate": learner.lr,
        "lr_scheduler_type": learner.lr_schedule,
        "weight_decay": learner.weight_decay,
        "adam_beta1": learner.adam_beta1,
        "adam_beta2": learner.adam_beta2,
        "adam_epsilon": learner.adam_eps,
        "max_grad_norm": learner.max_grad_norm,
        "loss_type": "dapo",  # mean over tokens
        "epsilon": config.objective.clip_low,
        "epsilon_high": config.objective.clip_high,
        "beta": 0.0,
        "scale_rewards": "group",
        "seed": config.seed,
        "model_init_kwargs": {"dtype": "float32"},
        "bf16": learner.dtype == "bfloat16",
        "use_cpu": True,
        "gradient_checkpointing": False,
        "torch_compile": learner.compile,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def train_with_trl(overrides: Sequence[str], folder: Path) -> None:
    """Train as `run_here` does, and write a line of metrics per step of `updates` updates."""
    # vLLM is found in the project's packages, which a plain `pip install trl` does not bring.
    sys.modules["vllm"] = None  # type: ignore[assignment]
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    config = read(overrides)
    task = TASKS[config.task.name].make(config.task)
    prompts = train_prompts(config, task)
    model = model_folder(config.model, config.task)
    chat = load_chat(replace(config.model, path=model), config.run.today)
    _check_same_prompt(chat, prompts[0])
    longest = config.rollout.max_response_tokens

    def reward(completions: Any, completion_ids: Any, draw: Any, **_: Any) -> list[float]:
        """The task's own grade, as this project's reward workers give it."""
        return [
            reward_of(
                task,
                prompts[which],
                [said[-1]["content"]],
                truncated=len(ids) >= longest and ids[-1] != chat.eos_token_id,
            )
            for said, ids, which in zip(completions, completion_ids, draw, strict=True)
        ]

    class Lines(TrainerCallback):
        """Merges the logs of a step's updates into a line."""

        def __init__(self) -> None:
            self.line: dict[str, Any] = {}

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "train_runtime" in logs:  # of the whole training, after its end
                return
            step, rest = divmod(state.global_step, config.learner.updates_per_rollout)
            self.line = self.line | logs
            if not rest:
                with (folder / "metrics.jsonl").open("a") as file:
                    file.write(json.dumps({"step": step} | self.line) + "\n")
                self.line = {}

    GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=GRPOConfig(**trl_arguments(config, folder)),
        train_dataset=Dataset.from_list(
            [{"prompt": list(each.messages), "draw": i} for i, each in enumerate(prompts)]
        ),
        callbacks=[Lines()],
    ).train()


def _check_same_prompt(chat: Chat, prompt: Prompt) -> None:
    """Refuses to compare if TRL's way through the chat template gives other tokens."""
    theirs = chat.tokenizer.apply_chat_template(
        list(prompt.messages), add_generation_prompt=True, return_dict=True
    )["input_ids"]
    if theirs != chat.prompt_ids(prompt).tolist():
        raise SystemExit(f"the sides would read different tokens of {prompt.messages}.")


def make_venv() -> None:
    """Make TRL's virtual environment, unless it is there; it sees this project's packages."""
    python = VENV / "bin" / "python"
    stamp = VENV / TRL
    if stamp.is_file():
        return
    print(f"installing {TRL} into {VENV}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True)
    own = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    packages = sysconfig.get_paths()["purelib"]
    (VENV / own / "project.pth").write_text(f"import site; site.addsitedir({packages!r})\n")
    # Shown only if it fails: else it is about packages of this project that TRL does not need.
    pip = [str(python), "-m", "pip", "install", "--quiet", TRL]
    made = subprocess.run(pip, capture_output=True, text=True, check=False)
    if made.returncode:
        raise SystemExit(f"{TRL} could not be installed:\n{made.stderr[-LOG_TAIL:]}")
    stamp.touch()


def make_models(names: Sequence[str]) -> None:
    """Fetch or warm-start the models before anything is timed."""
    if {"b", "b16"} & set(names) and not (cache_folder() / "smollm2-135m-instruct").is_dir():
        subprocess.run([sys.executable, str(ROOT / "jobs" / "fetch_smollm2.py")], check=True)
    for name in names:
        config = read(settings(CASES[name], 1))
        model_folder(config.model, config.task)


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What is to be measured; exit code 2 for a case or a number that does not exist."""
    parser.add_argument("--only", default=",".join(CASES), metavar="CASES", help="such as a,c")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="one round of one measured step")
    parser.add_argument("overrides", nargs="*", help="of all runs, such as learner.lr=1e-4")
    given = parser.parse_args()
    given.only = given.only.split(",")
    if unknown := set(given.only) - set(CASES):
        parser.error(f"--only: no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    if given.rounds < 1:
        parser.error(f"--rounds must be 1 or more, got {given.rounds}")
    given.rounds = 1 if given.small else given.rounds
    return given


def rounds_of(given: argparse.Namespace) -> Iterator[tuple[str, dict[str, Measured]]]:
    for number in range(given.rounds):
        for name in given.only:
            case = CASES[name]
            print(f"round {number + 1}, {name}: {case.title}", file=sys.stderr, flush=True)
            overrides = settings(case, 1 if given.small else case.steps, given.overrides)
            yield name, compare(overrides, PEER if number % 2 else HERE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trl", type=Path, help=argparse.SUPPRESS)  # this process is TRL's side
    given = parse(parser)
    if given.trl:
        train_with_trl(given.overrides, given.trl)
        return
    make_venv()
    make_models(given.only)
    found: dict[str, list[dict[str, Measured]]] = {name: [] for name in given.only}
    for name, both in rounds_of(given):
        found[name].append(both)
    for name, rounds in found.items():
        print(table(name, rounds))


if __name__ == "__main__":
    main()
