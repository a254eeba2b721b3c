"""Trains one run: python jobs/train.py experiment=ce_gppo_tiny objective.beta1=0.5"""

import sys
from pathlib import Path

# In the place of jobs/: this tree's own code runs, and no script's name shadows a library.
sys.path[0] = str(Path(__file__).resolve().parents[1] / "platform")

from isentropic.experiments.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
