"""The dry run grades in the run's walled workers; a file of its own, which they import quickly."""

import os
import time
from functools import partial

from isentropic.experiments.dry import preview
from isentropic.records import Prompt
from isentropic.tasks.grading.rewards import RewardsConfig

PROMPT = Prompt(prompt_id="p", messages=({"role": "user", "content": "?"},), answer="1")


class Nosy:
    """Pays by what its check can see of this process, as code in an answer could."""

    isolated = True
    max_turns = 1

    def grade(self, prompt, turns):
        return float("CANARY" in os.environ)


class Stuck(Nosy):
    def grade(self, prompt, turns):
        time.sleep(3600)


def rewards(task):
    config = RewardsConfig(
        workers=2,
        timeout_s=0.2,
        deadline_s=0.5,
        memory_gib=2.0,
        batch_size=16,
        reward_on_error=0.0,
        max_errors_in_a_row=None,
    )
    lines = preview._reward_lines([PROMPT], partial(preview._graded, task, None, config))
    return [line.rpartition(": ")[2] for line in lines[:3]]


def test_golds_are_graded_behind_the_wall(monkeypatch):
    monkeypatch.setenv("CANARY", "1")
    assert Nosy().grade(PROMPT, [""]) == 1.0
    assert rewards(Nosy()) == ["0.0"] * 3


def test_a_check_that_hangs_does_not_hold_up_the_dry_run():
    """Its own time is over or, on a busy machine, that of all answers together."""
    seen = rewards(Stuck())
    late = "the 0.5 s of rewards.deadline_s, for all answers graded together, were over"
    assert len(seen) == 3
    assert all(one == "timed_out" or one.startswith(f"timed_out, {late}") for one in seen)
