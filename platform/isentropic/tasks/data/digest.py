"""Whether a task's prompts are still those that a run began with: a digest of each, in order."""

import os
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np

from isentropic.records import Prompt
from isentropic.tasks.data.sameness import plain

TEXT = 8  # bytes kept of the digest of what a prompt asks, whatever its id and answer
SHORT = 4  # bytes kept of each prompt's digest, to find the first one that differs


class Prompts(Protocol):
    """What is needed of a task."""

    def prompt(self, split: str, index: int) -> Prompt: ...


class DataDigest:
    """Digests of a task's prompts, answers and ids, added in the order of their indices.

    Rows that a user's own reward reads count with all their columns.

    Of an image only the name and the size of its file count: the folder may have moved.
    """

    def __init__(self, task: Prompts) -> None:
        self._task = task
        self._whole: dict[str, Any] = {}
        self._rows: dict[str, bytearray] = {}
        self._texts: dict[str, bytearray] = {}

    def add(self, split: str, prompt: Prompt) -> None:
        """Adds the split's next prompt."""
        media = [(os.path.basename(path), _size(path)) for path in prompt.media]
        said = repr((prompt.prompt_id, prompt.messages, prompt.answer, media))
        if getattr(self._task, "place", ""):  # the user's own reward reads the row in it
            said += prompt.metadata
        digest = blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        self._whole.setdefault(split, blake2b(digest_size=16)).update(digest)
        self._rows.setdefault(split, bytearray()).extend(digest[:SHORT])
        # Games tell all players the same at first; what differs is in the metadata.
        hidden = prompt.metadata if getattr(self._task, "max_turns", 1) > 1 else ""
        said = [(message.get("role"), plain(message["content"])) for message in prompt.messages]
        asked = repr((said, prompt.media, hidden))
        text = blake2b(asked.encode("utf-8", "surrogatepass"), digest_size=TEXT).digest()
        self._texts.setdefault(split, bytearray()).extend(text)

    def trained_on(self) -> tuple[int, int]:
        """Returns how many held-out prompts ask what a train prompt asks, and how many there are.

        Texts that differ in blanks, capitals or the form of their characters ask the same.
        """
        train, held_out = (
            np.frombuffer(bytes(self._texts.get(split, b"")), dtype=np.uint64)
            for split in ("train", "eval")
        )
        return int(np.isin(held_out, train).sum()), len(held_out)

    def values(self) -> dict[str, dict[str, Any]]:
        """Returns per split the number of prompts, one digest of all, and four bytes of each."""
        return {
            split: {
                "prompts": len(rows) // SHORT,
                "digest": self._whole[split].hexdigest(),
                "rows": rows.hex(),
            }
            for split, rows in self._rows.items()
        }

    def differences(self, recorded: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Says for each split that differs from what `values` gave earlier, how.

        Raises:
            KeyError, TypeError, ValueError: `recorded` is nothing that `values` gave.
        """
        return [
            self._difference(split, recorded[split], now)
            for split, now in self.values().items()
            if recorded[split]["digest"] != now["digest"]
        ]

    def _difference(self, split: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
        old, new = bytes.fromhex(before["rows"]), bytes(self._rows[split])
        counts = f"{before['prompts']} {split} prompts, now {now['prompts']}"
        shared = min(len(old), len(new)) // SHORT
        places = (slice(i * SHORT, (i + 1) * SHORT) for i in range(shared))
        changed = [i for i, place in enumerate(places) if old[place] != new[place]]
        if not changed:
            return f"{counts}; the first {shared} are the same"
        first = self._task.prompt(split, changed[0]).prompt_id
        return f"{counts}; {len(changed)} of the first {shared} differ, the first is {first}"


def _size(path: str) -> int | None:
    try:
        return os.path.getsize(path)
    except OSError:
        # Who reads the image says what is wrong with it.
        return None
