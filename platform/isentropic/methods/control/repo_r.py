"""REPO-R (arXiv:2603.11682): advantages that count more at unlikely tokens, as strongly as needed.

    A > 0: A (1 - z log p)        A < 0: A max(0, 1 + z log p)
    z doubles while Hbar < H_init, halves while it is above, within [least, most]

[source] Third parties' notes that agree; no code was published. Without the floor at 0 a punished
token with log p < -1/z would be pushed up.
[reconstructed] The first z, its limits, H_init from the first step, and that p is the old policy's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from isentropic.checks import check_range
from isentropic.methods.advantages import float_dtype
from isentropic.methods.control.controller import Aim, Effects, EntropyController
from isentropic.records import Floats, Sample


def repo_advantage(advantage: Floats, logprob: Floats, z: float) -> Floats:
    """[N] advantages weighed by the surprisal of their tokens.

    Args:
        advantage: [N] in reward units.
        logprob: [N] nats, of the old policy.
        z: per nat, >= 0.
    """
    factor = np.maximum(1 - np.sign(advantage) * z * logprob, 0.0)
    return (advantage * factor).astype(float_dtype(advantage))


@dataclass(frozen=True, kw_only=True)
class RepoRConfig:
    """The strength z and its limits; values live in conf/steering/."""

    name: str
    start_entropy: float | None  # H_init in nats per token; null: that of the first step
    start: float  # first z, per nat
    least: float
    most: float

    actuators: ClassVar[Mapping[str, Any]] = {}
    fates: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.start_entropy is not None:
            check_range("steering.start_entropy", self.start_entropy, above=0)
        check_range("steering.least", self.least, above=0)
        check_range("steering.most", self.most, at_least=self.least)
        check_range("steering.start", self.start, at_least=self.least, at_most=self.most)

    def build(self, start: Mapping[str, float | None]) -> "RepoR":
        return RepoR(self)


class RepoR(EntropyController):
    """Its state is z, and the entropy that it holds."""

    def __init__(self, config: RepoRConfig) -> None:
        self._config = config
        self._z = config.start
        self._held = config.start_entropy
        self._sign = 0
        self._saturated = False

    def sense(self, step: int, entropy: float) -> None:
        if not math.isfinite(entropy):
            return
        if self._held is None:
            self._held = entropy
        self._sign = (entropy < self._held) - (entropy > self._held)
        wanted = self._z * 2.0**self._sign
        self._z = min(max(wanted, self._config.least), self._config.most)
        self._saturated = wanted != self._z

    def push(self, samples: Sequence[Sample]) -> list[Sample]:
        return [
            replace(sample, advantage=repo_advantage(sample.advantage, sample.old.logprob, self._z))
            for sample in samples
        ]

    def observe(self, step: int, entropy: float, effects: Effects) -> dict[str, float]:
        return {"repo/z": self._z}

    def aim(self, step: int) -> Aim:
        held = self._held
        return Aim(low=held, high=held, mode=float(self._sign), saturated=self._saturated)

    def state_dict(self) -> dict[str, Any]:
        return {"z": self._z, "held": self._held, "sign": self._sign, "saturated": self._saturated}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._z, self._held = float(state["z"]), state["held"]
        self._sign, self._saturated = int(state["sign"]), bool(state["saturated"])
