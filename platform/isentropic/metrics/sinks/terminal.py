"""What a run shows: a banner, a live display, a summary.

If stdout is no terminal, one plain line per step takes the place of the display.
"""

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from isentropic.metrics.classes import LABELS
from isentropic.metrics.entropy import START_ENTROPY

# Words for the phases of a step, by the names of its stopwatch.
PHASES = {
    "waited": "drawing",
    "old_logprob": "scoring",
    "update": "training",
    "recheck": "measuring",
    "publish": "sending weights",
}
BARS, PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
KEPT_POINTS = 4000  # of a curve on the screen; older ones are dropped
# The columns of a step, in this order: label, metric, format.
COLUMNS = (
    ("reward", "reward/mean", "{:.3f}"),
    ("entropy of held-out prompts", START_ENTROPY, "{:.3f}"),
    ("entropy", "entropy/mean", "{:.3f}"),
    ("clip low", "clip/low_frac", "{:.2%}"),
    ("high", "clip/high_frac", "{:.2%}"),
    ("kl", "kl/k3", "{:.1e}"),
    ("grad", "grad_norm/mean", "{:.2g}"),
    ("gen tok/s", "throughput/rollout_tok_s", "{:,.0f}"),
    ("train tok/s", "throughput/learner_tok_s", "{:,.0f}"),
    ("held-out", "eval/avg_at_k", "{:.3f}"),
)


class Terminal:
    """Shows one run on one stream: live on a terminal, else as plain lines."""

    def __init__(
        self,
        total_steps: int,
        *,
        samples: int | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        stamp: Callable[[], str] = lambda: "",
    ) -> None:
        """
        Args:
            samples: the k of avg@k and pass@k.
            stamp: what a plain line of a step, an alarm or a note begins with, such as `now`.
        """
        self._stamp = stamp
        self._k = "k" if samples is None else str(samples)
        self._stream = stream or sys.stdout
        # In a notebook rich would show every line in the cell, whatever the stream.
        self._console = Console(
            file=self._stream, highlight=False, soft_wrap=True, force_jupyter=False
        )
        self._live: Live | None = None
        self._total = total_steps
        self._clock = clock
        # The step before the first one seen, and when that was.
        self._started: tuple[int, float] | None = None
        self._phase = ("", 0.0)  # and since when
        self._evaluated = 0  # the step of the held-out value on the screen
        self._moved = ""  # by whom the entropy was moved in the last measured step
        self._last: dict[str, Any] = {"step": 0}
        # The latest number of each metric: some come only every few steps.
        self._seen: dict[str, Any] = {}
        self._curves: dict[str, list[float]] = {"reward/mean": [], "entropy/mean": []}
        self._alarms: dict[str, str] = {}

    def banner(self, facts: Mapping[str, Any]) -> None:
        """Prints what runs, where, and how to resume, as `label  value`; starts the display."""
        width = max(map(len, facts), default=0)
        for label, value in facts.items():
            self._say(f"{label:<{width}}  {value}")
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, refresh_per_second=4, get_renderable=self._render
            )
            self._live.start()

    def phase(self, name: str) -> None:
        """Sets the part of the run that goes on now; only the live display shows it."""
        self._phase = (PHASES.get(name, name), self._clock())

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Shows a finished step; 0 is the evaluation before the first."""
        self._last = {"step": step, **metrics}
        self._seen |= {name: value for name, value in metrics.items() if _is_number(value)}
        if _is_number(metrics.get("eval/avg_at_k")):
            self._evaluated = step
        if phrase := moved_by(metrics):
            self._moved = f"entropy in step {step} {phrase}"
        for name, curve in self._curves.items():
            if _is_number(metrics.get(name)):
                curve.append(float(metrics[name]))
                del curve[:-KEPT_POINTS]
        if self._started is None or step == 0:
            self._started = (step, self._clock())
        if self._live is None:
            self.say(self._line())

    def log_alarm(self, record: Mapping[str, Any]) -> None:
        """Shows an alarm that is raised until it is cleared."""
        if record["state"] == "raised":
            self._alarms[record["rule"]] = record["message"]
            self.say(f"ALARM {record['message']}")
        else:
            self._alarms.pop(record["rule"], None)
            self.say(record["message"])

    def say(self, text: str) -> None:
        """Prints a line, above the live display."""
        stamp = self._stamp() if self._live is None else ""
        self._say(f"{stamp}  {text}" if stamp else text)

    def summary(self, history: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
        """Ends the display; prints held-out reward and entropy, first -> last, then `facts`."""
        self.close()
        for line in summary_lines(history, bars=self._bars(), k=self._k):
            self._say(line)
        width = max(map(len, facts), default=0)
        for label, value in facts.items():
            self._say(f"{label:<{width}}  {value}")

    def close(self) -> None:
        """Ends the live display; the screen keeps its last state."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _say(self, text: str) -> None:
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._console.print(text.encode(encoding, "replace").decode(encoding), markup=False)

    def _line(self) -> str:
        parts = [f"step {self._last['step']}/{self._total}"]
        for label, name, template in COLUMNS:
            if _is_number(self._last.get(name)):
                phrase = moved_by(self._last) if name == "entropy/mean" else ""
                parts.append(" ".join([label, template.format(self._last[name]), phrase]).strip())
        if self._trained_nothing():
            parts.append("nothing trained")
        if _is_number(self._last.get("time/step_s")):
            parts.append(f"{self._last['time/step_s']:.1f} s")
        return "  ".join([*parts, *self._time_left()])

    def _trained_nothing(self) -> bool:
        return bool(self._last.get("update/none_in_a_row"))

    def _time_left(self) -> list[str]:
        done = int(self._last["step"])
        if self._started is None or done <= self._started[0] or done >= self._total:
            return []
        first, since = self._started
        return [f"{duration((self._clock() - since) / (done - first) * (self._total - done))} left"]

    def _bars(self) -> str:
        try:
            BARS.encode(getattr(self._stream, "encoding", None) or "utf-8")
        except UnicodeEncodeError:
            return PLAIN_BARS
        return BARS

    def _render(self) -> Group:
        head = Table.grid(padding=(0, 2))
        left = " ".join(self._time_left())
        head.add_row(
            f"step {self._last['step']}/{self._total}",
            ProgressBar(total=max(self._total, 1), completed=int(self._last["step"]), width=30),
            self._phase_line(),
            left,
        )
        gap = 2 if self._console.width >= 90 else 1
        values = Table(box=None, padding=(0, gap, 0, 0), header_style="dim")
        # The start's entropy makes room for that of the steps.
        hidden = START_ENTROPY if "entropy/mean" in self._seen else None
        shown = [column for column in COLUMNS if column[1] in self._seen and column[1] != hidden]
        for label, _, _ in shown:
            values.add_column(label, justify="right", no_wrap=True)
        values.add_row(*(self._value(name, template) for _, name, template in shown))
        curves = Table.grid(padding=(0, 2))
        for name, curve in self._curves.items():
            if curve:
                curves.add_row(
                    Text(name.split("/")[0], style="dim"), sparkline(curve, bars=self._bars())
                )
        # The table keeps the gradient of an earlier step.
        notes = [Text("nothing trained", style="yellow")] if self._trained_nothing() else []
        notes += [Text(self._moved)] if self._moved else []
        alarms = [Text(message, style="bold red") for message in self._alarms.values()]
        return Group(head, values, curves, *notes, *alarms)

    def _phase_line(self) -> str:
        name, since = self._phase
        seconds = self._clock() - since
        # A phase of a small step ends before its time could be read.
        return f"{name} {duration(seconds)}" if name and seconds >= 2 else name

    def _value(self, name: str, template: str) -> str:
        """Formats the latest value of a metric; a held-out one from an earlier step says which."""
        value = template.format(self._seen[name])
        is_old = name == "eval/avg_at_k" and self._evaluated < self._last["step"]
        return f"{value} (step {self._evaluated})" if is_old else value


