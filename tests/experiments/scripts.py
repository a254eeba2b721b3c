"""Scripts of jobs/ in one process, one after another: each of its own would import torch for itself.

python scripts.py '[["train", ["--help"]], ...]'    prints {"train": {"code", "out", "error"}, ...}
"""

import io
import json
import os
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

JOBS = Path(__file__).resolve().parents[2] / "jobs"


def _run(script, arguments):
    """Runs one as Python would: its own arguments, the environment and search path of the start."""
    path, environ = list(sys.path), dict(os.environ)
    out, error = io.StringIO(), io.StringIO()
    sys.argv = [str(JOBS / f"{script}.py"), *arguments]
    code = 0
    try:
        with redirect_stdout(out), redirect_stderr(error):
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(environ)
    return {"code": code, "out": out.getvalue(), "error": error.getvalue()}


if __name__ == "__main__":
    os._exit = sys.exit  # `doctor` ends so, whatever its threads wait for
    found = {script: _run(script, arguments) for script, arguments in json.loads(sys.argv[1])}
    print(json.dumps(found))
