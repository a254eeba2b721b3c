"""One HTML file with everything in it: style, charts, plotly.js. Opening it makes no request."""

import base64
import gzip
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from isentropic.metrics.report.blocks import Block, Charts
from isentropic.metrics.report.charts.figures import Figure

PACKAGE = "isentropic.metrics.report"
NO_CHARACTER = re.compile("[\0\ud800-\udfff]")  # NUL and halves of pairs: no HTML file holds them


@dataclass(frozen=True, kw_only=True)
class Section:
    title: str
    blocks: Sequence[Block]


@dataclass(kw_only=True)
class Page:
    """Collects what the page shows, as data, and renders it. Everything given is plain text."""

    title: str
    facts: str
    state: str = ""
    head: list[Block] = field(default_factory=list)  # between the facts and the sections
    sections: list[Section] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    @property
    def state_kind(self) -> str:
        """Returns the first word of the state, by which the style colours it."""
        return self.state.split()[0].rstrip(":")

    def section(self, title: str, *blocks: Block | None) -> None:
        """Adds a section; one without blocks is left out."""
        if present := [block for block in blocks if block is not None]:
            self.sections.append(Section(title=title, blocks=present))

    def charts(self, figures: Iterable[Figure]) -> Charts | None:
        """Makes places for charts; what they show is kept for the end of the page."""
        cards = list(enumerate(figures, start=len(self.figures)))
        self.figures += [figure for _, figure in cards]
        return Charts(cards=cards) if cards else None

    def render(self) -> str:
        html = environment().get_template("page.html")
        text = html.render(
            page=self,
            style=_asset("report.css"),
            figures=_inert([figure.payload() for figure in self.figures]),
            plotly=_plotly(),
            script=_asset("report.js"),
        )
        return NO_CHARACTER.sub("\ufffd", text)


@cache
def environment() -> Environment:
    """Returns the templates; they escape every value but the page's own assets (`Markup`)."""
    return Environment(
        loader=PackageLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _inert(value: object) -> Markup:
    """Returns JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def _asset(name: str) -> Markup:
    return Markup((files(PACKAGE) / "assets" / name).read_text(encoding="utf-8"))


@cache
def _plotly() -> Markup:
    """Returns plotly.js as gzip in base64: 2 MB instead of 4.8."""
    from plotly.offline import get_plotlyjs

    packed = gzip.compress(get_plotlyjs().encode(), compresslevel=6, mtime=0)
    return Markup(base64.b64encode(packed).decode())
