"""The same updates from the same recorded states under several settings, compared pair by pair."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from isentropic.experiments.api.arguments import (
    check_count,
    check_kind,
    check_text,
    is_whole,
    shown,
)
from isentropic.experiments.api.run import Run, load_run
from isentropic.experiments.api.training import as_list
from isentropic.experiments.settings.overrides import named_settings, overrides_of
from isentropic.folders import unset_empty, use_durable_folders
from isentropic.metrics.report.branches import BRANCHES
from isentropic.metrics.report.branches import Branches as Rows
from isentropic.metrics.report.reading import read_json, read_rows
from isentropic.metrics.report.statements import STATEMENTS


class Branches:
    """A folder of branches, read only.

    Attributes:
        folder: where they lie; `report.html` is in it.
    """

    def __init__(self, folder: Path) -> None:
        check_kind("folder", folder, Path, "a Path; isentropic.branch makes the branches in it")
        self.folder = folder

    def __repr__(self) -> str:
        rows = Rows(self.folder)
        return f"<Branches at {rows.num_points} points: {', '.join(rows.settings)}, {self.folder}>"

    @property
    def rows(self) -> pd.DataFrame:
        """branches.jsonl: what was measured, by step (the branch point) and setting."""
        return pd.DataFrame(read_rows(self.folder / BRANCHES)[0]).set_index(["step", "setting"])

    @property
    def differences(self) -> pd.DataFrame:
        """Each quantity's difference to the first setting: mean over the points, and its error.

        Rows are quantities; the columns mean, se (standard error, NaN for one point) and points
        stand under each setting.
        """
        branches = Rows(self.folder)
        means = {
            setting: {key: branches.mean_difference(setting, key) for key in branches.measured}
            for setting in branches.settings[1:]
        }
        columns = {
            (setting, part): {key: value(mean) for key, mean in by_key.items()}
            for setting, by_key in means.items()
            for part, value in (
                ("mean", lambda mean: mean.value),
                ("se", lambda mean: mean.error),
                ("points", lambda mean: mean.count),
            )
        }
        return pd.DataFrame(columns)

    @property
    def statements(self) -> pd.DataFrame:
        """What the points say about the statements of docs/statements.md, as far as they can."""
        return pd.DataFrame(read_json(self.folder / STATEMENTS) or [])


def branch(
    run: str | Path | Run,
    steps: str | Sequence[int] | None = None,
    settings: Sequence[str] | Mapping[str, Any] = (),
    *,
    out: str | Path | None = None,
    contexts: int = 256,
    orders: int | None = None,
    processes: int = 1,
    exact: bool = False,
) -> Branches:
    """Train recorded steps again under several settings, as jobs/branch.py does.

    Args:
        run: a run, its name or its path.
        steps: branch points, the state after each: [10, 20], or as on the command line, "every:5";
            None: 40, evenly spread.
        settings: a grid, ["objective.beta1=0,0.5"], or settings by name,
            {"low": ["objective.beta1=0"], ...}. The first is the base of the differences.
        out: where to write; None: runs/<name>/branches/<settings>. Points that are there stay.
        contexts: rollouts to measure the entropy on, of the step trained on and of each of two
            others.
        orders: ways to put a step's prompts into its updates; None: about 18 branches per point.
        processes: points made at once. More than 1 starts processes that import the main script: it
            must keep its own work behind `if __name__ == "__main__":`.
        exact: as many learner ranks as the run had, over Ray; else one rank in this process.

    Raises:
        ValueError: the run, a step or a setting cannot be used.
    """
    options: dict[str, Any] = {"contexts": contexts, "processes": processes, "exact": exact}
    if orders is not None:
        options["orders"] = orders
    for name in options.keys() - {"exact"}:
        check_count(name, options[name])
    check_kind("exact", exact, bool, "True or False")
    if steps is not None:
        options["steps"] = _steps_text(steps)
    if out is not None:
        check_text("out", out, "the path of a folder, or None")
        options["out"] = Path(out)
    unset_empty()
    use_durable_folders()
    source = run if isinstance(run, Run) else load_run(run)
    # torch: once the names hold
    from isentropic.experiments.commands.branch import make_branches

    if isinstance(settings, Mapping):
        named = {
            str(name): overrides_of(f"settings.{name}", each) for name, each in settings.items()
        }
    else:
        named = named_settings(as_list(settings, "settings"))
    return Branches(make_branches(options | {"run": str(source.folder)}, named))


def _steps_text(steps: Any) -> str:
    """Return branch points as on the command line. Raises ValueError for what are none."""
    if isinstance(steps, str):
        return steps
    numbers = (
        list(steps) if isinstance(steps, Iterable) and not isinstance(steps, bytes) else [None]
    )
    if not all(is_whole(number) for number in numbers):
        raise ValueError(
            f'steps must be a list of whole numbers, [10, 20], a text, "every:5", or None; got '
            f"{shown(steps)}."
        )
    return ",".join(str(int(number)) for number in numbers)
