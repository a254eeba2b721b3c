"""Puts the page together: of one run, or of several side by side."""

import html
import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from isentropic.durable import write_text_durably
from isentropic.metrics.report import tables
from isentropic.metrics.report.branches import BRANCHES, Branches, branch_charts, branch_table
from isentropic.metrics.report.charts.compare import compare_charts, maps
from isentropic.metrics.report.charts.run import other_charts, run_charts
from isentropic.metrics.report.charts.static import write_static
from isentropic.metrics.report.find import is_run, runs_under
from isentropic.metrics.report.page import Page, details, warnings
from isentropic.metrics.report.run_data import RunData, read_run
from isentropic.metrics.report.samples import pick_samples, samples_html
from isentropic.metrics.report.settings import Setting, group_settings
from isentropic.metrics.report.statements import statements_table

REPORT = "report.html"


def write_report(paths: Sequence[Path], out: Path, *, ended: bool = False) -> Path:
    """Writes the report of a run, of several runs, or of the runs in a folder; and PNGs in out's folder under report/.

    The HTML file is whole or not there, works without a network and without an account, and is about 2 MB.

    Args:
        paths: run folders, or folders that hold some (sweeps), or one branch folder. A run still going is fine.
        out: the HTML file.
        ended: the runs have ended, whatever their last line is: none is called still going.

    Returns:
        out.

    Raises:
        ValueError: a path is no run and holds none, or a run's lines are damaged other than at their end.
    """
    settings: list[Setting] = []
    if len(paths) == 1 and (paths[0] / BRANCHES).is_file():
        page = branch_page(paths[0])
    else:
        runs = [read_run(folder, ended=ended) for folder in runs_under(paths)]
        settings = group_settings(runs)
        alone = len(paths) == 1 and is_run(paths[0])
        page = run_page(runs[0]) if alone else compare_page(settings, title=_title(paths), out=out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text_durably(out, page.render())
    write_static(settings, out.parent / "report")
    return out


def default_out(paths: Sequence[Path]) -> Path:
    """report.html in the folder given; for several, in the folder that holds them all."""
    return Path(os.path.commonpath([path.resolve() for path in paths])) / REPORT


def run_page(run: RunData) -> Page:
    page = Page(title=f"{run.name}: report", head=_run_head(run))
    shown = run_charts(run)
    for title, figures in shown.items():
        page.section(title, page.charts(figures))
    samples = pick_samples(run.folder)
    page.section("Samples", samples_html(samples))
    page.section("Alarms", tables.alarms_table([run]))
    page.section("Settings", tables.settings_table(run))
    config = (
        html.escape(yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True))
        if run.config
        else ""
    )
    page.section(
        "Config", details("config.yaml", f"<pre class='config'>{config}</pre>") if config else ""
    )
    page.section(
        "Everything else", details("all other metrics", page.charts(other_charts(run, shown)))
    )
    return page


def compare_page(settings: Sequence[Setting], *, title: str, out: Path) -> Page:
    runs = [run for setting in settings for run in setting.runs]
    notes = [f"{run.name}: {note}" for run in runs for note in run.notes]
    states = [run.status.split(":")[0] for run in runs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    of = "1 setting" if len(settings) == 1 else f"{len(settings)} settings"
    head = (
        f"<h1>{html.escape(title)}</h1>"
        f"<p class='facts'>{len(runs)} runs of {of}: {html.escape(counts)}</p>{warnings(notes)}"
    )
    page = Page(title=f"{title}: report", head=head)
    page.section("Statements", statements_table(out.parent))
    page.section("Curves", page.charts(compare_charts(settings)))
    page.section("Over the swept coefficients", page.charts(maps(settings)))
    caption = "<p class='note'>Mean ± standard error over the runs of a setting. Best: the largest of the run.</p>"
    page.section("Last and best", tables.outcomes_table(settings) + caption)
    if differences := tables.paired_tables(settings):
        caption = (
            "<p class='note'>Setting minus base between runs of the same seed: mean ± standard error. "
            "Of few pairs the error itself is rough.</p>"
        )
        page.section("Paired differences", differences + caption)
    page.section("What differs in the configs", tables.differences_table(settings))
    page.section("Alarms", tables.alarms_table(runs))
    page.section("Runs", tables.runs_table(runs, _links(runs, out)))
    return page


def branch_page(folder: Path) -> Page:
    branches = Branches(folder)
    title = folder.resolve().name
    count = f"{branches.num_points} branch points, {len(branches.settings)} settings; base: "
    facts = count + branches.settings[0] if branches.settings else "no branch point yet"
    notes = [f"The last line of {BRANCHES} is torn; it is left out."] if branches.torn else []
    head = (
        f"<h1>{html.escape(title)}</h1><p class='facts'>{html.escape(facts)}</p>{warnings(notes)}"
    )
    page = Page(title=f"{title}: report", head=head)
    page.section("Statements", statements_table(folder))
    page.section("Paired differences", branch_table(branches) if branches.settings else "")
    page.section("Charts", page.charts(branch_charts(branches)))
    return page


def _run_head(run: RunData) -> str:
    state = run.status
    kind = state.split()[0].rstrip(":")
    facts = [
        f"model {run.setting('model.name')}" if run.setting("model.name") else "",
        f"task {run.setting('task.name')}" if run.setting("task.name") else "",
        f"objective {run.setting('objective.name')}" if run.setting("objective.name") else "",
        f"seed {run.setting('seed')}" if run.setting("seed") is not None else "",
        str(run.environment.get("started", "")).replace("T", " ").replace("+00:00", " UTC"),
    ]
    git = run.environment.get("git") or {}
    if git.get("commit"):
        facts.append(f"git {git['commit'][:10]}{' with changes' if git.get('dirty') else ''}")
    notes = list(run.notes)
    if not run.lines:
        notes.append("There is no line of metrics yet.")
    return (
        f"<h1>{html.escape(run.name)}<span class='state {html.escape(kind)}'>{html.escape(state)}</span></h1>"
        f"<p class='facts'>{html.escape(' · '.join(fact for fact in facts if fact))}</p>"
        f"{warnings(notes)}{tables.headline(run)}"
    )


def _title(paths: Sequence[Path]) -> str:
    names = [path.resolve().name for path in paths]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _links(runs: Sequence[RunData], out: Path) -> dict[str, str]:
    """A run's name -> its own report, where there is one, relative to this page."""
    reports = {run.name: run.folder / REPORT for run in runs}
    here = out.resolve().parent
    return {
        name: Path(os.path.relpath(path, here)).as_posix()
        for name, path in reports.items()
        if path.exists() and path.resolve() != out.resolve()
    }
