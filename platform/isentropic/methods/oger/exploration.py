"""The shaping slot of OGER (arXiv:2604.18530): a bonus for right answers unlike the teachers'.

    s_ij = cos(Enc(o_i), Enc(teacher_j)),    D_i = 1 - mean_j s_ij
    R_i  = r_i + coef * D_i * exp(-H_i) * r_i     for the policy's right ones, r_i the task's reward
    R_i  = r_i                                    for its others
    R    = r                                      for a teacher's

The response with the smallest D gives its place to one teacher response, drawn uniformly: the group
keeps its size.
[source: notes on the paper] these formulas and the exchange. [reconstructed] coef, the clamp of D,
the statistic H, the encoder, no bonus and no exchange for a prompt without teachers, ties to the
lowest index, and what later waves get (the bonus, never a teacher). Each is a config value or named
where it is decided.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from isentropic.checks import check_choice, check_range
from isentropic.methods.oger.encoders import (
    CachedEncoder,
    Encoder,
    build_encoder,
    check_encoder,
    unit,
)
from isentropic.methods.oger.offline_set import OfflineSet
from isentropic.methods.oger.report import Report
from isentropic.methods.oger.teachers import load_source
from isentropic.records import Floats, Group, Rollout, RolloutKey, TokenScores
from isentropic.tasks.base import Task
from isentropic.tasks.chat import Chat

TIE = 9  # decimals: closer divergences are a tie


def cosines(online: Floats, offline: Floats) -> Floats:
    """[N, d] and [M, d] vectors of any length -> [N, M] s_ij, in float64."""
    return np.einsum(
        "id,jd->ij", unit(online), unit(offline)
    )  # no BLAS: the same bits for any batch


def divergence(similarity: Floats, *, clamp: bool) -> Floats:
    """[N, M] s_ij, M >= 1 -> [N] D_i = 1 - mean_j s_ij.

    `clamp` keeps it in [0, 1], because a cosine may be negative.
    """
    gap = 1.0 - np.asarray(similarity, dtype=np.float64).mean(axis=1)
    return gap.clip(0.0, 1.0) if clamp else gap


def confidence_entropy(entropy: Floats, statistic: str) -> float:
    """H_i in nats from the entropies [N] of one response.

    Args:
        statistic: `last`, `mean`, or `tail:<n>` (the mean of the last n).
    """
    if not len(entropy):
        return 0.0
    if statistic == "last":
        return float(entropy[-1])
    count = len(entropy) if statistic == "mean" else int(statistic.removeprefix("tail:"))
    return float(np.mean(entropy[-count:], dtype=np.float64))


def exploration_reward(reward: Floats, gap: Floats, entropy: Floats, *, coef: float) -> Floats:
    """coef * D * exp(-H) * r, all [N]; no gradient flows through the entropy."""
    return coef * gap * np.exp(-entropy) * reward


def most_teacher_like(gap: Floats) -> int:
    """Index of the smallest divergence; in a tie the lowest."""
    return int(np.argmin(np.round(gap, TIE)))


@dataclass(frozen=True, kw_only=True)
class ExplorationConfig:
    """Settings of the slot; their values live in conf/method/oger.yaml under `oger`."""

    name: str
    coef: float  # factor of the bonus; 0, and no teachers, is the base method
    clamp: bool  # D in [0, 1]
    entropy: str  # last | mean | tail:<n>
    encoder: str  # tfidf | policy | st:<model>
    teachers: Any  # null | embedded | a file | a list of files
    cache: str | None  # folder of encoded texts
    require_correct: bool
    ratio: str  # old_policy | shaped
    shape: float  # constant of the shaped ratio
    offline_min_adv: float | None
    max_response_tokens: int
    window: int  # tokens, prompt and response together
    seed: int

    def __post_init__(self) -> None:
        check_range("oger.coef", self.coef, at_least=0)
        check_range("oger.offline.shape", self.shape, above=0)
        check_choice("oger.offline.ratio", self.ratio, ("old_policy", "shaped"))
        check_encoder(self.encoder)
        if not re.fullmatch(r"last|mean|tail:[1-9]\d*", self.entropy):
            raise ValueError(
                f"oger.entropy must be last, mean or tail:<n> with n >= 1; got {self.entropy!r}."
            )

    @property
    def offline_shape(self) -> float | None:
        """For `shaped_offline`, the objective; None if teachers get the base objective's ratio."""
        return self.shape if self.ratio == "shaped" else None

    def build(self) -> "Exploration":
        return Exploration(self)


