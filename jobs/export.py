"""Writes a checkpoint as a Hugging Face folder: python jobs/export.py runs/ce_gppo_tiny --to my-model"""

import sys
from pathlib import Path

sys.path[0] = str(
    Path(__file__).resolve().parents[1] / "platform"
)  # in the place of jobs/: this tree's own code

from isentropic.experiments.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
