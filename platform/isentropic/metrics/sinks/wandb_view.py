"""A saved view of a W&B project: our curves in our order, and nothing else.

W&B's own workspace sorts by name and mixes runs of all programs that log to the project. A view is
made once per project, under a name of ours; from then on it is the user's, who may change it.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

VIEW = "isentropic"  # in its address: https://wandb.ai/<entity>/<project>?nw=isentropic
TITLE = "isentropic: entropy first"
OPEN = 3  # sections that are not folded
# What curves are drawn over: a step's numbers are of the weights that drew it, a held-out score is of
# those after it.
VERSION, HELD_OUT_VERSION = "policy_version", "eval/policy_version"


def version_of(metric: str) -> str:
    """Returns the metric that says which weights a metric is of."""
    return HELD_OUT_VERSION if metric.startswith("eval/") else VERSION


def can_make_views() -> bool:
    """Tells whether the package that makes views is installed (extra `view`)."""
    return find_spec("wandb_workspaces") is not None


def save_view(entity: str, project: str, sections: Mapping[str, Mapping[str, str]]) -> bool:
    """Makes the view unless the project has it; returns whether it was made.

    It takes a few seconds and asks W&B's server two to four times. What that raises is not caught.

    Args:
        entity, project: as W&B names those of the run.
        sections: title -> {name of a curve: metric}. The curve is logged as '<title>/<name>'.
    """
    from wandb_workspaces.workspaces import Workspace

    try:
        Workspace.from_url(f"https://wandb.ai/{entity}/{project}?nw={VIEW}")
        return False
    except ValueError as error:
        # What it cannot read is a view too, which somebody has changed: it must not be lost.
        if f"`{VIEW}` not found in project" not in str(error):
            return False
    # Saved under a name of its own and not a random one: so it is found again, and two runs that
    # start at once make one view.
    view = make_view(entity, project, sections)
    view._internal_name = f"nw-{VIEW}-v"
    view.save()
    return True


def make_view(entity: str, project: str, sections: Mapping[str, Mapping[str, str]]) -> Any:
    """Lays out a panel per curve, over the policy version, in the order of `sections`."""
    import wandb_workspaces.workspaces as layout
    from wandb_workspaces.reports.v2 import LinePlot

    return layout.Workspace(
        entity=entity,
        project=project,
        name=TITLE,
        # Else each of the 160 metrics gets a panel too.
        auto_generate_panels=False,
        sections=[
            layout.Section(
                name=title,
                is_open=place < OPEN,
                panels=[
                    LinePlot(title=name, x=version_of(metric), y=[f"{title}/{name}"])
                    for name, metric in curves.items()
                ],
            )
            for place, (title, curves) in enumerate(sections.items())
        ],
    )
