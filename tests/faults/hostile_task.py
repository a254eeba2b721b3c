"""The training job on sums whose check misbehaves: run in the place of jobs/train.py, with the same arguments."""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "platform"))

from isentropic import tasks
from isentropic.tasks.arithmetic import ArithmeticConfig, ArithmeticTask

FAULTS = ("raises", "hangs", "dies", "nan")


def fault_of(prompt_id: str) -> str | None:
    """What the check of a prompt does; None: it grades."""
    split, _, index = prompt_id.split("/")[1:]
    kind = int(index) % (len(FAULTS) + 1)
    return FAULTS[kind] if split == "train" and kind < len(FAULTS) else None


class HostileTask(ArithmeticTask):
    isolated = True

    def grade(self, prompt, turns):
        fault = fault_of(prompt.prompt_id)
        if fault == "raises":
            raise ZeroDivisionError
        if fault == "hangs":
            time.sleep(3600)
        if fault == "dies":
            os._exit(11)
        return float("nan") if fault == "nan" else 1.0


if __name__ == "__main__":
    import hostile_task  # as the reward workers will find it

    from isentropic.experiments.commands.train import main

    tasks.TASKS["arithmetic"] = tasks.TaskEntry(ArithmeticConfig, hostile_task.HostileTask)
    sys.exit(main())
