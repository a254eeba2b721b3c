"""Long-tailed answers on the real engine, drawn whole and in segments: what a step waits for.

    python benchmarks/segments.py              # 20 minutes on two cores
    python benchmarks/segments.py --rounds 3 rollout.segment_tokens=64 rollout.max_lag=10

SmolLM2-135M on sums, 4 x 8 answers, 640 tokens at most: most answers end after some dozens of
tokens, a few never do. Runs of both ways take turns. The first two steps of each are not counted:
in segments nothing is in flight yet. Seconds are the runs' own time/*; tokens are those of the
answers that the steps trained on.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from peers import BFLOAT16, SMOLLM2, Case, Seen, make_models, run_here, settings, spread

WHOLE, SEGMENTS = "whole", "segments"
CASE = Case(
    title="SmolLM2-135M on sums, 4 x 8 answers of 640 tokens at most, in bfloat16",
    overrides=(*SMOLLM2, *BFLOAT16, "rollout.max_response_tokens=640", "model.max_length=768"),
    steps=9,
)
CUT = ("rollout.segment_tokens=128", "rollout.max_lag=5")  # 640 tokens in all
# Settings of segments only: a run of whole answers refuses some of them.
OF_SEGMENTS = ("rollout.segment_tokens=", "rollout.max_lag=", "rollout.prompts_in_flight=")
UNCOUNTED = 2
ANSWERS = 32  # per step

Row = dict[str, float]


def row(seen: Seen) -> Row:
    """Answers and seconds over the counted steps."""
    lines = [line for _, line in seen if line["step"] > UNCOUNTED]
    steps = [line["time/step_s"] for line in lines]
    tokens = [line["response/tokens_mean"] for line in lines]
    return {
        "tokens per answer": statistics.mean(tokens),
        "% at the limit": 100 * statistics.mean(line["response/truncated_frac"] for line in lines),
        "step": statistics.mean(steps),
        "longest step": max(steps),
        "rollout": statistics.mean(line["time/rollout_s"] for line in lines),
        "tokens/s": ANSWERS * sum(tokens) / sum(steps),
    }


def table(rounds: Sequence[Mapping[str, Row]]) -> str:
    """Both ways, and by how much segments are ahead."""
    rows = [f"{CASE.title}; rounds: {len(rounds)}, median (least to most)"]
    for way in (WHOLE, SEGMENTS):
        parts = (
            f"{name} {spread([found[way][name] for found in rounds], 1)}" for name in rounds[0][way]
        )
        rows.append(f"    {way:<9}{', '.join(parts)}")
    faster = [found[SEGMENTS]["tokens/s"] / found[WHOLE]["tokens/s"] for found in rounds]
    shorter = [found[WHOLE]["rollout"] / found[SEGMENTS]["rollout"] for found in rounds]
    return "\n".join(
        [*rows, f"    ratio    {spread(faster)} by tokens/s, {spread(shorter)} by rollout seconds"]
    )


def compare(steps: int, more: Sequence[str], number: int) -> dict[str, Row]:
    """One run of each way; the one that goes first changes with the round."""
    found = {}
    whole = [each for each in more if not each.startswith(OF_SEGMENTS)]
    ways = {WHOLE: whole, SEGMENTS: [*CUT, *more]}
    for way in sorted(ways, reverse=number % 2 == 0):
        with tempfile.TemporaryDirectory() as folder:
            overrides = settings(CASE, steps, ways[way])
            found[way] = row(run_here(overrides, Path(folder)))
        print(f"    {way}: {found[way]['step']:.2f} s per step", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("overrides", nargs="*", help="of all runs, such as learner.lr=1e-4")
    given = parser.parse_args()
    make_models(["b16"])
    rounds = [compare(CASE.steps, given.overrides, number) for number in range(given.rounds)]
    print(table(rounds))


if __name__ == "__main__":
    main()
