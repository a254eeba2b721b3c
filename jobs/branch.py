"""Branches of a recorded run: python jobs/branch.py run=ce_gppo_tiny steps=every:5 'objective.beta1=0,0.5,1'"""

import sys
from pathlib import Path

sys.path[0] = str(
    Path(__file__).resolve().parents[1] / "platform"
)  # in the place of jobs/: this tree's own code

from isentropic.experiments.commands.branch import main

if __name__ == "__main__":
    main()
