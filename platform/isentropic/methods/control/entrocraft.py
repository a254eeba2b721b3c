"""Entrocraft (arXiv:2604.26326): while the entropy leaves its band, learn from one sign only.

    m = +1 above the band, -1 below it, 0 inside or on an edge

The paper and the released code are two methods:

    paper   keeps a response iff m A >= 0, A as the estimator gave it for the whole group
    code    keeps all; the step's A is max(R, 0) for m = +1, min(R, 0) for m = -1, R the raw +-1 score

So at m = +1 the paper's form learns from rewarded responses, which narrows the distribution, and at
m = -1 from punished ones. In the code's form groups that are all right or all wrong push too: give
it filter=keep_all.
[source] Full text of v2, and the code. [reconstructed] `min_kept`, `sign=drift` and
`denominator=all`; `scores=sign` lets tasks that pay 0 for a wrong answer use the code's form.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from isentropic.checks import check_choice, check_range
from isentropic.methods.control.band import Band
from isentropic.methods.control.controller import Aim, Choice, Effects, EntropyController
from isentropic.records import Group, Rollout, RolloutKey, TokenScores

DROPPED = "against_target"


@dataclass(frozen=True, kw_only=True)
class EntrocraftConfig:
    """The band, and how the sign acts; values live in conf/steering/.

    Attributes:
        form: paper | code.
        low, high: edges of the band in nats per token, numbers or schedules; null is no edge.
        min_kept: share of the passed responses; if fewer would be kept, the step is unfiltered.
        denominator: kept: the mean goes over the kept responses | all: dropped ones stay in it,
            with advantage 0. Eq. 5 of the paper takes that mean prompt by prompt:
            reduction=per_prompt.
        sign: advantage: by the sign of A | drift: by the sign of the response's first-order effect
            on the entropy, A times the sum of its tokens' S.
        scores: of the code's form. sign: +1 for a right response, else -1 | raw: the reward.
    """

    name: str
    form: str
    low: Any
    high: Any
    min_kept: float
    denominator: str
    sign: str
    scores: str
    actuators: ClassVar[Mapping[str, Any]] = {}
    fates: ClassVar[tuple[str, ...]] = (DROPPED,)

    def __post_init__(self) -> None:
        check_choice("steering.form", self.form, ("paper", "code"))
        self.band.check("steering")
        check_range("steering.min_kept", self.min_kept, at_least=0, at_most=1)
        if self.denominator == "per_prompt":
            raise ValueError(
                "steering.denominator=per_prompt: which responses are counted is asked here, kept or "
                "all; that they are counted prompt by prompt is a matter of the reduction. "
                "Set steering.denominator=kept and reduction=per_prompt."
            )
        check_choice("steering.denominator", self.denominator, ("kept", "all"))
        check_choice("steering.sign", self.sign, ("advantage", "drift"))
        check_choice("steering.scores", self.scores, ("sign", "raw"))

    @property
    def band(self) -> Band:
        """Where the entropy should be."""
        return Band(low=self.low, high=self.high)

    def build(self, start: Mapping[str, float | None]) -> "Entrocraft":
        return Entrocraft(self)


class Entrocraft(EntropyController):
    """Chooses the sign before each step's advantages are used. Its state is the last choice."""

    def __init__(self, config: EntrocraftConfig) -> None:
        self._config = config
        self._side = 0
        self._gave_up = False  # fewer than `min_kept` would have been left

    def sense(self, step: int, entropy: float) -> None:
        self._side = self._config.band.side(step, entropy)

    def choose(
        self,
        groups: Sequence[Group],
        advantages: Mapping[RolloutKey, float],
        verdicts: Mapping[RolloutKey, str],
        scores: Mapping[RolloutKey, TokenScores],
    ) -> Choice:
        passed = [r for group in groups for r in group.rollouts if verdicts[r.key] == "trained"]
        code = self._config.form == "code"
        signed = self._signed(passed) if code else {}
        against = (
            [key for key, advantage in signed.items() if advantage == 0]
            if code
            else [r.key for r in passed if self._against(r, advantages[r.key], scores)]
        )
        kept = len(passed) - len(against)
        self._gave_up = self._side != 0 and kept < self._config.min_kept * len(passed)
        weight = prompt_weight = 1.0
        if self._gave_up:
            pass
        elif code:
            advantages = {**advantages, **signed}
        elif self._config.denominator == "all":
            advantages = {**advantages, **dict.fromkeys(against, 0.0)}
        else:
            verdicts = {**verdicts, **dict.fromkeys(against, DROPPED)}
            weight = len(passed) / kept if kept else math.nan
            prompt_weight = _prompt_weight(passed, verdicts)
        share = kept / len(passed) if passed else math.nan
        metrics = {"entrocraft/kept_frac": share, "entrocraft/weight": weight}
        metrics["entrocraft/prompt_weight_max"] = prompt_weight
        return Choice(advantages=advantages, verdicts=verdicts, metrics=metrics)

    def _signed(self, passed: Sequence[Rollout]) -> dict[RolloutKey, float]:
        """Advantages of the code's form; none at m = 0, where the estimator's stand."""
        if self._side == 0:
            return {}
        pick = max if self._side > 0 else min
        return {rollout.key: pick(self._score(rollout), 0.0) for rollout in passed}

    def _score(self, rollout: Rollout) -> float:
        if self._config.scores == "raw":
            return float(rollout.reward)
        return 1.0 if rollout.is_right else -1.0

    def _against(
        self, rollout: Rollout, advantage: float, scores: Mapping[RolloutKey, TokenScores]
    ) -> bool:
        effect = advantage
        if self._config.sign == "drift":
            effect *= float(scores[rollout.key].sensitivity.sum(dtype="float64"))
        return self._side * effect < 0

    def observe(self, step: int, entropy: float, effects: Effects) -> dict[str, float]:
        return {"entrocraft/unfiltered": float(self._gave_up)}

    def aim(self, step: int) -> Aim:
        low, high = self._config.band.at(step)
        return Aim(low=low, high=high, mode=float(self._side), saturated=self._gave_up)

    def state_dict(self) -> dict[str, Any]:
        return {"side": self._side, "gave_up": self._gave_up}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._side, self._gave_up = int(state["side"]), bool(state["gave_up"])


def _prompt_weight(passed: Sequence[Rollout], verdicts: Mapping[RolloutKey, str]) -> float:
    """The most that a kept response weighs in a mean by prompts, relative to an unfiltered step."""
    before = Counter(rollout.key.draw for rollout in passed)
    kept = Counter(rollout.key.draw for rollout in passed if verdicts[rollout.key] == "trained")
    shares = [before[draw] / count for draw, count in kept.items()]
    return len(before) / len(kept) * max(shares) if kept else math.nan
