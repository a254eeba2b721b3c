"""Writes one HTML file about runs, a sweep or branches: python jobs/report.py ce_gppo_tiny"""

import sys
from pathlib import Path

# In the place of jobs/: this tree's own code runs, and no script's name shadows a library.
sys.path[0] = str(Path(__file__).resolve().parents[1] / "platform")

from isentropic.experiments.commands.report import main

if __name__ == "__main__":
    sys.exit(main())
