"""Trains the embedded task for a set time under random faults, then checks what the run has written.

    python benchmarks/soak.py --minutes 20 --seed 0            # make soak
    python benchmarks/soak.py --minutes 20 --every 0           # no faults: memory alone
    python benchmarks/soak.py --minutes 5 --compare            # and the same steps again, undisturbed

Prints one JSON object; exit code 0 where nothing was lost, doubled or late and memory stayed flat, else 1.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "faults"))

import psutil
import pyarrow.parquet as pq
from training_job import Job, assert_same_run, lines

from isentropic.tasks.order import index_of

ROOT = Path(__file__).resolve().parents[1]
TRAIN_SIZE = 512  # prompts an epoch: several epochs in minutes
SETTINGS = [
    "experiment=ce_gppo_tiny",
    "tracking.wandb=disabled",
    "rollout.prompts_per_step=32",
    "rollout.group_size=8",
    "rollout.num_actors=2",
    "learner.timeout_s=30",
    "cluster.health_timeout_s=30",
    "cluster.max_restarts=100000",
    "cluster.max_learner_restarts=100000",
    "checkpoint.every=5",
    "evaluation.every=0",
    "resume=auto",
    f"task.train_size={TRAIN_SIZE}",
]
FAULTS = (
    "kill engine",
    "freeze engine",
    "kill rank",
    "freeze rank",
    "kill all",
    "torn",
    "terminate",
    "no room",
)
NO_ROOM = 50_000  # bytes that a learner's file may have, until its process is started again
ROLES = {  # by what the command line says
    "jobs/train.py": "driver",
    "ray::RolloutActor": "engine",
    "EngineCore": "engine core",
    "ray::LearnerActor": "rank",
    "isentropic.tasks.grading.server": "reward worker",
    "/raylet/raylet": "object store",
}
NOISE = (
    2**20
)  # bytes: less than one set of this model's weights, which come and go in the object store
GROWTH = 0.02  # of memory over the second half of an undisturbed stretch
SETTLE_S = 60.0  # a process is still filling its caches
DEADLINE_S = 600.0  # without a new line: the run hangs


@dataclass
class Soak:
    """One run, hurt again and again."""

    folder: Path
    seed: int
    steps: int
    overrides: list[str]
    faults: Counter = field(default_factory=Counter)
    kinds: list[str] = field(default_factory=list)  # those to come
    memory: dict[str, list[tuple[float, int]]] = field(
        default_factory=dict
    )  # role and pid -> (time, bytes)

    def start(self) -> None:
        overrides = [f"run.steps={self.steps}", *self.overrides]
        self.job, self.moves = Job(self.folder, "embedded", *overrides, settings=SETTINGS), 0

    def go_on(self, end: float, every_s: float) -> None:
        """Faults at random times until `end`, or the last step."""
        rng = random.Random(self.seed)
        self.start()
        next_fault = time.monotonic() + rng.expovariate(1 / every_s) if every_s else float("inf")
        seen, changed = -1, time.monotonic()
        while time.monotonic() < end:
            time.sleep(1.0)
            # The first move may be a cut back to the checkpoint, and what is being started grows; after the last line
            # the driver writes the report.
            if self.moves > 1 and seen <= self.steps:
                self._measure()
            if (code := self.job.process.poll()) is not None:
                if code != 75:
                    break
                self.start()
            if (now := self.job.steps()) != seen:
                seen, changed, self.moves = now, time.monotonic(), self.moves + 1
            if time.monotonic() - changed > DEADLINE_S:
                raise SystemExit(
                    f"no line for {DEADLINE_S:.0f} s after {dict(self.faults)}:\n{self.job.text()[-3000:]}"
                )
            if time.monotonic() > next_fault and seen > 0:
                with suppress(
                    psutil.NoSuchProcess, ProcessLookupError
                ):  # who was to be hurt has just ended
                    self._hurt(rng)
                next_fault = time.monotonic() + rng.expovariate(1 / every_s)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.job.process.poll() is None:
            self.job.process.send_signal(signal.SIGTERM)
        return self.job.wait()

    def _hurt(self, rng: random.Random) -> None:
        """The next kind of fault: each comes once, in random order, before any comes again."""
        self.kinds = self.kinds or rng.sample(FAULTS, len(FAULTS))
        kind = self.kinds[-1]
        actors = self.job.actors("RolloutActor" if "engine" in kind else "LearnerActor")
        if kind in ("kill all", "torn"):
            self.job.kill()
            if kind == "torn":
                tear(self.folder)
            self.start()
        elif kind == "terminate":
            self.job.process.send_signal(signal.SIGTERM)  # ends with 75 and is started again
        elif kind == "no room" and actors:
            for rank in actors:
                rank.rlimit(psutil.RLIMIT_FSIZE, (NO_ROOM, rank.rlimit(psutil.RLIMIT_FSIZE)[1]))
        elif actors:
            os.kill(rng.choice(actors).pid, signal.SIGKILL if "kill" in kind else signal.SIGSTOP)
        else:
            return  # they are just being started: it comes later
        self.faults[self.kinds.pop()] += 1

    def _measure(self) -> None:
        """Memory of its own that each process holds; the object store's pages are those of all, and counted apart."""
        for process in self.job.tree():
            try:
                role = role_of(" ".join(process.cmdline()))
                if role:
                    size = (
                        object_store(process.pid) if role == "object store" else anonymous(process)
                    )
                    self.memory.setdefault(f"{role} {process.pid}", []).append(
                        (time.monotonic(), size)
                    )
            except (psutil.Error, OSError):  # it has just ended
                continue


