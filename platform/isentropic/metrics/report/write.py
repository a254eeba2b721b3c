"""Puts the page together: of one run, or of several side by side."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from isentropic.durable import write_text_durably
from isentropic.metrics.report import tables
from isentropic.metrics.report.attributions import attributions
from isentropic.metrics.report.blocks import Details, Lead, Note, Preformatted, Warnings
from isentropic.metrics.report.branches import (
    BRANCHES,
    Branches,
    branch_table,
    forest,
    point_charts,
)
from isentropic.metrics.report.charts.compare import compare_charts, maps
from isentropic.metrics.report.charts.compare_books import common_steps, compare_books
from isentropic.metrics.report.charts.law import NOTE as LAW_NOTE
from isentropic.metrics.report.charts.law import scatter_of
from isentropic.metrics.report.charts.run import LAW, other_charts, run_charts
from isentropic.metrics.report.charts.static import write_static
from isentropic.metrics.report.charts.story import (
    EFFECTS,
    NO_LEDGER,
    account,
    fine_print,
    sentence,
)
from isentropic.metrics.report.find import is_run, runs_under
from isentropic.metrics.report.page import Page
from isentropic.metrics.report.reading import is_file, words
from isentropic.metrics.report.run_data import RunData, read_run
from isentropic.metrics.report.samples import Decode, pick_samples
from isentropic.metrics.report.settings import Setting, group_settings
from isentropic.metrics.report.statements import statements_table

REPORT = "report.html"
NAMED = 3  # runs that a title names
LONGEST_NAME = 80  # bytes of a file's name, without what makes it unique
BEST = "Mean ± standard error over the runs of a setting. Best: the largest of the run."
PAIRED = (
    "Setting minus base between runs of the same seed: mean ± standard error. "
    "Of few pairs the error itself is rough."
)


def write_report(
    paths: Sequence[Path],
    out: Path,
    *,
    ended: bool = False,
    decoder: Callable[[Path], Decode | None] | None = None,
) -> Path:
    """Writes the report of a run, of several, or of the runs in a folder; and PNGs under report/.

    The HTML file is whole or not there, works without a network and without an account, and is
    about 2 MB. The PNGs are in the folder `report` beside it.

    Args:
        paths: run folders, or folders that hold some (sweeps), or one branch folder. A run that is
            still going is fine.
        out: the HTML file.
        ended: the runs have ended, whatever their last line is: none is called still going.
        decoder: run folder -> its tokenizer, for the colours of a run's tokens.

    Returns:
        out.

    Raises:
        ValueError: a path is not a run folder and contains none, a run's lines are damaged other
            than at their end, a file cannot be read, or `out` cannot be written.
    """
    settings: list[Setting] = []
    if len(paths) == 1 and is_file(paths[0] / BRANCHES):
        page = branch_page(paths[0])
    else:
        runs = [read_run(folder, ended=ended) for folder in runs_under(paths)]
        settings = group_settings(runs)
        if len(paths) == 1 and is_run(paths[0]):
            page = run_page(runs[0], decoder(runs[0].folder) if decoder else None)
        else:
            page = compare_page(settings, title=_title(paths), out=out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text_durably(out, page.render())
        write_static(settings, out.parent / "report")
    except OSError as error:
        raise ValueError(
            f"The report cannot be written: {error.filename or out}: {error.strerror}. "
            "Make room for it there, or name another file to write."
        ) from error
    return out


def default_out(paths: Sequence[Path]) -> Path:
    """Returns report.html in the folder given; for several, a file named after them beside them.

    So a comparison of other runs does not overwrite it.
    """
    resolved = [path.resolve() for path in paths]
    if len(resolved) == 1:
        return resolved[0] / REPORT
    names = [path.name for path in resolved]
    name = "-vs-".join(names)
    if len(name.encode()) > LONGEST_NAME:
        digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
        begin = "-vs-".join(names[:2]).encode()[:LONGEST_NAME].decode(errors="ignore")
        name = f"{begin}-and-more-{digest}"
    return Path(os.path.commonpath([path.parent for path in resolved])) / f"{name}.html"


def run_page(run: RunData, decode: Decode | None = None) -> Page:
    notes = list(run.notes)
    if not run.lines:
        notes.append("There is no line of metrics yet.")
    page = Page(title=run.name, facts=_facts(run), state=run.status)
    page.head.append(Warnings(notes=notes))
    if told := sentence([run]):
        page.head.append(Lead(lines=[told], note=fine_print(run)))
    page.head.append(tables.headline(run))
    shown = run_charts(run)
    for title, figures in shown.items():
        law = tables.law_table(group_settings([run])) if title == LAW else None
        page.section(title, page.charts(figures), law, law and Note(text=LAW_NOTE))
    for title, blocks in attributions(run.folder):
        page.section(title, *blocks)
    samples = pick_samples(run.folder, decode)
    page.section("Samples", samples if samples.kinds or samples.notes else None)
    page.section("Alarms", tables.alarms_table([run]))
    page.section("Settings", tables.settings_table(run))
    if run.config:
        config = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
        page.section("Config", _folded("config.yaml", Preformatted(text=config)))
    rest = page.charts(other_charts(run, shown))
    zeros = f"0 throughout, and in no chart: {', '.join(run.zeros)}." if run.zeros else ""
    page.section(
        "Everything else",
        _folded("all other metrics", rest) if rest else None,
        Note(text=zeros) if zeros else None,
    )
    return page


def compare_page(settings: Sequence[Setting], *, title: str, out: Path) -> Page:
    runs = [run for setting in settings for run in setting.runs]
    states = [run.status.split(":")[0] for run in runs]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    of = "1 setting" if len(settings) == 1 else f"{len(settings)} settings"
    page = Page(title=title, facts=f"{len(runs)} runs of {of}: {counts}")
    page.head.append(Warnings(notes=[f"{run.name}: {note}" for run in runs for note in run.notes]))
    common = common_steps(settings) or None
    told = [(setting, sentence(setting.runs, common)) for setting in settings[:NAMED]]
    if lines := [f"{setting.label}: {line}" for setting, line in told if line]:
        has_books = any(account(run) for run in runs)
        page.head.append(Lead(lines=lines, note=EFFECTS if has_books else NO_LEDGER))
    page.section("Statements", statements_table(out.parent))
    page.section("Search", tables.search_table(out.parent))
    page.section("What moved the entropy", page.charts(compare_books(settings)))
    page.section("Curves", page.charts(compare_charts(settings)))
    law = tables.law_table(settings)
    page.section(
        LAW,
        page.charts(scatter_of(settings)),
        law,
        tables.gap_table(settings),
        law and Note(text=LAW_NOTE),
    )
    page.section("Over the swept coefficients", page.charts(maps(settings)))
    page.section("Last and best", tables.outcomes_table(settings), Note(text=BEST))
    if differences := tables.paired_tables(settings):
        page.section("Paired differences", *differences, Note(text=PAIRED))
    page.section("What differs in the configs", tables.differences_table(settings))
    page.section("Alarms", tables.alarms_table(runs))
    page.section("Runs", tables.runs_table(runs, [_own_report(run, out) for run in runs]))
    return page


def branch_page(folder: Path) -> Page:
    branches = Branches(folder)
    facts = "no branch point yet"
    if branches.settings:
        facts = (
            f"{branches.num_points} branch points, {len(branches.settings)} settings; "
            f"base: {branches.settings[0]}"
        )
    page = Page(title=folder.resolve().name, facts=facts)
    source = folder.resolve().parent.parent  # of <run>/branches/<settings>
    if is_run(source):
        run = read_run(source)
        page = Page(title=f"Branches of {run.name}", facts=f"{facts} · {_facts(run)}")
    if branches.torn:
        page.head.append(Warnings(notes=[f"The last line of {BRANCHES} is torn; it is left out."]))
    page.section("Statements", statements_table(folder))
    figure = forest(branches)
    page.section(
        "Paired differences",
        page.charts([figure] if figure else []),
        branch_table(branches) if branches.settings else None,
    )
    points = page.charts(point_charts(branches))
    page.section("By branch point", points and _folded("each quantity by branch point", points))
    return page


def relative_url(path: Path, start: Path) -> str:
    """Returns a link from the folder `start` to a file: './a%3Ab/report.html', '../b/report.html'.

    With the dot in front a folder that is called 'javascript:...' is a path, and no scheme.
    """
    url = quote(os.fsencode(os.path.relpath(path, start)))
    return url if url.startswith("../") else f"./{url}"


def _folded(summary: str, block: Any) -> Details:
    return Details(summary=summary, blocks=[block])


def _facts(run: RunData) -> str:
    """Returns one line: what was run on what, and when."""
    facts = [
        f"{label} {words(value)}"
        for label, key in (("model", "model.name"), ("task", "task.name"))
        if (value := run.setting(key))
    ]
    facts.append(_method(run))
    if run.setting("seed") is not None:
        facts.append(f"seed {words(run.setting('seed'))}")
    started = words(run.environment.get("started", ""))
    facts.append(started.replace("T", " ").replace("+00:00", " UTC"))
    git = run.environment.get("git")
    if isinstance(git, dict) and git.get("commit"):
        changed = " with changes" if git.get("dirty") else ""
        facts.append(f"git {words(git['commit'])[:10]}{changed}")
    return " · ".join(fact for fact in facts if fact)


def _method(run: RunData) -> str:
    """Returns the method's name, and the label of the run if it was given one."""
    name, label = run.method, run.setting("run.label")
    return name + (f" ({words(label)})" if label and words(label) != name else "")


def _title(paths: Sequence[Path]) -> str:
    names = [path.resolve().name for path in paths]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return " vs ".join(names[:NAMED]) + more


def _own_report(run: RunData, out: Path) -> str:
    """Returns the link to a run's own report, "" if it has none, or if that is this very page."""
    path = run.folder / REPORT
    page = Path(os.path.realpath(out))
    if not os.path.exists(path) or path.resolve() == page:
        return ""
    return relative_url(path, page.parent)
