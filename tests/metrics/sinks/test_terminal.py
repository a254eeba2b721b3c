"""What is printed, if stdout is a terminal and if it is not."""

import io

import pytest

from isentropic.metrics.sinks.terminal import Terminal, duration, sparkline, summary_lines


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


def test_a_step_that_trained_nothing_says_so():
    stream = io.StringIO()
    terminal = Terminal(10, stream=stream)
    terminal.log(1, METRICS | {"update/none_in_a_row": 1})
    terminal.log(2, METRICS | {"update/none_in_a_row": 0})
    first, second = stream.getvalue().splitlines()
    assert "  nothing trained  3.2 s" in first and "nothing" not in second


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
    assert all(word in shown for word in ("step 1/10", "0.412", "update", "kl drift: seen"))


def test_summary_tells_before_and_after():
    history = [
        {"eval/avg_at_k": 0.25, "entropy/mean": 1.0},
        {"entropy/mean": 0.5, "reward/mean": 0.2},
        {"eval/avg_at_k": 0.75, "entropy/mean": 0.0, "reward/mean": None},
    ]
    assert summary_lines(history) == [
        "held-out avg@k  0.250 -> 0.750",
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