def role_of(command: str) -> str:
    """What a process of the job is, by its command line; empty: one of Ray's own."""
    return next((role for mark, role in ROLES.items() if mark in command), "")


def anonymous(process: psutil.Process) -> int:
    """Bytes that the process alone holds. Pages of libraries are left out: whose they are depends on who else runs."""
    held = process.memory_info()
    return held.rss - held.shared


def object_store(raylet: int) -> int:
    """Bytes of the pages that the node's object store has touched: a file of Ray's in memory that has no name."""
    files = {
        os.stat(each).st_ino: os.stat(each).st_blocks * 512
        for each in Path(f"/proc/{raylet}/fd").iterdir()
        if "/plasma" in os.readlink(each)
    }
    return sum(files.values())


def tear(folder: Path) -> None:
    """Cuts a file of the newest checkpoint short."""
    newest = sorted((folder / "checkpoints").glob("step_*"))[-1:]
    for path in newest:
        victim = max((path / "learner").iterdir(), key=lambda each: each.stat().st_size)
        os.truncate(victim, victim.stat().st_size // 2)


def second_half(series: list[tuple[float, int]]) -> tuple[float, float] | None:
    """Bytes that a process holds where the second half of its time begins, and at its end; None: too short to say.

    Both are means over a tenth of the samples: single ones are noise.
    """
    settled = [size for at, size in series if at - series[0][0] > SETTLE_S]
    if len(settled) < 60:
        return None
    second = settled[len(settled) // 2 :]
    tenth = len(second) // 10
    return sum(second[:tenth]) / tenth, sum(second[-tenth:]) / tenth


def grown(
    memory: dict[str, list[tuple[float, int]]], undisturbed: bool
) -> tuple[list[str], dict[str, str]]:
    """Who grew, and a line on each process that lived long enough; without faults that must be one of each kind."""
    wrong, said = [], {}
    for name, series in memory.items():
        if (ends := second_half(series)) is not None:
            share = ends[1] / max(ends[0], 1.0) - 1
            said[name] = f"{ends[0] / 2**20:.1f} -> {ends[1] / 2**20:.1f} MiB ({share:+.2%})"
            if share > GROWTH and ends[1] - ends[0] > NOISE:
                wrong.append(f"{name} grew: {said[name]}")
    if undisturbed:
        seen = {name.rpartition(" ")[0] for name in said}
        wrong += [
            f"too short to measure: {role}"
            for role in ("driver", "engine", "rank", "object store")
            if role not in seen
        ]
    return wrong, said


def check(folder: Path, seed: int) -> list[str]:
    """What is wrong with the ledger, the trained samples and the lines; nothing where all is well."""
    wrong = []
    ledger = [pq.read_table(path) for path in sorted((folder / "rollouts").glob("step_*.parquet"))]
    keys, draws, version = Counter(), [], -1
    for number, table in enumerate(ledger, start=1):
        rows = table.select(["step", "policy_version", "draw", "wave", "sample"]).to_pylist()
        if {row["step"] for row in rows} != {number}:
            wrong.append(f"ledger file {number} has steps {sorted({row['step'] for row in rows})}")
        versions = {row["policy_version"] for row in rows}
        if len(versions) != 1 or min(versions) < version:
            wrong.append(
                f"step {number} was drawn under versions {sorted(versions)}, after version {version}"
            )
        version = max(versions)
        keys.update((row["draw"], row["wave"], row["sample"]) for row in rows)
        draws += sorted({row["draw"] for row in rows})
    wrong += [f"{key} was drawn {count} times" for key, count in keys.items() if count > 1][:5]
    if draws != list(range(len(draws))):
        wrong.append("the draws of the ledger are not 0, 1, 2, ... in the order of the steps")
    epochs = [draws[start : start + TRAIN_SIZE] for start in range(0, len(draws), TRAIN_SIZE)]
    for epoch in epochs:
        if len({index_of(draw, TRAIN_SIZE, seed) for draw in epoch}) != len(epoch):
            wrong.append(f"the epoch of draw {epoch[0]} has a prompt twice")
    written = lines(folder)
    if [line["step"] for line in written] != list(range(len(written))):
        wrong.append("metrics.jsonl does not have each step once")
    trained = Counter()
    for line, drawn in zip(written[1:], ledger, strict=False):
        table = pq.read_table(folder / "trained" / f"step_{line['step']:06d}.parquet").to_pylist()
        rows = [row for row in table if row.get("fate", "trained") == "trained"]
        trained.update(
            (row["draw"], row["wave"], row["sample"]) for row in rows if row["source"] == "new"
        )
        names = ["draw", "wave", "sample"]
        fates = {tuple(row[name] for name in names) for row in table}
        wrong += [
            f"{row} of step {line['step']} has no fate"
            for row in drawn.select(names).to_pylist()
            if tuple(row.values()) not in fates
        ][:5]
        if len(rows) != line["update/samples"]:
            wrong.append(
                f"step {line['step']} says {line['update/samples']} samples and has {len(rows)}"
            )
    wrong += [
        f"{key} was trained on {count} times as new" for key, count in trained.items() if count > 1
    ][:5]
    wrong += [
        f"{key} was trained on and is not in the ledger" for key in trained.keys() - keys.keys()
    ][:5]
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument(
        "--steps", type=int, default=100_000, help="ends earlier after so many steps"
    )
    parser.add_argument(
        "--every", type=float, default=60.0, help="mean seconds between faults; 0: none"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the faults and of the run")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "runs" / time.strftime("soak-%Y%m%d-%H%M%S")
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="make the same steps again without faults, and compare",
    )
    parser.add_argument(
        "overrides", nargs="*", help="of the config, such as rollout.max_staleness=1"
    )
    given = parser.parse_args()
    given.folder.parent.mkdir(parents=True, exist_ok=True)
    soak = Soak(
        given.folder.absolute(), given.seed, given.steps, [*given.overrides, f"seed={given.seed}"]
    )
    soak.go_on(time.monotonic() + 60 * given.minutes, given.every)
    code = soak.stop()
    wrong = check(soak.folder, given.seed) + (
        [] if code in (0, 75) else [f"the run ended with exit code {code}"]
    )
    too_large, memory = grown(soak.memory, undisturbed=not given.every)
    wrong += too_large
    steps = len(lines(soak.folder)) - 1
    if given.compare:
        wrong += compare(soak, steps)
    summary = {
        "steps": steps,
        "faults": dict(soak.faults),
        "exit_code": code,
        "wrong": wrong,
        "memory": memory,
    }
    print(json.dumps(summary, indent=1))
    return 1 if wrong else 0


def compare(soak: Soak, steps: int) -> list[str]:
    """The undisturbed run of as many steps; a difference, or nothing."""
    whole = Soak(
        soak.folder.with_name(soak.folder.name + "-whole"), soak.seed, steps, soak.overrides
    )
    whole.start()
    whole.job.wait(DEADLINE_S + 60.0 * steps)
    try:
        assert_same_run(soak.folder, whole.folder)
    except (AssertionError, ValueError) as error:
        return [f"differs from the undisturbed run: {str(error)[:300]}"]
    return []


if __name__ == "__main__":
    sys.exit(main())
