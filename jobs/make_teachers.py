"""Makes teacher responses for OGER: python jobs/make_teachers.py out=teachers.jsonl"""

import sys
from pathlib import Path

# In the place of jobs/: this tree's own code runs, and no script's name shadows a library.
sys.path[0] = str(Path(__file__).resolve().parents[1] / "platform")

from isentropic.experiments.commands.make_teachers import main

if __name__ == "__main__":
    sys.exit(main())
