"""A training job in processes of its own, to be hurt; and what two runs are compared by."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
UNSTABLE = (
    "time/",
    "throughput/",
    "mismatch/",
    "sync/",
)  # not promised bit for bit
DEADLINE_S = 400.0  # for anything that is waited for: the machine may be shared
SMALL = [
    "experiment=ce_gppo_tiny",
    "model=path",
    "rollout.max_prompt_tokens=64",
    "rollout.max_response_tokens=24",
    "model.max_length=96",
    "rollout.kv_cache_gib=0.06",
    "rollout.max_num_seqs=32",
    "rollout.probe_tolerance=1e-3",
    "rollout.prompts_per_step=4",
    "rollout.group_size=4",
    "learner.num_ranks=2",
    "learner.updates_per_rollout=2",
    "learner.lr=1e-3",
    "shaping=overlong",  # rewards that differ inside a group, though the model is a random one
    "shaping.buffer_share=1.0",
    "filter=keep_all",
    "evaluation.every=2",
    "evaluation.prompts=4",
    "evaluation.samples=2",
    "checkpoint.every=2",
    "run.steps=5",
    "tracking.wandb=disabled",
]


class Job:
    """`python jobs/train.py ...` in a session of its own, its output in a file."""

    def __init__(
        self,
        folder: Path,
        model: str,
        *overrides: str,
        settings: Sequence[str] = SMALL,
        env: dict[str, str] | None = None,
        script: Path = ROOT / "jobs" / "train.py",
    ) -> None:
        self.folder = folder
        self.output = folder.with_suffix(".out")
        command = [sys.executable, str(script), *settings, f"model.path={model}"]
        command += ["run.name=fault", f"run.dir={folder}", *overrides]
        with self.output.open("a") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                env=os.environ | (env or {}),
                start_new_session=True,
                cwd=folder.parent,
            )
        self.seen: dict[int, psutil.Process] = {}

    def wait(self, timeout_s: float = DEADLINE_S) -> int:
        """The exit code; the whole tree is ended where the deadline passes."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"no end within {timeout_s:.0f} s:\n{self.text()[-3000:]}"
            ) from None

    def until(
        self, true: Callable[[], object], timeout_s: float = DEADLINE_S, every_s: float = 0.02
    ) -> None:
        """Returns as soon as `true()` holds; fails where the job ends before."""
        deadline = time.monotonic() + timeout_s
        while not true():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError(
                    f"did not come (exit code {self.process.poll()}):\n{self.text()[-3000:]}"
                )
            time.sleep(every_s)

    def tree(self) -> list[psutil.Process]:
        """The job's processes, children of children too."""
        try:
            processes = [
                psutil.Process(self.process.pid),
                *psutil.Process(self.process.pid).children(recursive=True),
            ]
        except psutil.NoSuchProcess:
            processes = []
        self.seen |= {each.pid: each for each in processes}
        return processes

    def actors(self, name: str) -> list[psutil.Process]:
        """The processes of a kind of Ray actor, such as LearnerActor."""
        return self.processes(f"ray::{name}")

    def processes(self, part: str) -> list[psutil.Process]:
        """Those of the job whose command line has `part`."""
        found = []
        for process in self.tree():
            try:
                if part in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return sorted(found, key=lambda each: each.pid)

    def kill(self) -> None:
        """SIGKILL for everything at once."""
        for process in self.tree():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(60)

    def text(self) -> str:
        return self.output.read_text()

    def steps(self) -> int:
        """Lines of metrics.jsonl."""
        return len(lines(self.folder))

    def has(self, pattern: str) -> bool:
        return any(self.folder.glob(pattern))


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict]:
    path = folder / name
    whole = path.read_text().splitlines() if path.exists() else []
    rows = []
    for line in whole:
        try:
            rows.append(json.loads(line))
        except ValueError:  # being written, or torn
            break
    return rows


def wandb_points(folder: Path) -> tuple[set[str], list[tuple[int, float]]]:
    """The run ids, and (step, entropy) of every point, in the offline records of W&B."""
    ids, points = set(), []
    for run in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
        for line in subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60
        ).stdout.splitlines():
            record = json.loads(line)
            if record["type"] == "run":
                ids.add(record["run"]["run_id"])
            elif record["type"] == "history":
                item = record["history"]["item"]
                points.append((item["step"], entropy_of(item)))
    return ids, points


def entropy_of(line: dict) -> float:
    """The entropy of a step; that of the start has a key of its own."""
    return line["entropy/mean" if line["step"] else "eval/entropy"]


def stable(folder: Path, name: str = "metrics.jsonl") -> list[dict]:
    """The lines without what may differ."""
    return [
        {key: value for key, value in line.items() if not key.startswith(UNSTABLE)}
        for line in lines(folder, name)
    ]


def rollouts(folder: Path) -> dict[str, list[dict]]:
    """The ledger without the engine's logprobs, whose last bit depends on what else was in the batch."""
    tables = {}
    for path in sorted((folder / "rollouts").glob("step_*.parquet")):
        tables[path.name] = pq.read_table(path).drop_columns(["rollout_logprob"]).to_pylist()
    return tables


def checkpoint_files(folder: Path) -> dict[str, str]:
    """Hashes of the last checkpoint's learner files."""
    last = max((folder / "checkpoints").glob("step_*"))
    files = json.loads((last / "manifest.json").read_text())["files"]
    return {name: about["sha256"] for name, about in files.items() if name.endswith(".distcp")}


def assert_same_run(one: Path, other: Path) -> None:
    """Metrics, updates, weights and the rollouts of all steps of `other` are equal."""
    for name in ("metrics.jsonl", "updates.jsonl"):
        for line, wanted in zip(stable(one, name), stable(other, name), strict=True):
            differing = {
                key: (line.get(key), wanted[key]) for key in wanted if line.get(key) != wanted[key]
            }
            assert not differing, f"{name}, step {wanted['step']}: {differing}"
            assert line.keys() == wanted.keys()
    drawn, wanted = rollouts(one), rollouts(other)  # a stopped run may have drawn for its next step
    assert {name: drawn.get(name) for name in wanted} == wanted
    assert checkpoint_files(one) == checkpoint_files(other)
