"""What the diagnostics cost: the accounting of every update, the panel of other objectives, the entropy statistics
and the second measurement of the entropy, beside the learner's own time on the same tokens.

    python benchmarks/accounting.py [--prompts 64] [--group 8] [--tokens 24] [--updates 8] [--hidden 128]

One rank, the embedded model with random weights, responses of random tokens: what is timed depends on their number
alone. Prints seconds per step and shares of the learner's time (old-policy pass and updates).
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT / "platform")

import numpy as np  # noqa: E402
import yaml  # noqa: E402

from isentropic import batching  # noqa: E402
from isentropic.config import LearnerConfig, ModelConfig  # noqa: E402
from isentropic.learner.learner import Learner  # noqa: E402
from isentropic.metrics.accounting import mean_over_updates, update_metrics  # noqa: E402
from isentropic.metrics.counterfactual import (  # noqa: E402
    build_counterfactuals,
    counterfactual_metrics,
    loss_fields,
)
from isentropic.metrics.entropy import entropy_metrics, entropy_trained  # noqa: E402
from isentropic.metrics.recheck import measured_change, recheck_subset  # noqa: E402
from isentropic.metrics.step_metrics import mismatch_metrics, staleness_metrics  # noqa: E402
from isentropic.metrics.tokens import token_table  # noqa: E402
from isentropic.models.tiny import TinySizes, build_model, build_tokenizer, save  # noqa: E402
from isentropic.objectives.ce_gppo import CeGppoConfig  # noqa: E402
from isentropic.objectives.loss.leaves import leaf_gradients  # noqa: E402
from isentropic.objectives.tokens.reductions import TokenMean  # noqa: E402
from isentropic.records import Prompt, Rollout, RolloutKey, Sample  # noqa: E402

SEEDS = np.random.default_rng(0)
OBJECTIVE = CeGppoConfig(
    name="ce_gppo", ratio="token", clip_low=0.2, clip_high=0.2, beta1=0.5, beta2=1.0, dual_clip=None
)


class Stopwatch:
    """Seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str):
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start


