"""Makes docs/notebook.ipynb: the Python API on two recorded runs, executed.

    python docs/make_notebook.py

It reads runs/clip_higher and runs/ce_gppo of the working folder; the first cell says how they were made.
Cells that would train are text, so that the notebook is made in seconds.
"""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "notebook.ipynb"
TIMEOUT_S = 300  # of a cell; each takes a second or two


def cells(first: str, second: str, step: int) -> list[tuple[str, str]]:
    """Return kind and text of each cell.

    Args:
        first, second: names of runs; the first measured the tokens of `step`.
    """
    return [
        (
            "markdown",
            f"""# Runs as data frames

`docs/make_notebook.py` makes this page from two runs. To have them:

```python
import isentropic

for method in ("{first}", "{second}"):
    isentropic.train([
        "experiment=ce_gppo_tiny", f"method={{method}}", f"run.name={{method}}", "run.steps=20",
        "accounting.ledger.every=5",
    ])
```

[api.md](api.md) lists all there is; [metrics.md](metrics.md) explains every column.""",
        ),
        ("code", f'import isentropic\n\nrun = isentropic.load_run("{first}")\nrun'),
        (
            "code",
            """columns = ["entropy/mean", "reward/mean", "clip/low_frac", "eval/avg_at_k"]
run.metrics[columns].dropna(how="all").tail(3).round(4)""",
        ),
        ("code", "run.plot_entropy();"),
        (
            "markdown",
            "## What was drawn for a step\n\nEvery rollout is there, also those that were not "
            "trained on; `fate` says which.",
        ),
        (
            "code",
            f"""rollouts = run.rollouts({step})
rollouts.groupby("fate")[["reward", "tokens"]].agg(["count", "mean"]).round(3)""",
        ),
        (
            "code",
            'rollouts[["prompt", "response", "reward", "fate", "advantage"]].head(4).round(3)',
        ),
        (
            "markdown",
            "## Which tokens moved the entropy\n\n`contribution` is in nats: what a token did to the "
            "mean entropy, over the step's updates, momentum left out. The four classes are those of "
            "the CE-GPPO paper: sign of the advantage, probability above or below one half.",
        ),
        (
            "code",
            f"""import numpy as np

tokens = run.tokens({step}).dropna(subset="contribution")
named = tokens[tokens["advantage"] != 0].assign(
    sign=lambda of: np.where(of["advantage"] > 0, "PA", "NA"),
    probability=lambda of: np.where(of["old_logprob"] > np.log(0.5), "HP", "LP"),
)
named.groupby(["sign", "probability"])["contribution"].agg(["count", "sum"])""",
        ),
        (
            "code",
            """tokens.loc[
    tokens["contribution"].abs().nlargest(5).index,
    ["text", "old_logprob", "old_entropy", "sensitivity", "advantage", "contribution"],
].round(5)""",
        ),
        ("markdown", "## Two runs side by side"),
        (
            "code",
            f"""both = isentropic.compare(["{first}", "{second}"])
both.table.xs("mean", axis=1, level=1).T.round(3)""",
        ),
        ("code", "both.plot_entropy();"),
        (
            "markdown",
            f"""## The same updates under other settings

End points of two short runs mislead. A branch trains one recorded step again under each setting, from
the same state, here that after step {step // 2}:

```python
branches = isentropic.branch("{second}", [{step // 2}], ["objective.beta1=0,0.5,1"])
branches.differences
```""",
        ),
    ]


def make(first: str, second: str, step: int, folder: Path) -> nbformat.NotebookNode:
    """Execute the notebook in `folder`, where runs/ is. Raises what a cell raises."""
    makers = {"markdown": new_markdown_cell, "code": new_code_cell}
    notebook = new_notebook(
        cells=[makers[kind](text) for kind, text in cells(first, second, step)],
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
    )
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    os.environ["PYTHONPATH"] = str(ROOT / "platform")
    os.environ.pop("MPLBACKEND", None)  # the notebook draws inline
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm's, without ipywidgets
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    notebook.metadata.pop("language_info", None)  # the Python of one machine
    return notebook


def main() -> None:
    nbformat.write(make("clip_higher", "ce_gppo", 20, Path.cwd()), PAGE)
    print(f"{PAGE}: {PAGE.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    sys.exit(main())
