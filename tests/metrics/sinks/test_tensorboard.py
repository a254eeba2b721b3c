"""TensorBoard's own reader reads what the sink wrote; a failure is reported once and never raised."""

from importlib.util import find_spec

import pytest

from isentropic import checks
from isentropic.metrics.sinks.tensorboard import TensorboardSink, check_tensorboard

INSTALLED = find_spec("tensorboard") is not None


@pytest.mark.skipif(not INSTALLED, reason="the package tensorboard is not installed")
def test_its_reader_reads_across_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = TensorboardSink(tmp_path, print)
    first.log(0, {"eval/entropy": 9.0})
    for step in range(1, 4):
        first.log(step, {"entropy/mean": float(step), "entropy/histogram": [1], "kl/k1": None})
    first.close()
    again = TensorboardSink(tmp_path, print)
    again.log(3, {"entropy/mean": 30.0})
    again.close()

    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    points = [(event.step, event.value) for event in read.Scalars("entropy/mean")]
    assert points == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert [event.step for event in read.Scalars("eval/entropy")] == [0]


@pytest.mark.skipif(not INSTALLED, reason="the package tensorboard is not installed")
def test_steps_that_are_trained_again_in_one_process_stand_once(tmp_path):
    """After a learner that was lost, the run goes back to a checkpoint; its sinks stay."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorboardSink(tmp_path, print)
    for step, value in ((1, 1.0), (2, 2.0), (3, 3.0), (2, 20.0), (3, 30.0)):
        sink.log(step, {"loss": value})
    sink.close()
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    points = [(event.step, event.value) for event in read.Scalars("loss")]
    assert points == [(1, 1.0), (2, 20.0), (3, 30.0)]


def test_a_missing_package_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="is not installed"):
        check_tensorboard()


def test_a_failure_is_reported_once(tmp_path):
    (tmp_path / "tensorboard").touch()  # where the folder should be
    warnings = []
    sink = TensorboardSink(tmp_path, warnings.append)
    for step in range(3):
        sink.log(step, {"loss": 1.0})
    sink.close()

    assert len(warnings) == 1 and "TensorBoard failed" in warnings[0]
