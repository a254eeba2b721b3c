"""python jobs/report.py <run folder | name | several | sweep folder | branch folder>"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from isentropic.folders import use_durable_folders
from isentropic.metrics.report.find import EXPECTED, resolve
from isentropic.metrics.report.write import default_out, write_report

BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the report and says where it is; exits with 2 on what is no run."""
    parser = argparse.ArgumentParser(
        prog="report.py", description="Writes one HTML file about runs.", epilog=EXPECTED
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run folder, a run's name, or a folder of runs"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the HTML file (default: report.html in the folder)",
    )
    given = parser.parse_args(arguments)
    use_durable_folders()
    try:
        paths = [resolve(name.removeprefix("run=")) for name in given.runs]
        out = write_report(paths, given.out or default_out(paths))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    figures = out.parent / "report"
    print(
        f"{out}  ({out.stat().st_size / 1e6:.1f} MB{f'; PNGs in {figures}' if figures.is_dir() else ''})"
    )
