"""T2 of the CE-GPPO specification, on a recorded run: which way do the clipped tokens push the entropy?

    python benchmarks/sensitivity.py runs/<name> [--steps 20]

Trains the run's recorded steps again (one rank, no engine). Before each update with clipped tokens it takes, by
autograd through the whole model, D_left = <grad H, g_left> and D_right = <grad H, g_right>, where H is the mean
entropy of the update's tokens and g_left the gradient of (1/N) sum over the left tokens of (1 - clip_low) A log pi
(right: 1 + clip_high): the directions that beta1 and beta2 multiply. The paper's claim is D_left < 0 < D_right.
It also trains three steps with one update each under three settings of the betas: nothing is clipped there, so the
weights must come out equal bit for bit.
"""

import argparse
import asyncio
import statistics
import sys
from dataclasses import replace
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1] / "platform")

import torch  # noqa: E402

from isentropic.experiments.branch.learner import LocalLearner  # noqa: E402
from isentropic.experiments.branch.replayer import Replayer, without_panel  # noqa: E402
from isentropic.experiments.run.builders import settings_of  # noqa: E402
from isentropic.experiments.run.prepare import Prepared, prepare  # noqa: E402
from isentropic.experiments.run.recorded import RecordedRun, recorded_run  # noqa: E402
from isentropic.learner.books import Books  # noqa: E402
from isentropic.learner.learner import Learner  # noqa: E402
from isentropic.records import StepBatch, UpdateResult  # noqa: E402

LIMIT = 3.0  # standard errors


class MeasuringLearner(Learner):
    """A learner that takes the two inner products before each of its updates."""

    def __init__(self, **arguments) -> None:
        super().__init__(**arguments)
        self.left: list[float] = []
        self.right: list[float] = []

    def _update(self, batch: StepBatch, index: int, books: Books | None) -> UpdateResult:
        low, high = 1 - batch.coefficients["clip_low"], 1 + batch.coefficients["clip_high"]
        of_entropy = self._gradient(
            batch, index, lambda advantage, ratio, logprob, entropy: entropy
        )
        sides = (
            (self.left, low, lambda advantage, ratio: (ratio < low) & (advantage < 0)),
            (self.right, high, lambda advantage, ratio: (ratio > high) & (advantage > 0)),
        )
        for found, bound, clipped in sides:

            def push(advantage, ratio, logprob, entropy, bound=bound, clipped=clipped):
                return torch.where(clipped(advantage, ratio), bound * advantage, 0.0) * logprob

            gradient = self._gradient(batch, index, push)
            if any(part.any() for part in gradient):
                found.append(
                    float(sum((a * b).sum() for a, b in zip(of_entropy, gradient, strict=True)))
                )
        return super()._update(batch, index, books)

    def _gradient(self, batch: StepBatch, index: int, value) -> list[torch.Tensor]:
        """grad of (1/N) sum over the update's tokens of `value`, in float64."""
        microbatches = batch.updates[index]
        count = sum(len(microbatch.target) for microbatch in microbatches)
        self._optimizer.zero_grad(set_to_none=True)
        for microbatch in microbatches:
            found = self._forward(self._model, microbatch)
            old = torch.from_numpy(microbatch.fields["old_logprob"])
            ratio = (found.logprob.detach() - old).exp()
            advantage = torch.from_numpy(microbatch.fields["advantage"])
            (value(advantage, ratio, found.logprob, found.entropy).sum() / count).backward()
        return [
            parameter.grad.full_tensor().double().clone() for parameter in self._model.parameters()
        ]


def make(kind: type[Learner], run: RecordedRun, prepared: Prepared) -> Learner:
    config = run.config
    return kind(
        **settings_of(config),
        model=prepared.model,
        temperature=config.rollout.temperature,
        seed=config.seed,
    )


async def measure(run: RecordedRun, prepared: Prepared, steps: int) -> bool:
    learner = make(MeasuringLearner, run, prepared)
    replayer = Replayer(without_panel(run.config), LocalLearner(learner), prepared)
    for step in run.steps[:steps]:
        await replayer.train(run.batch(step))
    learner.close()
    holds = []
    for name, values, sign in (("left ", learner.left, -1), ("right", learner.right, 1)):
        mean, error = statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5
        holds.append(sign * mean > LIMIT * error)
        print(
            f"<grad H, g_{name}>  mean {mean:+.3e}  s.e. {error:.1e}  z {mean / error:+.1f}  over {len(values)} updates"
        )
    return all(holds)


async def betas_without_clipping(run: RecordedRun, prepared: Prepared) -> bool:
    """One update a step: every ratio is 1 to rounding, so the betas touch nothing."""
    ends = []
    for beta1, beta2 in ((0.0, 0.0), (0.5, 1.0), (1.0, 1.0)):
        config = without_panel(run.config)
        config = replace(
            config,
            learner=replace(config.learner, updates_per_rollout=1),
            objective=replace(config.objective, beta1=beta1, beta2=beta2),
        )
        learner = make(Learner, run, prepared)
        replayer = Replayer(config, LocalLearner(learner), prepared)
        await replayer.configure()
        for step in run.steps[:3]:
            line = await replayer.report(await replayer.train(run.batch(step)))
            assert line["clip/frac"] == 0.0, f"step {step}: clip/frac is {line['clip/frac']}"
        ends.append([tensor.clone() for _, tensor in learner.named_weights()])
        learner.close()
    return all(torch.equal(a, b) for other in ends[1:] for a, b in zip(ends[0], other, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="folder of a run of ce_gppo")
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = recorded_run(str(Path(arguments.run)))
    prepared = prepare(run.config)
    signs = asyncio.run(measure(run, prepared, arguments.steps))
    print(
        f"T2, <grad H, g_left> < 0 < <grad H, g_right> beyond {LIMIT:g} s.e.: {'held' if signs else 'not held'}"
    )
    equal = asyncio.run(betas_without_clipping(run, prepared))
    print(
        f"clip/frac = 0: weights under three settings of the betas are {'bit-identical' if equal else 'NOT equal'}"
    )


if __name__ == "__main__":
    main()
