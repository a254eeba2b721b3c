"""One step off-policy against the longer of its two halves, drawing and learning.

    python benchmarks/overlap.py              # 40 minutes on two cores
    python benchmarks/overlap.py --only a

Runs of `rollout.max_staleness=1` take turns with runs on policy, on the cases of benchmarks/peers.py.
All seconds are means of the runs' own time/*, without the first step and the last. learn is
old_logprob + update + recheck. If both halves share cores, each takes longer than by itself, so
the overlapped step is set against its own max(rollout, learn) and that of the runs on policy.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from peers import CASES, Seen, make_models, parse, run_here, settings, spread

PHASES = ("rollout", "reward", "old_logprob", "update", "recheck", "sync", "wait", "other")
ON_POLICY, OVERLAPPED = "on policy", "overlapped"
STALENESS = {ON_POLICY: 0, OVERLAPPED: 1}

Seconds = dict[str, float]


def seconds(seen: Seen) -> Seconds:
    """Mean seconds of the step, its phases and `learn`, without the first step and the last."""
    # Nothing is drawn during the last step: it has the cores to itself.
    lines = [line for _, line in seen if line["step"] >= 2][:-1]
    found = {
        phase: statistics.mean(line[f"time/{phase}_s"] for line in lines)
        for phase in ("step", *PHASES)
    }
    return found | {"learn": found["old_logprob"] + found["update"] + found["recheck"]}


def longer_half(found: Seconds) -> float:
    return max(found["rollout"], found["learn"])


def table(name: str, rounds: Sequence[Mapping[str, Seconds]]) -> str:
    """A case's rows: where the time goes, and what the overlap leaves of it."""
    rows = [f"{name}: {CASES[name].title}; rounds: {len(rounds)}, median (least to most)"]
    for way in STALENESS:
        medians = {
            phase: statistics.median(found[way][phase] for found in rounds)
            for phase in ("step", "learn", *PHASES)
        }
        rows.append(
            f"    {way}: " + ", ".join(f"{phase} {s:.2f} s" for phase, s in medians.items())
        )
    pairs = [(found[ON_POLICY], found[OVERLAPPED]) for found in rounds]
    own = spread([after["step"] / longer_half(after) for _, after in pairs])
    apart = spread([after["step"] / longer_half(before) for before, after in pairs])
    gain = spread([before["step"] / after["step"] for before, after in pairs])
    return "\n".join(
        [
            *rows,
            f"    overlapped step / max(rollout, learn): {own} by its own times (wanted: at most "
            f"1.15), {apart} by those on policy",
            f"    on policy / overlapped: {gain}",
        ]
    )


def compare(case: str, steps: int, more: Sequence[str], number: int) -> dict[str, Seconds]:
    """One run of each way; the one that goes first changes with the round."""
    found = {}
    for way in sorted(STALENESS, reverse=number % 2 == 1):
        staleness = f"rollout.max_staleness={STALENESS[way]}"
        overrides = settings(CASES[case], steps + 1, [*more, staleness])
        with tempfile.TemporaryDirectory() as folder:
            found[way] = seconds(run_here(overrides, Path(folder)))
        print(f"    {way}: {found[way]['step']:.2f} s per step", file=sys.stderr, flush=True)
    return found


def main() -> None:
    given = parse(
        argparse.ArgumentParser(
            description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
    )
    make_models(given.only)
    found: dict[str, list[dict[str, Seconds]]] = {name: [] for name in given.only}
    for number in range(given.rounds):
        for name, rounds in found.items():
            print(f"round {number + 1}, {name}: {CASES[name].title}", file=sys.stderr, flush=True)
            steps = 1 if given.small else CASES[name].steps
            rounds.append(compare(name, steps, given.overrides, number))
    for name, rounds in found.items():
        print(table(name, rounds))


if __name__ == "__main__":
    main()
