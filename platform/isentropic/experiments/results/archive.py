"""The numbers of a part's runs, step by step, in a small file each that outlives their folders.

    results/steps/<part>/<run>.json.xz       {"run", "config", "environment", "alarms", "steps": {metric: [...]}, ...}
    results/steps/<part>/branches.json.xz    {"settings", "rows": {number: [...]}}

Tables, verdicts and figures come out the same from them, without training; checkpoints and answers are gone.
A part has all its runs or none, and those that it shares with another by itself: the same seed is another run on
another machine, whose sums and warm start differ, and no difference is taken between two of those.
"""

import json
import lzma
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isentropic.durable import replace_durably, write_text_durably
from isentropic.experiments.results.numbers import TOKENS, tokens_by_step
from isentropic.experiments.results.plan import Planned
from isentropic.experiments.statements.runs import OF_UPDATES
from isentropic.experiments.sweep.ledger import OVER, SweepLedger
from isentropic.metrics.report.branches import BRANCHES, SETTINGS
from isentropic.metrics.report.run_data import RunData, read_run
from isentropic.metrics.sinks.jsonl import read_lines

FOLDER = "steps"  # beside the numbers of the parts
DIGITS = 7  # significant
# What a machine had to do with it; the seconds of a step are kept, for the hours.
OF_THE_MACHINE = ("time/", "throughput/", "mismatch/", "sync/")
SECONDS = "time/step_s"
PLACE = ("step", "update", "skipped")  # of a line of updates.jsonl
OF_BRANCHES = (
    "run",
    "step",
    "setting",
    "entropy",
    "entropy_trained",
    "entropy_held_out",
    "clip_frac",
)


def archive(part: str, runs: Sequence[Planned], ledger: SweepLedger, results: Path) -> int:
    """Write the file of each run of a part, once all are over, unless it is of this very training.

    Return how many were written. The file of the part's branches, which are of other trainings then,
    is removed. Raises ValueError: a file is damaged.
    """
    written = 0
    for run in runs if all(ledger.state(run.trial.digest) in OVER for run in runs) else ():
        path, row = _path(part, run, results), _row(run, ledger)
        if not path.is_file() or _row_of(path) != row:
            _branches_path(part, results).unlink(missing_ok=True)
            _write(path, _packed(run, row))
            written += 1
    return written


def _row_of(path: Path) -> dict[str, Any]:
    with _damage_told(path):
        return _read(path)["row"]


def _row(run: Planned, ledger: SweepLedger) -> dict[str, Any]:
    """Return what the ledger says of a run, the seconds of all attempts together."""
    row = ledger.rows[run.trial.digest]
    kept = {key: row.get(key) for key in ("overrides", "state", "attempts")}
    return kept | {"seconds": sum(ledger.attempts(run.trial.digest))}


def is_kept(part: str, runs: Sequence[Planned], results: Path) -> bool:
    """Return True if all runs of a part have their files."""
    return all(_path(part, run, results).is_file() for run in runs)


def restore(part: str, runs: Iterable[Planned], ledger: SweepLedger, results: Path) -> None:
    """Make the folders of a part's runs from their files, and count the runs as over.

    Raises:
        ValueError: a file is not there, or damaged.
    """
    for run in runs:
        path = _path(part, run, results)
        with _damage_told(path):
            packed = _read(path)
            files, row = _files(packed), dict(packed["row"])
        run.folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write_text_durably(run.folder / name, text)
        ledger.write(run.trial.digest, run=run.trial.name, **row)


def archive_branches(part: str, folder: Path, results: Path) -> None:
    """Write the file of a part's pooled branches, which `folder` has."""
    rows = read_lines(folder / BRANCHES)[0]
    packed = {
        "settings": (folder / SETTINGS).read_text(encoding="utf-8"),
        # Whole: differences are a thousandth of the entropies.
        "rows": {name: [row.get(name) for row in rows] for name in OF_BRANCHES},
    }
    _write(_branches_path(part, results), packed)


