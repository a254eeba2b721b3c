"""The batch queue in whole units, the replay buffer with what it was filled with, and both on resume."""

import json
from dataclasses import replace

import numpy as np
import pytest

from isentropic.methods.reuse import NoReuse
from isentropic.methods.uec_rl.queue_replay import QueueReplay, QueueReplayConfig


def make(**changes) -> QueueReplay:
    """A unit is 2 prompts of 2 samples."""
    fields = {
        "name": "queue_replay", "unit": (2, 2), "queue": True, "queue_units": 2.0, "replay_every": 5,
        "replay_units": 2.0, "replay_threshold": 1.0, "keep": "positive", "seed": 0,
    }  # fmt: skip
    return QueueReplay(QueueReplayConfig(**(fields | changes)))


@pytest.fixture
def batch(new):
    """`batch(step, count, wave)`: samples whose draw is 100 * step + index."""

    def of(step, count, wave=0, advantage=1.5):
        return [
            new.sample(
                new.rollout(draw=100 * step + i, wave=wave, step=step),
                advantage=advantage,
                ref=-0.75,
            )
            for i in range(count)
        ]

    return of


def draws(samples):
    return [sample.rollout.key.draw for sample in samples]


def test_no_update_below_one_unit_and_whole_units_in_order(batch):
    reuse = make()
    assert reuse.take(1, batch(1, 3)) == []
    second = reuse.take(2, batch(2, 6))
    assert draws(second) == [
        101,
        102,
        200,
        201,
        202,
        203,
        204,
        205,
    ]  # 9 > capacity 8: the oldest is gone
    assert [s.source for s in second] == ["queue"] * 2 + ["new"] * 6
    assert reuse.take(3, batch(3, 5)) and draws(reuse.take(4, batch(4, 3))) == [304, 400, 401, 402]


def test_second_wave_goes_first(batch):
    new = [*batch(1, 2), *batch(2, 2, wave=1)]
    assert draws(make().take(1, new)) == [200, 201, 100, 101]


def test_capacity_evicts_the_oldest(batch):
    reuse = make(queue_units=1.0)
    assert draws(reuse.take(1, batch(1, 7))) == [103, 104, 105, 106]
    assert draws(reuse.overflowed) == [100, 101, 102]
    assert reuse.metrics(1)["uec/queue_dropped"] == 3.0
    for step in range(2, 6):
        reuse.trained(step, batch(step, 3))
    assert draws(reuse.replay(5)) == [301, 302, 400, 401, 402, 500, 501, 502]  # 8 newest of 12


def test_replay_runs_at_multiples_of_f(batch):
    reuse = make()
    reuse.trained(1, batch(1, 8))
    assert [len(reuse.replay(step)) for step in range(1, 11)] == [
        0,
        0,
        0,
        0,
        8,
        0,
        0,
        0,
        0,
        8,
    ]  # nothing is removed


def test_replay_below_full_draws_whole_units_without_replacement(batch):
    reuse = make()
    reuse.trained(1, batch(1, 7))
    chosen = draws(reuse.replay(5))
    assert len(chosen) == len(set(chosen)) == 4
    assert chosen == draws(reuse.replay(5))  # seeded by the step
    assert chosen != draws(reuse.replay(10))
    few = make()
    few.trained(1, batch(1, 3))
    assert few.replay(5) == []


def test_replay_keeps_the_stored_scores(batch):
    """Only the ratio sees the new actor: old and reference logprobs and advantages are those of the insert."""
    reuse, stored = make(), batch(1, 8)
    reuse.trained(1, stored)
    for sample, before in zip(reuse.replay(5), stored, strict=True):
        assert sample.source == "replay"
        assert sample.old is before.old
        assert sample.advantage is before.advantage
    reuse.trained(5, reuse.replay(5))
    assert reuse.metrics(5)["uec/buffer_size"] == 8.0  # a replay is not inserted again


@pytest.mark.parametrize(("keep", "wanted"), [("positive", [1.5]), ("released", [1.5, -1.5])])
def test_insert_threshold(keep, wanted, new):
    reuse = make(keep=keep, unit=(1, 1))
    reuse.trained(1, [new.sample(advantage=a) for a in (1.5, 1.0, 0.5, -0.5, -1.5)])
    assert [float(s.advantage[0]) for s in reuse.replay(5)] == wanted


def test_the_threshold_is_on_the_advantage_before_token_weights(new):
    reuse = make(unit=(1, 1))
    (taken,) = reuse.take(1, [new.sample(advantage=1.1)])
    reuse.trained(1, [replace(taken, advantage=taken.advantage * np.float32(0.8))])
    assert float(reuse.replay(5)[0].advantage[0]) == pytest.approx(0.88)


def test_empty_inputs_are_no_ops():
    reuse = make()
    assert reuse.take(1, []) == []
    reuse.trained(1, [])
    assert reuse.replay(5) == []


def test_off_is_the_base_method(batch):
    off, new = make(queue=False, replay_every=None), [*batch(1, 3), *batch(2, 2, wave=1)]
    assert off.take(1, new) == NoReuse(name="none").take(1, new) == new
    off.trained(1, new)
    assert off.replay(5) == []


def scripted(reuse, batch, steps):
    """Takes, trains and replays over uneven batches; returns all that was trained on, and the metrics."""
    log = []
    for step in steps:
        taken = reuse.take(step, batch(step, 1 + step * 5 % 7, wave=step % 2))
        reuse.trained(step, taken)
        log.append((draws(taken), draws(reuse.replay(step)), reuse.metrics(step)))
    return log


def test_resume_reproduces_both_queues(batch):
    expected = scripted(make(replay_every=2), batch, range(1, 13))
    first, second = make(replay_every=2), make(replay_every=2)
    scripted(first, batch, range(1, 7))
    state = first.state_dict()
    json.dumps(
        {name: {k: v for k, v in part.items() if k == "about"} for name, part in state.items()}
    )
    second.load_state_dict(state)
    assert scripted(second, batch, range(7, 13)) == expected[6:]


def test_ages_count_steps(batch):
    reuse = make()
    reuse.take(1, batch(1, 3))
    reuse.trained(2, batch(2, 8))
    reuse.replay(5)
    metrics = reuse.metrics(5)
    assert metrics["uec/queue_age_mean"] == 4.0
    assert metrics["uec/replay_age_max"] == metrics["uec/buffer_age_mean"] == 3.0
    assert metrics["uec/replayed"] == 8.0


@pytest.mark.parametrize(
    ("changes", "count", "source", "updates"),
    [
        pytest.param({}, 4, "queue", 8, id="one unit of 4 samples: 8"),
        pytest.param({}, 8, "new", 16, id="two units: minibatches keep their size"),
        pytest.param({}, 8, "replay", 16, id="a replay of two units"),
        pytest.param(
            {"queue": False}, 3, "new", 8, id="no queue, so no units: the base method's 8"
        ),
        pytest.param({"queue": False}, 4, "replay", 8, id="replay is in units, queue or not"),
    ],
)
def test_updates_in_proportion_to_units(changes, count, source, updates, batch):
    samples = [replace(sample, source=source) for sample in batch(1, count)]
    assert make(**changes).updates(samples, 8) == updates
    assert NoReuse(name="none").updates(samples, 8) == 8
