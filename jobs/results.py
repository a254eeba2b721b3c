"""Makes the results of docs/results.md: python jobs/results.py fig3"""

import sys
from pathlib import Path

# In the place of jobs/: this tree's own code runs, and no script's name shadows a library.
sys.path[0] = str(Path(__file__).resolve().parents[1] / "platform")

from isentropic.experiments.commands.results import main

if __name__ == "__main__":
    sys.exit(main())
