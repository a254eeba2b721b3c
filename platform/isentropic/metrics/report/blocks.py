"""The parts that a page is made of, as plain data: their HTML is in templates/, which escape it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from isentropic.metrics.report.charts.figures import Figure
from isentropic.metrics.report.reading import words

SHORT = 48  # characters of a cell that is kept on one line


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some content of a page, and the template that turns it into HTML."""

    template: ClassVar[str]


@dataclass(frozen=True, kw_only=True)
class Note(Block):
    template = "note.html"
    text: str


@dataclass(frozen=True, kw_only=True)
class Lead(Block):
    """The page's one sentence, or one per setting, and what its numbers are."""

    template = "lead.html"
    lines: Sequence[str]
    note: str


@dataclass(frozen=True, kw_only=True)
class Warnings(Block):
    template = "warnings.html"
    notes: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Tile:
    label: str
    value: str
    small: str


@dataclass(frozen=True, kw_only=True)
class Tiles(Block):
    """A row of headline numbers."""

    template = "tiles.html"
    tiles: Sequence[Tile]


@dataclass(frozen=True, kw_only=True)
class Cell:
    text: str
    href: str = ""  # from `write.relative_url`: no other link is safe

    @property
    def on_one_line(self) -> bool:
        return len(self.text) <= SHORT


@dataclass(frozen=True, kw_only=True)
class Table(Block):
    template = "table.html"
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True, kw_only=True)
class Charts(Block):
    """Places for charts: the index of a figure among all of the page, and the figure."""

    template = "charts.html"
    cards: Sequence[tuple[int, Figure]]


@dataclass(frozen=True, kw_only=True)
class Preformatted(Block):
    template = "preformatted.html"
    text: str


@dataclass(frozen=True, kw_only=True)
class Details(Block):
    """Blocks that are folded away under a line of text."""

    template = "details.html"
    summary: str
    blocks: Sequence[Block]
    is_open: bool = False


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> Table:
    """Makes a table of any values; a cell that is a `Cell` stays as it is."""
    return Table(
        head=[words(title) for title in head],
        rows=[[_cell(value) for value in row] for row in rows],
    )


def _cell(value: Any) -> Cell:
    if isinstance(value, Cell):
        return value
    if isinstance(value, float):
        return Cell(text=f"{value:.4g}")
    return Cell(text="" if value is None else words(value))
