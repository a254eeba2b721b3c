"""Many runs, one report: python jobs/sweep.py experiment=ce_gppo_tiny 'objective.beta1=0,0.5,1' 'seed=0,1,2'"""

import sys
from pathlib import Path

sys.path[0] = str(
    Path(__file__).resolve().parents[1] / "platform"
)  # in the place of jobs/: this tree's own code

from isentropic.experiments.commands.sweep import main

if __name__ == "__main__":
    main()
