"""The reuse slot of UEC-RL (arXiv:2604.14646): a queue before the updates, a replay buffer after.

[source: code] B prompts of G samples are a unit. Kept samples join a first-in-first-out queue,
those of the second wave first; whole units leave it, oldest first, and are scored again under the
weights they are trained from. Trained samples with a large advantage enter the replay buffer with
their old scores and advantage, and every f steps are trained on again with these: the clip on pi /
pi_old(stored) bounds what staleness can do. Only a clip that silences: an objective that gives clipped
tokens a gradient (CE-GPPO, GPPO) pushes stale tokens too, and the KL term alone holds it.
[reconstructed] uec.keep: positive also asks for A > 0 on the way into the buffer; the released code
takes |A|.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from isentropic.checks import check_choice, check_range
from isentropic.methods.uec_rl.keep_rules import KEEP
from isentropic.records import RolloutKey, Sample
from isentropic.sample_state import samples_from_state, samples_to_state
from isentropic.seeds import hash_seed


@dataclass(frozen=True, kw_only=True)
class QueueReplayConfig:
    """Settings of the slot; their values live in conf/method/uec_rl.yaml under `uec`."""

    name: str
    unit: tuple[int, ...]  # B, G: their product is the samples of a unit
    queue: bool  # false: each step trains on its own batch
    queue_units: float  # capacity; what overflows is the oldest
    replay_every: int | None  # f, steps; null: never
    replay_units: float  # capacity s'
    replay_threshold: float  # on |A|, to enter the buffer
    keep: str  # positive | released
    seed: int

    def __post_init__(self) -> None:
        check_choice("uec.keep", self.keep, KEEP)
        check_range(
            "uec.queue_units",
            self.queue_units,
            at_least=1,
            hint="Less than a unit could never be trained on.",
        )
        check_range(
            "uec.replay_units",
            self.replay_units,
            at_least=1,
            hint="For no replay: uec.replay_every=null.",
        )
        check_range("uec.replay_threshold", self.replay_threshold, at_least=0)
        if self.replay_every is not None:
            check_range(
                "uec.replay_every", self.replay_every, at_least=1, hint="For no replay write null."
            )

    def build(self) -> "QueueReplay":
        return QueueReplay(self)


class QueueReplay:
    """The slot itself; queue and buffer are its state."""

    def __init__(self, config: QueueReplayConfig) -> None:
        self.config = config
        self._unit = int(np.prod(config.unit))
        self._queue: list[Sample] = []
        self._buffer: list[Sample] = []
        self._advantages: dict[RolloutKey, float] = {}  # of the last `take`, before reweighting
        self.overflowed: list[Sample] = []
        self._replayed_age: list[int] = []

    def take(self, step: int, new: Sequence[Sample]) -> list[Sample]:
        """Whole units, oldest first; [] as long as the queue holds less than one."""
        taken = self._pop(step, new) if self.config.queue else list(new)
        self._advantages = {sample.rollout.key: _advantage(sample) for sample in taken}
        return taken

    def _pop(self, step: int, new: Sequence[Sample]) -> list[Sample]:
        explored_first = sorted(new, key=lambda sample: sample.rollout.key.wave == 0)  # stable
        queue = [*self._queue, *explored_first]
        lost = max(0, len(queue) - int(self.config.queue_units * self._unit))
        self.overflowed, queue = queue[:lost], queue[lost:]
        count = len(queue) // self._unit * self._unit
        self._queue = queue[count:]
        return [s if s.rollout.step == step else replace(s, source="queue") for s in queue[:count]]

    def trained(self, step: int, samples: Sequence[Sample]) -> None:
        """Inserts what passes the threshold; keeps the newest. A replay is in it already."""
        if self.config.replay_every is None:
            return
        fresh = [sample for sample in samples if sample.source != "replay" and self._enters(sample)]
        self._buffer = [*self._buffer, *fresh][-self._capacity :]

    def replay(self, step: int) -> list[Sample]:
        """Every f steps: the whole buffer if full, else whole units drawn without replacement."""
        every = self.config.replay_every
        self._replayed_age = []
        if every is None or step % every or len(self._buffer) < self._unit:
            return []
        chosen = np.arange(len(self._buffer))
        if len(self._buffer) < self._capacity:
            rng = np.random.default_rng(hash_seed("replay", self.config.seed, step))
            count = len(self._buffer) // self._unit * self._unit
            chosen = np.sort(rng.choice(len(self._buffer), size=count, replace=False))
        samples = [replace(self._buffer[index], source="replay") for index in chosen]
        self._replayed_age = [step - sample.rollout.step for sample in samples]
        return samples

    def updates(self, samples: Sequence[Sample], per_batch: int) -> int:
        """`per_batch` for each unit: minibatches keep their size, however many units there are.

        [source: code] minibatches of B G / 4 responses, so 4 updates a unit. Without the queue a
        batch is no unit.
        """
        if not self.config.queue and any(sample.source != "replay" for sample in samples):
            return per_batch
        return len(samples) * per_batch // self._unit

    def metrics(self, step: int) -> dict[str, float]:
        """Sizes, and ages in steps, at the end of the step, under uec/."""
        metrics = {
            "uec/queue_size": float(len(self._queue)),
            "uec/queue_dropped": float(len(self.overflowed)),
            "uec/buffer_size": float(len(self._buffer)),
            "uec/replayed": float(len(self._replayed_age)),
        }
        ages = {
            "queue_age": [step - sample.rollout.step for sample in self._queue],
            "buffer_age": [step - sample.rollout.step for sample in self._buffer],
            "replay_age": self._replayed_age,
        }
        for name, values in ages.items():
            if values:
                metrics |= {
                    f"uec/{name}_mean": float(np.mean(values)),
                    f"uec/{name}_max": float(max(values)),
                }
        return metrics

    @property
    def fates(self) -> tuple[str, ...]:
        return ("queued", "overflowed") if self.config.queue else ()

    @property
    def _capacity(self) -> int:
        return int(self.config.replay_units * self._unit)

    def _enters(self, sample: Sample) -> bool:
        advantage = self._advantages.get(sample.rollout.key, _advantage(sample))
        right_sign = advantage > 0 or self.config.keep == "released"
        return right_sign and abs(advantage) > self.config.replay_threshold

    def state_dict(self) -> dict[str, Any]:
        return {"queue": samples_to_state(self._queue), "buffer": samples_to_state(self._buffer)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._queue = samples_from_state(state["queue"])
        self._buffer = samples_from_state(state["buffer"])


def _advantage(sample: Sample) -> float:
    """The rollout's advantage: the same at every token until a reweight slot changes it."""
    return float(sample.advantage[0]) if len(sample.advantage) else 0.0
