"""Fetches SmolLM2-135M-Instruct (Apache-2.0): python jobs/fetch_smollm2.py"""

import sys
from pathlib import Path

# In the place of jobs/: this tree's own code runs, and no script's name shadows a library.
sys.path[0] = str(Path(__file__).resolve().parents[1] / "platform")

from isentropic.experiments.commands.fetch_smollm2 import main

if __name__ == "__main__":
    sys.exit(main())
