"""Shows rollouts of a recorded step: python jobs/show.py run=ce_gppo_tiny step=17"""

import sys
from pathlib import Path

# In the place of jobs/: this tree's own code runs, and no script's name shadows a library.
sys.path[0] = str(Path(__file__).resolve().parents[1] / "platform")

from isentropic.experiments.commands.show import main

if __name__ == "__main__":
    sys.exit(main())
