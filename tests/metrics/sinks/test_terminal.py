"""What is printed, if stdout is a terminal and if it is not."""

import builtins
import io
import re

import pytest
from rich.console import Console

from isentropic.metrics.sinks.terminal import (
    Terminal,
    duration,
    moved_by,
    now,
    sparkline,
    summary_lines,
)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


METRICS = {
    "reward/mean": 0.4123,
    "entropy/mean": 0.7312,
    "clip/low_frac": 0.0031,
    "clip/high_frac": 0.005,
    "throughput/rollout_tok_s": 12345.6,
    "time/step_s": 3.21,
    "grad_norm/mean": None,
    "kl/k3": float("nan"),
}


def test_one_plain_line_per_step_with_the_time_left():
    stream, clock = io.StringIO(), Clock()
    terminal = Terminal(10, stream=stream, clock=clock)
    terminal.banner({"run": "runs/a", "resume with": "python jobs/train.py resume=auto"})
    terminal.log(0, METRICS)
    clock.now = 4.0
    terminal.log(2, METRICS)
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["run          runs/a", "resume with  python jobs/train.py resume=auto"]
    assert lines[2].startswith("step 0/10  reward 0.412")
    assert lines[3] == (
        "step 2/10  reward 0.412  entropy 0.731  clip low 0.31%  high 0.50%  "
        "gen tok/s 12,346  3.2 s  16 s left"
    )
    assert len(lines) == 4


def test_lines_of_a_log_begin_with_the_time_of_day():
    stream = io.StringIO()
    terminal = Terminal(10, stream=stream, stamp=lambda: "11-26 02:31:05")
    terminal.banner({"run": "runs/a"})
    terminal.log(1, METRICS)
    terminal.say("a note")
    first, step, note = stream.getvalue().splitlines()
    assert first == "run  runs/a"
    assert step.startswith("11-26 02:31:05  step 1/10  reward 0.412")
    assert note == "11-26 02:31:05  a note"
    assert re.fullmatch(r"\d\d-\d\d \d\d:\d\d:\d\d", now())


def test_a_step_that_trained_nothing_says_so():
    stream = io.StringIO()
    terminal = Terminal(10, stream=stream)
    terminal.log(1, METRICS | {"update/none_in_a_row": 1})
    terminal.log(2, METRICS | {"update/none_in_a_row": 0})
    first, second = stream.getvalue().splitlines()
    assert "  nothing trained  3.2 s" in first and "nothing" not in second


BOOKS = {
    "ledger/measured": -0.0071,
    "ledger/impulse/pa_hp": -0.018,
    "ledger/impulse/na_lp": -0.0204,
}
BOOKS |= {"ledger/impulse/pa_lp": 0.0151, "ledger/impulse/zero_adv": 0.0}


def test_a_measured_step_says_who_moved_the_entropy():
    stream = io.StringIO()
    terminal = Terminal(10, stream=stream)
    terminal.log(0, {"eval/entropy": 0.4})
    terminal.log(1, {"entropy/mean": 0.277} | BOOKS)
    start, step = stream.getvalue().splitlines()

    assert start == "step 0/10  entropy of held-out prompts 0.400"
    assert step.startswith(
        "step 1/10  entropy 0.277 (-0.007: NA&LP -.020, PA&HP -.018, PA&LP +.015)"
    )
    assert moved_by({"ledger/measured": None}) == moved_by({}) == ""
    assert moved_by({"ledger/measured": 0.0014}) == "(+0.001)"


def test_the_live_display_names_the_phase_and_the_age_of_the_held_out_value():
    console = Console(file=io.StringIO(), width=160)
    clock = Clock()
    terminal = Terminal(10, samples=4, stream=io.StringIO(), clock=clock)
    terminal.log(0, METRICS | {"eval/avg_at_k": 0.25})
    terminal.log(1, METRICS | BOOKS)
    terminal.phase("waited")
    clock.now = 5.0
    console.print(terminal._render())
    shown = console.file.getvalue()

    assert "drawing 5 s" in shown and "0.250 (step 0)" in shown
    assert "entropy in step 1 (-0.007: NA&LP" in shown


def test_alarm_is_a_line_and_model_text_is_no_markup():
    stream = io.StringIO()
    terminal = Terminal(10, stream=stream)
    terminal.log_alarm(
        {"state": "raised", "rule": "kl_drift", "message": "kl drift: [bold]x[/bold]"}
    )
    assert stream.getvalue() == "ALARM kl drift: [bold]x[/bold]\n"


def test_live_display_on_a_terminal(monkeypatch):
    class Tty(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    stream = Tty()
    terminal = Terminal(10, stream=stream)
    terminal.banner({"run": "a"})
    terminal.phase("rollout")
    terminal.log(1, METRICS | {"update/none_in_a_row": 1})
    terminal.log_alarm({"state": "raised", "rule": "kl_drift", "message": "kl drift: seen"})
    terminal.phase("update")
    terminal.close()
    shown = stream.getvalue()
    assert "nothing trained" in shown
    assert all(word in shown for word in ("step 1/10", "0.412", "training", "kl drift: seen"))


def test_summary_tells_before_and_after():
    history = [
        {"step": 0, "eval/avg_at_k": 0.25, "entropy/mean": 3.0},  # of held-out prompts
        {"entropy/mean": 1.0},
        {"entropy/mean": 0.5, "reward/mean": 0.2},
        {"eval/avg_at_k": 0.75, "entropy/mean": 0.0, "reward/mean": None},
    ]
    assert summary_lines(history, k="4") == [
        "held-out avg@4  0.250 -> 0.750",
        "reward   0.200  ▁",  # one value is no change
        "entropy  1.000 -> 0.000  █▅▁",
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 1], "▁█"), ([1, 1], "▁▁"), ([], ""), ([0, float("nan"), 7], "▁█"), (range(80), 40)],
)
def test_sparkline(values, expected):
    drawn = sparkline(list(values))
    assert drawn == expected if isinstance(expected, str) else len(drawn) == expected


def test_a_stream_without_blocks_gets_plain_characters():
    buffer = io.BytesIO()
    terminal = Terminal(1, stream=io.TextIOWrapper(buffer, encoding="ascii", write_through=True))
    terminal.summary([{"entropy/mean": 0.0}, {"entropy/mean": 1.0}], {})
    assert buffer.getvalue().decode("ascii").splitlines() == ["entropy  0.000 -> 1.000  _@"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(42, "42 s"), (190, "3 min 10 s"), (7500, "2 h 05 min")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_lines_go_to_their_stream_in_a_notebook_too(monkeypatch):
    """rich takes a process with this shell for a notebook, and would show the run's log in the cell."""
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(builtins, "get_ipython", lambda: shell, raising=False)
    stream = io.StringIO()
    Terminal(2, stream=stream).log(1, {"reward/mean": 0.5})
    assert stream.getvalue().startswith("step 1/2  reward 0.500")
