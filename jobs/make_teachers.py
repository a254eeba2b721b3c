"""Makes teacher responses for OGER: python jobs/make_teachers.py teachers.jsonl --prompts 1024"""

import sys
from pathlib import Path

sys.path[0] = str(
    Path(__file__).resolve().parents[1] / "platform"
)  # in the place of jobs/: this tree's own code

from isentropic.experiments.commands.make_teachers import main

if __name__ == "__main__":
    sys.exit(main())