def make_rollout(draw: int, sample: int, tokens: int, vocabulary: int) -> Rollout:
    response = int(SEEDS.integers(tokens // 2, tokens * 3 // 2))
    return Rollout(
        key=RolloutKey("train", draw, 0, sample),
        prompt=Prompt(prompt_id=str(draw), messages=(), answer=""),
        token_ids=SEEDS.integers(0, vocabulary, size=12 + response),
        turns=((12, 12 + response),),
        rollout_logprob=np.full(response, -1.0, dtype=np.float32),
        temperature=1.0,
        seed=0,
        finish_reason="stop",
        step=1,
        policy_version=0,
        reward=float(SEEDS.random() < 0.4),
    )


def make_learner(folder: Path, hidden: int, updates: int) -> Learner:
    sizes = TinySizes(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_layers=4,
        num_heads=4,
        num_kv_heads=2,
        head_dim=hidden // 4,
        window=256,
    )
    tokenizer = build_tokenizer()
    save(folder, build_model(sizes, tokenizer), tokenizer)
    values = yaml.safe_load((ROOT / "conf/learner/default.yaml").read_text())
    config = replace(LearnerConfig(**values), num_ranks=1, updates_per_rollout=updates)
    model = ModelConfig(
        name="tiny",
        path=str(folder),
        revision=None,
        max_length=256,
        trust_remote_code=False,
        warm_start=None,
        image_pixels=None,
    )
    return Learner(
        config=config, model=model, objective=OBJECTIVE, temperature=1.0, total_updates=1000
    )


def score(learner: Learner, rollouts: list[Rollout]) -> dict:
    batches = batching.score_batches(rollouts, 1, 4096)
    scores = batching.unpack_scores(batches, [learner.score(batches[0])], len(rollouts))
    return {rollout.key: score for rollout, score in zip(rollouts, scores, strict=True)}


def one_step(learner: Learner, rollouts: list[Rollout], updates: int, clock: Stopwatch) -> None:
    """A step's work of the learner, then all diagnostics on it."""
    config = yaml.safe_load((ROOT / "conf/accounting/default.yaml").read_text())
    panel, p_split = build_counterfactuals(config["counterfactuals"]), config["p_split"]
    coefficients = OBJECTIVE.at(1)
    with clock("old-policy pass"):
        old = score(learner, rollouts)
    samples = [
        Sample(
            rollout=rollout,
            old=old[rollout.key],
            advantage=np.full(rollout.num_response_tokens, rollout.reward - 0.4, dtype=np.float32),
            token_weight=np.ones(rollout.num_response_tokens, dtype=np.float32),
        )
        for rollout in rollouts
    ]
    plan = batching.plan_updates(samples, updates)
    batches, weights = batching.step_batches(
        step=1,
        samples=samples,
        plan=plan,
        num_ranks=1,
        microbatch_tokens=4096,
        reduction=TokenMean(name="token_mean"),
        max_response_tokens=64,
        coefficients=coefficients,
    )
    with clock("updates"):
        result = learner.update(batches[0])
    rows = []
    for part, weights_of_part, microbatches, answer in zip(
        plan, weights, batches[0].updates, result.updates, strict=True
    ):
        trained = [samples[index] for index in part]
        columns = batching.unpack_columns(
            [microbatches], [[answer.logprob, answer.entropy]], len(part)
        )
        with clock("accounting"):
            logprob, entropy = (np.concatenate([row[which] for row in columns]) for which in (0, 1))
            table = token_table(trained, weights=weights_of_part, logprob=logprob, entropy=entropy)
            leaves = leaf_gradients(OBJECTIVE, coefficients, loss_fields(table))
            push, own = (
                -leaves.d_logprob.numpy(),
                {name: value.numpy() for name, value in leaves.metrics.items()},
            )
            rows.append(
                update_metrics(
                    table, push=push, bounds=coefficients, p_split=p_split, token_metrics=own
                )
            )
        with clock("panel"):
            counterfactual_metrics(table, push, panel, step=1, seed=0, p_split=p_split)
    with clock("entropy and step"):
        mean_over_updates(rows)
        entropy_metrics(rollouts, old)
        entropy_trained(samples)
        staleness_metrics(samples, 1)
        mismatch_metrics(rollouts, old, 1.0)
    with clock("recheck"):
        chosen = recheck_subset(rollouts, config["recheck_share"], 0)
        after = score(learner, chosen)
        measured_change(
            [old[r.key].entropy for r in chosen], [after[r.key].entropy for r in chosen]
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in {
        "prompts": 64,
        "group": 8,
        "tokens": 24,
        "updates": 8,
        "hidden": 128,
        "steps": 5,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        learner = make_learner(Path(folder), given.hidden, given.updates)
        vocabulary = len(build_tokenizer())
        rollouts = [
            make_rollout(draw, sample, given.tokens, vocabulary)
            for draw in range(given.prompts)
            for sample in range(given.group)
        ]
        one_step(learner, rollouts, given.updates, Stopwatch())  # warm
        clock = Stopwatch()
        for _ in range(given.steps):
            one_step(learner, rollouts, given.updates, clock)
        learner.close()
    tokens = sum(rollout.num_response_tokens for rollout in rollouts)
    seconds = {name: value / given.steps for name, value in clock.seconds.items()}
    learning = seconds["old-policy pass"] + seconds["updates"]
    print(f"{tokens} response tokens, {given.updates} updates, hidden size {given.hidden}; a step:")
    for name, value in seconds.items():
        print(f"  {name:<18} {1e3 * value:9.2f} ms  {value / learning:7.2%} of the learner's time")
    print(f"  panel / updates    {seconds['panel'] / seconds['updates']:.2%}")
    diagnostics = sum(seconds[name] for name in ("accounting", "panel", "entropy and step"))
    print(
        f"  all but recheck and ledger {diagnostics / learning:.2%} of the learner's time (rollouts come on top of it)"
    )


if __name__ == "__main__":
    main()