def kept_points(
    part: str, runs: Sequence[Planned], named: Mapping[str, Sequence[str]], results: Path
) -> int | None:
    """Return the points of each run in the file of a part's branches.

    None if there is no file of just these runs and settings (`named`: label to overrides). Raises
    ValueError: it is damaged.
    """
    path = _branches_path(part, results)
    if not path.is_file():
        return None
    with _damage_told(path):
        packed = _read(path)
        rows, told = packed["rows"], json.loads(packed["settings"])
        settings = {label: about["overrides"] for label, about in told.items()}
        made = Counter(zip(rows["run"], rows["setting"], strict=True))
    if settings != {label: list(overrides) for label, overrides in named.items()}:
        return None
    points = max(made.values(), default=0)
    wanted = {(run.trial.name, label): points for run in runs for label in named}
    return points if made == wanted else None


def restore_branches(part: str, results: Path, folder: Path) -> Path:
    """Make the folder of a part's pooled branches from its file; return it.

    Raises:
        ValueError: the file is damaged.
    """
    path = _branches_path(part, results)
    with _damage_told(path):
        packed = _read(path)
        files = {SETTINGS: packed["settings"], BRANCHES: _lines(packed["rows"])}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_text_durably(folder / name, text)
    return folder


def _branches_path(part: str, results: Path) -> Path:
    return results / FOLDER / part / "branches.json.xz"


def _write(path: Path, packed: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_durably(path) as temporary:
        temporary.write_bytes(lzma.compress(json.dumps(packed).encode(), preset=9))


def _read(path: Path) -> dict[str, Any]:
    return json.loads(lzma.decompress(path.read_bytes()))


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    """Say of a file that it is damaged: cut, no JSON, or JSON of something else."""
    try:
        yield
    except (
        OSError,
        EOFError,
        lzma.LZMAError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}: {error}). Restore it, or remove it to "
            "have made again what it is of."
        ) from error


def _path(part: str, run: Planned, results: Path) -> Path:
    return results / FOLDER / part / f"{run.trial.name}.json.xz"


def _packed(run: Planned, row: Mapping[str, Any]) -> dict[str, Any]:
    data = read_run(run.folder, ended=True)
    updates = read_lines(run.folder / "updates.jsonl")[0]
    return {
        "run": run.trial.name,
        "row": row,
        "config": (run.folder / "config.yaml").read_text(encoding="utf-8"),
        "environment": data.environment,
        "alarms": data.alarms,
        "held_out_prompts": data.held_out_prompts,
        "tokens": tokens_by_step(data),
        "steps": _columns(data.lines, _names(data)),
        "updates": _columns(updates, (*PLACE, *OF_UPDATES)),
    }


def _names(data: RunData) -> list[str]:
    names = dict.fromkeys(name for line in data.lines for name in line)
    return [name for name in names if name == SECONDS or not name.startswith(OF_THE_MACHINE)]


def _columns(lines: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    return {name: [_short(line.get(name)) for line in lines] for name in names}


def _short(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _lines(columns: Mapping[str, Sequence[Any]]) -> str:
    """Return the JSON lines of columns; a value that a line did not have is left out."""
    rows = zip(*columns.values(), strict=True)
    return "".join(
        json.dumps(
            {name: value for name, value in zip(columns, row, strict=True) if value is not None}
        )
        + "\n"
        for row in rows
    )


def _files(packed: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of a run folder's files, by their names."""
    return {
        "config.yaml": packed["config"],
        "environment.json": json.dumps(packed["environment"], indent=1),
        "alarms.jsonl": "".join(json.dumps(alarm) + "\n" for alarm in packed["alarms"]),
        "data.json": json.dumps({"eval": {"prompts": packed["held_out_prompts"]}}),
        TOKENS: json.dumps(packed["tokens"]),
        "metrics.jsonl": _lines(packed["steps"]),
        "updates.jsonl": _lines(packed["updates"]),
    }
