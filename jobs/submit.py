"""Sends a job to a Ray cluster: python jobs/submit.py train experiment=ce_gppo_tiny --address http://head:8265"""

import sys
from pathlib import Path

sys.path[0] = str(
    Path(__file__).resolve().parents[1] / "platform"
)  # in the place of jobs/: this tree's own code

from isentropic.experiments.commands.submit import main

if __name__ == "__main__":
    sys.exit(main())
