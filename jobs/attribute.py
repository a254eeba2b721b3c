"""Says who moved the entropy in recorded steps: python jobs/attribute.py run=<name> steps=10,20-24"""

import sys
from pathlib import Path

# In the place of jobs/: this tree's own code runs, and no script's name shadows a library.
sys.path[0] = str(Path(__file__).resolve().parents[1] / "platform")

from isentropic.experiments.commands.attribute import main

if __name__ == "__main__":
    sys.exit(main())
