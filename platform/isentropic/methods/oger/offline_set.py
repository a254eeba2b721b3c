"""The offline set of a run: a prompt's teacher responses, and the one that joins its group."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from isentropic.methods.oger.teachers import TeacherResponse, TeacherSource
from isentropic.records import Group, Ints, Prompt, Rollout, RolloutKey, is_right
from isentropic.seeds import hash_seed
from isentropic.tasks.base import Task
from isentropic.tasks.chat import Chat

KEPT_TEXTS = 16384  # whose tokens stay in memory


class OfflineSet:
    """Filters a source by correctness and length, and turns responses into rollouts."""

    def __init__(
        self,
        source: TeacherSource,
        *,
        task: Task,
        chat: Chat,
        require_correct: bool,
        max_response_tokens: int,
        window: int,
        seed: int,
    ) -> None:
        self._source, self._task, self._chat = source, task, chat
        self._require_correct = require_correct
        self._max_tokens = max_response_tokens
        self._window = window
        self._seed = seed
        self._tokens: Callable[[str], Ints] = lru_cache(maxsize=KEPT_TEXTS)(self._encode)
        self._usable: dict[str, tuple[TeacherResponse, ...]] = {}

    def responses(self, prompt: Prompt) -> Sequence[TeacherResponse]:
        """The usable responses, each with its task reward, in the source's order."""
        if prompt.prompt_id not in self._usable:
            self._usable[prompt.prompt_id] = self._filter(prompt)
        return self._usable[prompt.prompt_id]

    def draw(self, group: Group) -> Rollout | None:
        """One usable response as a rollout of wave 0, drawn uniformly by (seed, draw), or None."""
        first = group.wave(0)
        if not first:
            return None
        prompt_tokens = first[0].token_ids[: first[0].turns[0][0]]
        room = self._window - len(prompt_tokens)
        fitting = [r for r in self.responses(group.prompt) if len(self._tokens(r.text)) <= room]
        if not fitting:
            return None
        seed = hash_seed("teacher draw", self._seed, group.draw)
        chosen = fitting[random.Random(seed).randrange(len(fitting))]
        return _rollout(chosen, first, prompt_tokens, self._tokens(chosen.text), seed)

    def texts(self, rollouts: Sequence[Rollout]) -> list[str]:
        """What encoders see: the response only, without special tokens."""
        return [" ".join(self._chat.turn_texts(rollout)) for rollout in rollouts]

    def _filter(self, prompt: Prompt) -> tuple[TeacherResponse, ...]:
        graded = [self._graded(prompt, row) for row in self._source.responses(prompt)]
        return tuple(
            row
            for row in graded
            if len(self._tokens(row.text)) <= self._max_tokens
            and (is_right(row.reward, prompt) or not self._require_correct)
        )

    def _graded(self, prompt: Prompt, row: TeacherResponse) -> TeacherResponse:
        """The row with the task's reward, if the file has none or says only that it is right."""
        if row.verified:
            return replace(row, reward=prompt.reward_right)
        if not math.isnan(row.reward):
            return row
        if self._task.isolated:
            raise ValueError(
                f"oger.teachers: the response of {row.teacher!r} to prompt {row.prompt_id!r} has "
                "neither reward nor verified, and this task's check may only run in a killable "
                "process. Grade the file once: "
                "python jobs/make_teachers.py out=graded.jsonl grade=<file> task=..."
            )
        return replace(row, reward=float(self._task.grade(prompt, [row.text])))

    def _encode(self, text: str) -> Ints:
        """[N] the response's tokens and the end of sequence, as the policy would write them."""
        ids = self._chat.tokenizer.encode(text, add_special_tokens=False)
        return np.array([*ids, self._chat.eos_token_id], dtype=np.int64)


def _rollout(
    chosen: TeacherResponse, first: Sequence[Rollout], prompt: Ints, response: Ints, seed: int
) -> Rollout:
    sibling = first[0]
    sample = 1 + max(rollout.key.sample for rollout in first)
    return Rollout(
        key=RolloutKey(sibling.key.split, sibling.key.draw, 0, sample),
        prompt=sibling.prompt,
        token_ids=np.concatenate([prompt, response]),
        turns=((len(prompt), len(prompt) + len(response)),),
        rollout_logprob=np.full(len(response), np.nan, dtype=np.float32),
        temperature=sibling.temperature,
        seed=seed,
        finish_reason="stop",
        step=sibling.step,
        policy_version=sibling.policy_version,
        origin=f"teacher:{chosen.teacher}",
        reward=chosen.reward,
    )
