"""Writes one HTML file about a run, several, a sweep or branches: python jobs/report.py runs/ce_gppo_tiny"""

import sys
from pathlib import Path

sys.path[0] = str(
    Path(__file__).resolve().parents[1] / "platform"
)  # in the place of jobs/: this tree's own code

from isentropic.experiments.commands.report import main

if __name__ == "__main__":
    main()
