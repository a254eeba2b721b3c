"""Checkpoints: one folder per step, either whole or not there.

The controller writes the manifest last, into a temporary folder, and then renames the folder.

checkpoints/step_000020/
  learner/          model, optimizer, scheduler, RNG (torch distributed checkpoint)
  controller.json   state of the loop; its arrays are in controller.npz (no pickle)
  manifest.json     every other file with its size and sha256, and a digest of the manifest itself
"""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isentropic.durable import (
    FileEntry,
    file_entry,
    sync_file,
    sync_folder,
    write_text_durably,
)

MANIFEST = "manifest.json"
NAME = re.compile(r"step_(\d{6,})")

Signature = tuple[tuple[str, int, int], ...]


class CheckpointError(ValueError):
    """A checkpoint that is not whole, or not what its manifest says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a checkpoint says about itself."""

    step: int
    policy_version: int
    next_draw: int
    about: dict[str, Any]  # config hash, versions
    files: dict[str, FileEntry]  # by path


def checkpoint_path(folder: Path, step: int) -> Path:
    """Returns where the checkpoint of a step is, or would be."""
    return folder / f"step_{step:06d}"


def listed(folder: Path) -> dict[int, Path]:
    """Returns step -> checkpoint, whole or not, oldest first.

    Folders with any other name are ignored.
    """
    paths = {name[1]: path for path in folder.glob("step_*") if (name := NAME.fullmatch(path.name))}
    return {int(step): paths[step] for step in sorted(paths, key=int)}


def begin(folder: Path, step: int) -> Path:
    """Makes a fresh temporary folder for the step; removes a torn one left from before."""
    temporary = folder / f".tmp-step_{step:06d}"
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / "learner").mkdir(parents=True)
    return temporary


def discard(folder: Path, step: int) -> None:
    """Removes what is left of a checkpoint that could not be written."""
    shutil.rmtree(folder / f".tmp-step_{step:06d}", ignore_errors=True)


def sizes(folder: Path) -> list[int]:
    """Returns the bytes of each checkpoint, whole or not, oldest first."""
    return [
        sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
        for checkpoint in listed(folder).values()
    ]


def commit(
    folder: Path,
    temporary: Path,
    manifest: Manifest,
    state: dict[str, Any],
    written: Mapping[str, FileEntry] | None = None,
) -> Path:
    """Adds the controller's state and the manifest, syncs all files, then gives the final name.

    Args:
        written: files that are durable already, by path, hashed by who wrote them; they are not
            read again.

    Raises:
        OSError: one of them is not there, or shorter or longer than it was written.
    """
    _write_state(temporary, state)
    files = dict(written or {})
    for name, entry in files.items():
        path = temporary / name
        size = path.stat().st_size if path.is_file() else None
        if size != entry["bytes"]:
            raise OSError(
                f"a learner rank wrote {entry['bytes']} bytes to {path}, here are "
                f"{'none' if size is None else size}. Do all nodes share run.dir?"
            )
    for path in sorted(path for path in temporary.rglob("*") if path.is_file()):
        name = str(path.relative_to(temporary))
        if name not in files:
            sync_file(path)
            files[name] = file_entry(path)
    write_manifest(temporary, asdict(manifest) | {"files": files})
    for path in (temporary, *(path for path in temporary.rglob("*") if path.is_dir())):
        sync_folder(path)
    final = checkpoint_path(folder, manifest.step)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    sync_folder(folder)
    return final


def write_manifest(checkpoint: Path, values: dict[str, Any]) -> None:
    """Writes the manifest with a digest of its own values."""
    # Without the digest, a flipped bit in the step number would go unnoticed.
    values = {**values, "digest": _digest(values)}
    write_text_durably(checkpoint / MANIFEST, json.dumps(values, indent=1, sort_keys=True))


def verify(checkpoint: Path) -> Manifest:
    """Returns the manifest of a whole checkpoint.

    Raises:
        CheckpointError: the manifest or a file that it names is missing, cut short or changed, or
            the manifest belongs to another step.
    """
    try:
        manifest = _manifest(json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{checkpoint} has no readable manifest ({error}): it was torn while written, or "
            "changed."
        ) from error
    name = NAME.fullmatch(checkpoint.name)
    if name and int(name[1]) != manifest.step:
        raise CheckpointError(
            f"{checkpoint} holds the state after step {manifest.step}: it was renamed or copied."
        )
    for name, expected in manifest.files.items():
        path = checkpoint / name
        if not path.resolve().is_relative_to(checkpoint.resolve()):
            raise CheckpointError(
                f"{checkpoint}: the manifest names {name!r}, outside the checkpoint."
            )
        if (
            not path.is_file()
            or path.stat().st_size != expected["bytes"]
            or file_entry(path)["sha256"] != expected["sha256"]
        ):
            raise CheckpointError(
                f"{path} is missing, cut short or changed: the checkpoint is not whole."
            )
    return manifest


