"""The embedded task with images: count the figures of one kind in a drawing.

    prompt    <a drawing> circles?
    response  3                       the first number in it is the answer; -3, 3.5 and 3/4 are others

A drawing is made from its index and written to a file when its prompt is first requested; prompts
carry the file's path.
"""

import os
import random
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isentropic.checks import check_range
from isentropic.folders import CACHED, cache_folder
from isentropic.records import Prompt
from isentropic.seeds import hash_seed
from isentropic.tasks.sizes import check_sizes

KINDS = ("circle", "square", "triangle")
CELLS = 3  # along each side of a drawing; a cell holds one figure or none
COLOURS = ("crimson", "navy", "darkgreen", "black")

# With its sign and all that is joined to it, or a part of 3.5, 3/4 or 3-4 would be paid.
NUMBER = re.compile(r"(?:(?<!\w)[-\u2212])?\.?\d+(?:[.,:^\u2013-]\d+|\s*/\s*\d+)*")


@dataclass(frozen=True, kw_only=True)
class FiguresConfig:
    """Values live in conf/task/figures.yaml."""

    name: str
    folder: str  # where the drawings are written; every machine of a run must see it
    pixels: int  # of a side
    max_count: int  # most figures of the kind in question; there is at least one
    others: int  # most figures of other kinds
    train_size: int
    eval_size: int
    seed: int  # of the drawings, not of the run

    def __post_init__(self) -> None:
        check_range("task.pixels", self.pixels, at_least=8 * CELLS)
        check_range("task.max_count", self.max_count, at_least=1)
        check_sizes(self.train_size, self.eval_size)
        check_range("task.others", self.others, at_least=0)
        if self.max_count + self.others > CELLS**2:
            raise ValueError(
                f"task.max_count + task.others must be at most {CELLS**2}, the cells of a drawing; "
                f"got {self.max_count} + {self.others}. Lower one of them."
            )


class FiguresTask:
    """Drawings, graded by the count. `prompt_id` is 'figures/<split>/<index>'."""

    isolated = False  # a comparison of two strings
    max_turns = 1

    def __init__(self, config: FiguresConfig) -> None:
        self.config = config
        self._folder = (
            cache_folder() / config.folder.removeprefix(CACHED)
            if config.folder.startswith(CACHED)
            else Path(config.folder).expanduser().absolute()
        )

    def size(self, split: str) -> int:
        return self.config.train_size if split == "train" else self.config.eval_size

    def prompt(self, split: str, index: int) -> Prompt:
        rng = random.Random(hash_seed("figures", self.config.seed, split, index))
        kind = rng.choice(KINDS)
        count = rng.randint(1, self.config.max_count)
        return Prompt(
            prompt_id=f"figures/{split}/{index}",
            messages=({"role": "user", "content": f"{kind}s?"},),
            answer=str(count),
            media=(str(self._drawing(f"{split}-{index}", kind, count, rng)),),
        )

    def grade(self, prompt: Prompt, turns: Sequence[str]) -> float:
        """Gives 1 if the first number in the response, as a whole, is the answer, else 0."""
        number = NUMBER.search(turns[-1])
        return float(number is not None and number.group() == prompt.answer)

    def reply(self, prompt: Prompt, turns: Sequence[str]) -> str | None:
        return None

    def _drawing(self, name: str, kind: str, count: int, rng: random.Random) -> Path:
        """Makes the drawing's file, once; the path names all that the drawing depends on."""
        config = self.config
        settings = f"{config.pixels}px-{config.max_count}-{config.others}-seed{config.seed}"
        path = self._folder / settings / f"{name}.png"
        if path.exists():
            return path
        others = [other for other in KINDS if other != kind]
        kinds = [kind] * count + rng.choices(others, k=rng.randint(0, config.others))
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                draw(kinds, config.pixels, rng).save(file, format="PNG")
            # Whole or not there, even if another process makes the same drawing now.
            os.replace(scratch, path)
        except BaseException:
            os.unlink(scratch)
            raise
        return path


def draw(kinds: Sequence[str], pixels: int, rng: random.Random):
    """Draws RGB [pixels x pixels]: each figure in its own cell; size, place, colour are random."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (pixels, pixels), "white")
    pen = ImageDraw.Draw(image)
    cell = pixels / CELLS
    for kind, place in zip(kinds, rng.sample(range(CELLS**2), len(kinds)), strict=True):
        side = rng.uniform(0.5, 0.85) * cell
        left = (place % CELLS) * cell + rng.uniform(0.05, 0.95) * (cell - side)
        top = (place // CELLS) * cell + rng.uniform(0.05, 0.95) * (cell - side)
        box = (left, top, left + side, top + side)
        colour = rng.choice(COLOURS)
        if kind == "circle":
            pen.ellipse(box, fill=colour)
        elif kind == "square":
            pen.rectangle(box, fill=colour)
        else:
            corners = [(left, top + side), (left + side, top + side), (left + side / 2, top)]
            pen.polygon(corners, fill=colour)
    return image
