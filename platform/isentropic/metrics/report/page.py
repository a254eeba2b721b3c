"""One HTML file with everything in it: style, charts, plotly.js. Opening it makes no request to anyone."""

import base64
import gzip
import html
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from isentropic.metrics.report.charts.figures import Figure

# What the page may load: nothing but itself. A script that slipped out of a sample could not talk to anybody.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
)


@dataclass(kw_only=True)
class Page:
    """Collects sections, then writes them. Bodies are HTML that is escaped already; titles and notes are text."""

    title: str
    head: str
    sections: list[tuple[str, str]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)

    def section(self, title: str, body: str) -> None:
        """Empty bodies make no section."""
        if body:
            self.sections.append((title, body))

    def charts(self, figures: Iterable[Figure]) -> str:
        """Places for charts; what they show is kept for the end of the page."""
        cards = []
        for figure in figures:
            note = f"<p class='note'>{html.escape(figure.note)}</p>" if figure.note else ""
            cards.append(
                f"<div class='chart{' wide' if figure.wide else ''}'><h3>{html.escape(figure.title)}</h3>"
                f"<div class='plot' data-figure='{len(self.figures)}'></div>{note}</div>"
            )
            self.figures.append(figure)
        return f"<div class='charts'>{''.join(cards)}</div>" if cards else ""

    def render(self) -> str:
        links = "".join(
            f"<a href='#s{i}'>{html.escape(title)}</a>"
            for i, (title, _) in enumerate(self.sections)
        )
        body = "".join(
            f"<section><h2 id='s{i}'>{html.escape(title)}</h2>{text}</section>"
            for i, (title, text) in enumerate(self.sections)
        )
        return (
            "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            "<meta name='viewport' content='width=device-width, initial-scale=1'>"
            "<link rel='icon' href='data:,'>"
            f"<title>{html.escape(self.title)}</title><style>{_asset('report.css')}</style></head>"
            f"<body><main>{self.head}<nav>{links}</nav><p class='warn' id='failed'></p>{body}</main>"
            f"<script type='application/json' id='figures'>{_inert([f.payload() for f in self.figures])}</script>"
            f"<script type='text/plain' id='plotly'>{_plotly()}</script>"
            f"<script>{_asset('report.js')}</script></body></html>\n"
        )


def details(summary: str, body: str) -> str:
    return f"<details><summary>{html.escape(summary)}</summary>{body}</details>" if body else ""


def warnings(notes: Sequence[str]) -> str:
    return "".join(f"<p class='warn'>{html.escape(note)}</p>" for note in notes)


def _inert(value: object) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return (files("isentropic.metrics.report") / "assets" / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """plotly.js as gzip in base64: 2 MB instead of 4.8."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(
        gzip.compress(get_plotlyjs().encode(), compresslevel=6, mtime=0)
    ).decode()