class Exploration:
    """The slot itself; its state is what `bind` gives it of the run."""

    def __init__(
        self,
        config: ExplorationConfig,
        offline: OfflineSet | None = None,
        encoder: Encoder | None = None,
        cached: Encoder | None = None,
    ) -> None:
        self._config = config
        self._offline = offline
        self._encoder = encoder  # of the policy's responses
        self._cached = cached or encoder  # of the teachers'

    def bind(self, *, chat: Chat, task: Task, model_path: str) -> None:
        """Reads the teachers and makes the encoder; does nothing without teachers.

        Args:
            model_path: folder or Hub name of the initial policy.

        Raises:
            ValueError: a teacher file that cannot be read, or a task of several turns.
        """
        config = self._config
        source = load_source(config.teachers, task)
        if source is None:
            return
        if task.max_turns > 1:
            raise ValueError(
                f"oger.teachers with a task of up to {task.max_turns} turns: a teacher's text has "
                "no environment's answers in it. Write oger.teachers=null, or choose a task of one "
                "turn."
            )
        self._offline = OfflineSet(
            source,
            task=task,
            chat=chat,
            require_correct=config.require_correct,
            max_response_tokens=config.max_response_tokens,
            window=config.window,
            seed=config.seed,
        )
        cache = None if config.cache is None else Path(config.cache)
        self._encoder = build_encoder(config.encoder, corpus=source.corpus, model_path=model_path)
        self._cached = CachedEncoder(self._encoder, cache)

    @property
    def fates(self) -> tuple[str, ...]:
        return ("replaced",) if self._offline is not None else ()

    def candidates(self, groups: Sequence[Group]) -> list[Rollout]:
        """The teacher response of each group, to be scored before `shape` puts it in.

        Its key is (split, draw, wave 0, G): the first free sample index, so that it names one
        rollout in scores and ledger, and stays with the response. The draw depends on the run's
        seed and the group's draw only.
        """
        if self._offline is None:
            return []
        return [rollout for group in groups if (rollout := self._offline.draw(group)) is not None]

    def shape(
        self,
        groups: Sequence[Group],
        scores: Mapping[RolloutKey, TokenScores],
        teachers: Sequence[Rollout] = (),
    ) -> tuple[list[Group], dict[str, float]]:
        """Groups with shaped rewards, one teacher in each that has any; and metrics under oger/."""
        report = Report()
        of_draw = {teacher.key.draw: teacher for teacher in teachers or self.candidates(groups)}
        joining = [of_draw.get(group.draw) for group in groups]
        hybrid = [
            group for group, teacher in zip(groups, joining, strict=True) if teacher is not None
        ]
        similarities = iter(self._similarities(hybrid))
        shaped = []
        for group, teacher in zip(groups, joining, strict=True):
            if teacher is None:
                rollouts = tuple(
                    replace(rollout, shaped_reward=rollout.reward) for rollout in group.rollouts
                )
                report.without_teacher(rollouts)
                shaped.append(replace(group, rollouts=rollouts))
            else:
                shaped.append(self._shape(group, teacher, next(similarities), scores, report))
        return shaped, report.metrics()

    def adjust(
        self, groups: Sequence[Group], advantages: Mapping[RolloutKey, float]
    ) -> tuple[dict[RolloutKey, float], dict[str, float]]:
        """Advantages after `oger.offline_min_adv`, and how the teachers fared.

        [derived] In a group that is all right the teacher has the lowest total, so it is pushed
        down; the clamp prevents it ([reconstructed], default none).
        """
        out = dict(advantages)
        keys = [rollout.key for group in groups for rollout in group.rollouts if rollout.is_teacher]
        given = np.array([advantages[key] for key in keys])
        if not keys:
            return out, {}
        metrics = {"oger/offline_advantage_mean": float(given.mean())}
        metrics["oger/offline_advantage_negative_frac"] = float((given < 0).mean())
        if self._config.offline_min_adv is not None:
            out |= {key: max(advantages[key], self._config.offline_min_adv) for key in keys}
            metrics["oger/offline_clamped_frac"] = float(
                (given < self._config.offline_min_adv).mean()
            )
        return out, metrics

    def _similarities(self, groups: Sequence[Group]) -> list[Floats]:
        """For each group [N, M]; all texts of the step are encoded at once."""
        if not groups:
            return []
        offline = [[row.text for row in self._offline.responses(group.prompt)] for group in groups]
        online = [self._offline.texts(group.rollouts) for group in groups]
        parts = []
        for encoder, texts in ((self._encoder, online), (self._cached, offline)):
            vectors = encoder.encode([text for row in texts for text in row])
            parts.append(np.split(vectors, np.cumsum([len(row) for row in texts])[:-1]))
        return [cosines(policy, teachers) for policy, teachers in zip(*parts, strict=True)]

    def _shape(
        self,
        group: Group,
        teacher: Rollout,
        similarity: Floats,
        scores: Mapping[RolloutKey, TokenScores],
        report: Report,
    ) -> Group:
        """Gives the bonus, and the teacher the place of the most similar response of wave 0."""
        rollouts = group.rollouts
        gap = divergence(similarity, clamp=self._config.clamp)
        entropy = np.array(
            [confidence_entropy(scores[r.key].entropy, self._config.entropy) for r in rollouts]
        )
        reward = np.array([rollout.reward for rollout in rollouts])
        # A wrong answer has r = 0 in the paper; a negative reward here would make the bonus a fine.
        right = np.array([rollout.is_right for rollout in rollouts])
        bonus = exploration_reward(
            np.where(right, reward, 0.0), gap, entropy, coef=self._config.coef
        )
        shaped = [
            replace(r, shaped_reward=float(total))
            for r, total in zip(rollouts, reward + bonus, strict=True)
        ]
        report.group(reward, gap, entropy, bonus, shaped, scores)
        report.similarities(
            [row.teacher for row in self._offline.responses(group.prompt)], similarity
        )
        report.exchange(teacher, scores)
        first = [index for index, rollout in enumerate(rollouts) if rollout.key.wave == 0]
        shaped[first[most_teacher_like(gap[first])]] = replace(
            teacher, shaped_reward=teacher.reward
        )
        return replace(group, rollouts=tuple(shaped))