def _digest(values: dict[str, Any]) -> str:
    """Returns the sha256 of the values as JSON, independent of the order of the keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _manifest(values: Any) -> Manifest:
    """Returns the values as a manifest.

    Raises:
        ValueError, TypeError, AttributeError: a value is missing, unknown or of the wrong type.
    """
    # Checkpoints made before 0.2 have no digest; the checksums of their files are still checked.
    if values.pop("digest", None) not in (None, _digest(values)):
        raise ValueError("its values are not those of its digest")
    manifest = Manifest(**values)
    for name in ("step", "policy_version", "next_draw"):
        if type(getattr(manifest, name)) is not int:
            raise ValueError(f"its {name} is no whole number")
    if not isinstance(manifest.about, dict) or not isinstance(manifest.files, dict):
        raise ValueError("its files or what it says of the run is no table")
    for name, entry in manifest.files.items():
        if "\x00" in name or not isinstance(entry, dict) or not {"bytes", "sha256"} <= entry.keys():
            raise ValueError(f"it does not say what file {name!r} is")
    return manifest


def latest(folder: Path, warn: Callable[[str], None]) -> tuple[Path, Manifest] | None:
    """Returns the newest whole checkpoint; damaged ones are reported through `warn` and skipped."""
    for checkpoint in reversed(listed(folder).values()):
        try:
            return checkpoint, verify(checkpoint)
        except CheckpointError as error:
            warn(f"{error} Going back to the checkpoint before it.")
    return None


def prune(
    folder: Path, keep_last: int, keep: set[int], verified: dict[Path, Signature] | None = None
) -> None:
    """Removes all but the newest `keep_last` whole checkpoints and the steps of `keep`.

    A damaged checkpoint is not counted among the newest, or it would take the place of a whole one.
    It is removed together with the others of its age.

    Args:
        verified: checkpoints that were whole before; one is hashed again only if its files look
            different since then. Those that are whole now are added.
    """
    verified = {} if verified is None else verified
    whole = 0
    for step, checkpoint in reversed(listed(folder).items()):
        if whole >= keep_last:
            if step not in keep:
                shutil.rmtree(checkpoint, ignore_errors=True)
        elif _is_whole(checkpoint, verified):
            whole += 1


def signature(checkpoint: Path) -> Signature:
    """Returns path, bytes and time of the last change of each file, without reading any."""
    stats = ((path, path.stat()) for path in sorted(checkpoint.rglob("*")) if path.is_file())
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats)


def _is_whole(checkpoint: Path, verified: dict[Path, Signature]) -> bool:
    if verified.get(checkpoint) == signature(checkpoint):
        return True
    try:
        verify(checkpoint)
    except CheckpointError:
        return False
    verified[checkpoint] = signature(checkpoint)
    return True


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Returns the controller's state as it was given to `commit`."""
    with np.load(checkpoint / "controller.npz", allow_pickle=False) as arrays:
        loaded = {name: arrays[name] for name in arrays.files}
    return _restore(
        json.loads((checkpoint / "controller.json").read_text(encoding="utf-8")), loaded
    )


def _write_state(folder: Path, state: dict[str, Any]) -> None:
    arrays: dict[str, np.ndarray] = {}
    (folder / "controller.json").write_text(json.dumps(_detach(state, arrays)), encoding="utf-8")
    np.savez(folder / "controller.npz", **arrays)


def _detach(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Returns `value` ready for JSON; moves its arrays into `arrays` under numbered names."""
    if isinstance(value, np.ndarray):
        name = f"a{len(arrays)}"
        arrays[name] = value
        return {"__array__": name}
    if isinstance(value, dict):
        return {str(key): _detach(entry, arrays) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_detach(entry, arrays) for entry in value]
    return value


def _restore(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"__array__"}:
            return arrays[value["__array__"]]
        return {key: _restore(entry, arrays) for key, entry in value.items()}
    if isinstance(value, list):
        return [_restore(entry, arrays) for entry in value]
    return value