def now() -> str:
    """Returns the day and the time of day, '11-26 02:31:05': a log that is read later has no other."""
    return time.strftime("%m-%d %H:%M:%S")


def moved_by(metrics: Mapping[str, Any]) -> str:
    """Says who moved the entropy in a measured step; "" if the step has no books.

        (-0.007: NA&LP -.020, PA&HP -.018, PA&LP +.015, NA&HP +.015)

    In nats: what was measured, then each class with its whole effect, momentum included.
    """
    measured = metrics.get("ledger/measured")
    effects = {
        label: value
        for key, label in LABELS.items()
        if _is_number(value := metrics.get(f"ledger/impulse/{key}")) and abs(value) >= 5e-4
    }
    if not _is_number(measured):
        return ""
    ordered = sorted(effects.items(), key=lambda item: (item[1] > 0, -abs(item[1])))
    classes = ", ".join(f"{label} {_short(value)}" for label, value in ordered)
    return f"({measured:+.3f}: {classes})" if classes else f"({measured:+.3f})"


def _short(value: float) -> str:
    """Formats nats without the zero in front of the point: '-.018'."""
    return f"{value:+.3f}".replace("0.", ".", 1) if abs(value) < 0.9995 else f"{value:+.3f}"


def sparkline(values: Sequence[float], width: int = 40, bars: str = BARS) -> str:
    """Draws a curve in one line of at most `width` characters.

    The lowest value gets the lowest bar, the highest the highest.
    If there are more values than characters, a character stands for the mean of a stretch.
    """
    finite = [float(value) for value in values if math.isfinite(value)]
    if not finite:
        return ""
    count = min(width, len(finite))
    cuts = [i * len(finite) // count for i in range(count + 1)]
    means = [math.fsum(finite[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means), max(means)
    scale = (len(bars) - 1) / (high - low) if high > low else 0.0
    return "".join(bars[round((mean - low) * scale)] for mean in means)


def summary_lines(
    history: Sequence[Mapping[str, Any]], bars: str = BARS, k: str = "k"
) -> list[str]:
    """Summarises a run from the lines of its metrics.jsonl."""
    lines = []
    for label, name in (("avg", "eval/avg_at_k"), ("pass", "eval/pass_at_k")):
        values = _curve(history, name)
        if values:
            lines.append(f"held-out {label}@{k}  {_first_and_last(values)}")
    # Line 0 is about held-out prompts: another population than that of every later line.
    history = [row for row in history if row.get("step") != 0]
    for label, name in (("reward", "reward/mean"), ("entropy", "entropy/mean")):
        values = _curve(history, name)
        if values:
            lines.append(f"{label:<7}  {_first_and_last(values)}  {sparkline(values, bars=bars)}")
    return lines


def duration(seconds: float) -> str:
    """Formats a time: '42 s', '3 min 10 s', '2 h 05 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _curve(history: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [float(row[name]) for row in history if _is_number(row.get(name))]


def _first_and_last(values: Sequence[float]) -> str:
    return f"{values[0]:.3f} -> {values[-1]:.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
