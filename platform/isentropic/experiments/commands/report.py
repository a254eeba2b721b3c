"""Writes one HTML file about runs, a sweep or branches: python jobs/report.py <name> ..."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from isentropic.experiments.program import program
from isentropic.experiments.settings.options import Option, Options, names, path
from isentropic.metrics.report.find import find_run
from isentropic.metrics.report.write import default_out, write_report

OPTIONS = Options(
    "report",
    __doc__,
    (
        Option(
            "run",
            "<folder or name>,...",
            "run folders, names of runs, sweeps or branch folders; `run=` may be left out",
            names,
            required=True,
        ),
        Option(
            "out", "<file>", "the HTML file (default: report.html in the folder)", path, writes=True
        ),
    ),
    words="run",
    old={"--out": "out="},
)


def report(options: dict[str, Any], overrides: list[str]) -> None:
    """Write the report and say where it is."""
    paths = [find_run(name) for name in options["run"]]
    out: Path = options.get("out") or default_out(paths)
    try:
        out = write_report(paths, out, decoder=_decoder)
    except OSError as error:
        raise ValueError(
            f"{error.filename or out}: {error.strerror or error}. Choose another file: out=<file>."
        ) from error
    figures = out.parent / "report"
    pngs = f"; PNGs in {figures}" if figures.is_dir() else ""
    print(f"{out}  ({out.stat().st_size / 1e6:.1f} MB{pngs})")


def _decoder(folder: Path) -> Callable[[Sequence[int]], str] | None:
    from isentropic.experiments.run.recorded import decoder  # torch: only if samples are shown

    return decoder(folder)


main = program(report, OPTIONS)
