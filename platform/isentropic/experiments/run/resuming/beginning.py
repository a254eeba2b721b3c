"""What a run folder is given when a start has succeeded: its new config, and room for new draws.

Until then it is the folder of the run as it was: a start that fails leaves it as it found it, and
the command of before still goes on with it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from isentropic.config import Config
from isentropic.controller.storage.aside import ASIDE, set_steps_aside
from isentropic.controller.storage.resume import drawn_by
from isentropic.controller.storage.slots import anew
from isentropic.experiments.run.folder import (
    CONFIG,
    data_changes,
    has_run,
    read_config,
    write_config,
    write_data,
)
from isentropic.experiments.run.own_code import changed_code, write_own_code
from isentropic.experiments.run.resuming.keys import machine_remark, redrawing_keys
from isentropic.experiments.run.resuming.record import add_change, last_change
from isentropic.experiments.run.supervise import Start
from isentropic.metrics.sinks.wandb import STATE_FILE
from isentropic.tasks.data.digest import DataDigest


class Beginning:
    """What differs from the run that the folder has, and what follows from it; made before it is written to.

    Attributes:
        changes: 'key: old -> new' of what makes the steps behind the start other than they were
            drawn; empty once they are set aside.
        remarks: what to say of the changes before anything starts.
    """

    def __init__(
        self,
        config: Config,
        cfg: DictConfig,
        data: DataDigest | None,
        say: Callable[[str], None],
    ) -> None:
        self._config = config
        self._cfg = cfg
        self._data = data
        self._say = say
        self._folder = Path(config.run.dir)
        self._pending = has_run(self._folder)
        self.changes: list[str] = []
        self.remarks: list[str] = []
        if self._pending:
            before = read_config(self._folder)
            today = OmegaConf.to_container(cfg, resolve=True)
            self.changes = redrawing_keys(before, cfg) + self._other_changes()
            self.remarks = machine_remark(before, today) + _slot_remark(before, config)
            last_change(self._folder)  # a damaged record is named before anything starts

    @property
    def outlook(self) -> list[str]:
        """What a dry run says: where the run would go on is not known yet."""
        behind = "what the run has drawn behind its checkpoint would be set aside and drawn again."
        return [*self.remarks, *(f"{change}: {behind}" for change in self.changes)]

    def begin(self, start: Start) -> None:
        """Sets aside what another config drew behind the start, and writes the new config.

        Called for every attempt: one whose learner is lost may go back to before a change.
        """
        done = start[1].step if start else 0
        changes, since = self.changes, last_change(self._folder)
        if not changes and done < since:
            changes = [f"{CONFIG} is that of the steps behind {since}, where a resume changed it"]
        if changes:
            self._set_aside(start, done, changes)
        if self._pending:
            write_config(self._folder, self._cfg, done)
            write_own_code(self._folder, self._config)
            if self._data is not None:
                write_data(self._folder, self._data)
        self.changes, self._pending = [], False

    def _set_aside(self, start: Start, done: int, changes: Sequence[str]) -> None:
        kept = drawn_by(start, ahead=self._config.rollout.max_staleness)
        steps = set_steps_aside(self._folder, trained=done, drawn=kept)
        add_change(self._folder, after=done, drawn=kept, changes=changes)
        if not steps:
            return
        self._say(
            f"{'; '.join(changes)}: {_span(steps)} drawn before that. What was drawn is set aside "
            f"under {self._folder / ASIDE}, and drawn again."
        )
        if kept > done:
            self._say(
                f"What was drawn for the steps up to {kept} stays: the weights that drew it are "
                "gone (rollout.max_staleness)."
            )
        if (self._folder / STATE_FILE).exists():
            self._say(
                "W&B takes no step twice: the lines that it has of these steps stay those of "
                "before the change. metrics.jsonl has the new ones."
            )

    def _other_changes(self) -> list[str]:
        """Changes that no key of the config shows: the text of the user's code, and the data."""
        code = [f"{own.key}: other code" for own in changed_code(self._folder, self._config)]
        changed = self._data is not None and data_changes(self._folder, self._data)
        return code + (["task.data: other data"] if changed else [])


def _slot_remark(before: dict[str, Any], config: Config) -> list[str]:
    return [
        f"{slot}: {_other(before[slot].get('name'), getattr(config, slot).name)}: it begins anew, "
        "with nothing of what the checkpoint has of the one before."
        for slot in anew(before, config)
    ]


def _other(before: str | None, today: str) -> str:
    return f"{before} -> {today}" if before != today else f"{today} with other actuators"


def _span(steps: Sequence[int]) -> str:
    return f"step {steps[0]} was" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]} were"
