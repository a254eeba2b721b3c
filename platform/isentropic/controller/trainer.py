"""The training of one step: old-policy pass, the method's stages, updates, replay.

No engine and no schedule: the loop hands in batches that were just drawn, a replay those of the
ledger, and the numbers are the same.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isentropic.config import Config
from isentropic.controller.actuators import Actuators
from isentropic.controller.learner_client import LearnerClient
from isentropic.controller.method import Method
from isentropic.controller.protocols import LearnerGroup
from isentropic.controller.step import Delivery, Step, Stopwatch, Update
from isentropic.controller.storage.checkpoints import Manifest
from isentropic.controller.storage.slots import anew
from isentropic.methods.control.tracking import Tracking
from isentropic.methods.entropy_coefficient import TermCoefficients
from isentropic.methods.steering import first_coefficients
from isentropic.metrics.entropy import first_wave
from isentropic.metrics.ledger import context_rollouts
from isentropic.metrics.recheck import recheck_subset
from isentropic.metrics.step_metrics import fate_metrics
from isentropic.records import Rollout, RolloutKey, Sample, TokenScores


class Trainer:
    """Trains one step after the other.

    Owns the position in training (step, policy version, skipped updates in a row) and the state of
    the method and of the coefficients of its loss terms. Weights and optimizer are the learner's.
    """

    def __init__(
        self,
        config: Config,
        learner: LearnerGroup,
        method: Method,
        *,
        order: int = 0,
        attention_share: float = 0.0,
    ) -> None:
        """Starts before the first step.

        Args:
            order: 0 puts a step's prompts into updates as every run does; others, in other ways.
            attention_share: as `batching.assign` takes it.
        """
        self.step = 0  # the last one trained; 0 is the start
        self.policy_version = 0
        self._config = config
        self._learner = learner
        self._client = LearnerClient(config, learner, order, attention_share=attention_share)
        self._method = method
        self._terms = TermCoefficients(config.terms)
        self._steering = config.steering.build(first_coefficients(config))
        self._actuators = Actuators(
            config.objective, config.terms, config.steering.actuators, config.learner.adam_beta1
        )
        self._tracking = Tracking()
        self._skipped_in_a_row = 0

    async def score(
        self, delivery: Delivery, probe: Sequence[Rollout] = (), watch: Stopwatch | None = None
    ) -> Step:
        """Opens the next step, with the old-policy pass over everything that was drawn for it.

        Args:
            probe: rollouts sampled right after the last sync, as many as are there by now.
            watch: started when the step began; None starts it now.
        """
        batch = delivery.batch
        assert batch.step == self.step + 1, f"step {batch.step} does not follow step {self.step}"
        watch = watch or Stopwatch()
        with watch("old_logprob"):
            teachers = self._method.candidates(batch.groups, batch.teachers)
            scores = await self._client.score([*batch.rollouts, *teachers])
            # Packed apart from the step's own rollouts: whether the probe is there by now depends
            # on timing, and the last bits of a score depend on what it is packed with.
            scores |= await self._client.score(probe, reference=False)
        return Step(
            step=batch.step,
            policy_version=self.policy_version,
            delivery=delivery,
            teachers=teachers,
            scores=scores,
            watch=watch,
        )

    async def train(self, step: Step) -> Step:
        """Runs the method's stages on a scored step, then its updates, then those of a replay."""
        batch = step.delivery.batch
        # In a thread, because it reads every token.
        entropy = await asyncio.to_thread(mean_entropy, batch.rollouts, step.scores)
        self._steering.sense(step.step, entropy)
        selected = self._method.select(batch.groups, step.scores, step.teachers, self._steering)
        with step.watch("old_logprob"):
            taken = self._method.take(step.step, selected.samples)
            rescored = await self._client.rescore(taken)
        weighed = self._method.weigh(rescored, entropy)
        step.samples = self._steering.push(weighed.samples)
        step.fates = self._method.fates(selected, step.samples)
        step.metrics = selected.metrics | weighed.metrics
        step.metrics |= fate_metrics(step.fates.values(), step.step, self._method.possible_fates)
        with step.watch("update"):
            step.updates = await self._update(step, step.samples)
            self._method.trained(step.step, step.samples)
            await self._replay(step)
        step.metrics |= self._method.metrics(step.step) | self._terms.observe(entropy)
        step.metrics |= self._steer(step, entropy)
        self.step = step.step
        return step

    async def recheck(self, step: Step) -> None:
        """Scores a hashed share of what the step trained on again, for the entropy afterwards."""
        if not step.updates:
            return
        contexts = self._recheck_subset([sample.rollout for sample in step.samples])
        with step.watch("recheck"):
            step.rechecked = await self.score_rollouts(contexts)

    async def score_rollouts(self, rollouts: Sequence[Rollout]) -> dict[RolloutKey, TokenScores]:
        """Token statistics under the current weights, without those of the reference model."""
        return await self._client.score(rollouts, reference=False)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has besides the learner's state and the manifest."""
        return {
            "method": self._method.state_dict(),
            "terms": self._terms.state_dict(),
            "steering": self._steering.state_dict(),
            "actuators": self._actuators.state_dict(),
            "tracking": self._tracking.state_dict(),
            "skipped_in_a_row": self._skipped_in_a_row,
        }

    async def restore(self, checkpoint: Path, manifest: Manifest, state: Mapping[str, Any]) -> None:
        """Goes back to a checkpoint, the learner too; `state` is what its `read_state` gave."""
        await self._learner.load(checkpoint / "learner")
        # A user may have allowed another slot: it knows nothing of the one before it.
        fresh = anew(manifest.about.get("config", {}), self._config)
        # Checkpoints of version 0.1 say "teaching".
        method = state["method"] if "method" in state else state["teaching"]
        self._method.load_state_dict({slot: method[slot] for slot in method if slot not in fresh})
        self._terms.load_state_dict(state["terms"])
        if "steering" not in fresh:
            # All are absent in version 0.1.
            self._steering.load_state_dict(state.get("steering", {}))
            self._actuators.load_state_dict(state.get("actuators", {}))
            self._tracking.load_state_dict(state.get("tracking", {}))
        # Without it a run that is resumed often would never stop. Older checkpoints do not say.
        self._skipped_in_a_row = int(state.get("skipped_in_a_row", 0))
        self.step = manifest.step
        self.policy_version = manifest.policy_version

    def follow(self, other: "Trainer") -> None:
        """Takes another trainer's position, and its state as far as both have the same slots."""
        state = self._method.state_dict()
        for slot, value in other._method.state_dict().items():
            if getattr(self._config, slot) == getattr(other._config, slot):
                state[slot] = value
        self._method.load_state_dict(state)
        if self._config.terms == other._config.terms:
            self._terms.load_state_dict(other._terms.state_dict())
        if self._config.steering == other._config.steering:
            self._steering.load_state_dict(other._steering.state_dict())
            self._actuators.load_state_dict(other._actuators.state_dict())
            self._tracking.load_state_dict(other._tracking.state_dict())
        self.step = other.step
        self.policy_version = other.policy_version
        self._skipped_in_a_row = other._skipped_in_a_row

    async def _update(self, step: Step, samples: list[Sample], first: int = 0) -> list[Update]:
        steered = self._steering.values(step.step)
        coefficients = self._config.objective.at(step.step)
        term_coefficients = self._terms.at(step.step)
        updates, self.policy_version = await self._client.update(
            step.step,
            samples,
            count=self._method.updates(samples, self._config.learner.updates_per_rollout),
            coefficients=_with(coefficients, steered),
            term_coefficients=_with(term_coefficients, steered),
            version=self.policy_version,
            first=first,
            contexts=self._ledger_contexts(step),
        )
        self._check_skipped(step.step, updates)
        return updates

    def _steer(self, step: Step, entropy: float) -> dict[str, float]:
        """Lets the controller see what the step did; its metrics, and how well it holds its aim."""
        effects = self._actuators.measure([*step.updates, *step.replayed])
        metrics = self._steering.observe(step.step, entropy, effects)
        aim = self._steering.aim(step.step) or self._terms.aim()
        return metrics | self._tracking.add(entropy, aim, step.samples)

    def _ledger_contexts(self, step: Step) -> list[Rollout]:
        """Where the entropy's books are kept; none if the step is not measured."""
        ledger = self._config.accounting.ledger
        if not ledger.measures(step.step):
            return []
        return context_rollouts(step.delivery.batch.rollouts, ledger.contexts, self._config.seed)

    def _check_skipped(self, step: int, updates: Sequence[Update]) -> None:
        """Raises RuntimeError if too many updates in a row could not be made."""
        limit = self._config.learner.max_skipped_updates
        for update in updates:
            self._skipped_in_a_row = self._skipped_in_a_row + 1 if update.skipped else 0
            if self._skipped_in_a_row > limit:
                raise RuntimeError(
                    f"{self._skipped_in_a_row} updates in a row (the last in step {step}) had a "
                    "gradient or loss that is not finite; "
                    f"learner.max_skipped_updates={limit} are allowed. The weights are still those "
                    f"of policy version {self.policy_version}, and the step's rollouts are in the "
                    "ledger. Lower learner.lr, look at the step's longest responses, or use "
                    "learner.dtype=float32."
                )

    async def _replay(self, step: Step) -> None:
        """Makes the updates on stored samples, if this step replays.

        Measures what they do to the entropy of a hashed share of the step's own first wave.
        """
        samples = self._method.replay(step.step)
        if not samples:
            return
        contexts = self._recheck_subset(first_wave(step.delivery.batch.rollouts))
        before = await self.score_rollouts(contexts)
        step.replayed = await self._update(step, samples, first=len(step.updates))
        after = await self.score_rollouts(contexts)
        if contexts:
            step.metrics["replay/entropy_before"] = mean_entropy(contexts, before)
            step.metrics["replay/entropy_after"] = mean_entropy(contexts, after)

    def _recheck_subset(self, rollouts: Sequence[Rollout]) -> list[Rollout]:
        config = self._config
        return recheck_subset(rollouts, config.accounting.recheck_share, config.seed)


def _with(values: Mapping[str, Any], steered: Mapping[str, float]) -> dict[str, Any]:
    """Returns the values with those that are steered in their place; no name is added."""
    return {name: steered.get(name, value) for name, value in values.items()}


def mean_entropy(rollouts: Sequence[Rollout], scores: Mapping[RolloutKey, TokenScores]) -> float:
    """Entropy of the first wave, in nats per token, over all its responses, before any filter.

    NaN without a token: the entropy of nothing is not 0, which would read as a collapse.
    """
    entropies = [scores[rollout.key].entropy for rollout in first_wave(rollouts)]
    tokens = sum(len(entropy) for entropy in entropies)
    if not tokens:
        return math.nan
    return float(sum(entropy.sum(dtype="float64") for entropy in entropies) / tokens)
