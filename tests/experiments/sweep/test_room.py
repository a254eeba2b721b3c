"""There is room for as many runs as the largest of them leaves, whichever comes first."""

import asyncio
import io

import pytest

from isentropic.experiments.sweep import queue, room
from isentropic.experiments.sweep.ledger import SweepLedger
from isentropic.experiments.sweep.plan import Composer, compose_trials, plan_of
from isentropic.experiments.sweep.queue import Sweep
from isentropic.experiments.sweep.room import room_for
from isentropic.experiments.sweep.search import Search
from isentropic.experiments.sweep.table import SweepTable

# An engine has 2 CPUs, a rank 1.
SIZE = ["cluster.cpus_per_engine=2", "cluster.cpus_per_rank=1", "learner.num_ranks=1"]


class OnlyPlanned(Sweep):
    lanes = 0

    async def go(self, parallel):
        self.lanes = parallel
        return set()


def planned(folder, monkeypatch, trials, search=None, *, parallel, cpus=1):
    """(CPUs of the Ray that is started, runs at once) on a machine with some CPUs."""
    declared = [cpus]

    def start_ray(cluster, *, num_cpus):
        declared.append(max(cpus, num_cpus))
        return True

    monkeypatch.setattr(queue, "start_ray", start_ray)
    monkeypatch.setattr(queue, "stop_ray", lambda: None)
    monkeypatch.setattr(room.ray, "cluster_resources", lambda: {"CPU": declared[-1]})
    under_test = OnlyPlanned(
        folder, trials, SweepLedger(folder), SweepTable("s", [], io.StringIO()), search
    )
    asyncio.run(under_test.run(parallel))
    return declared[-1], under_test.lanes


@pytest.mark.parametrize("actors", ["1,2", "2,1"])
def test_a_ray_of_our_own_holds_the_largest_runs(tmp_path, monkeypatch, actors):
    plan = plan_of({}, ["experiment=ce_gppo_tiny", *SIZE, f"rollout.num_actors={actors}"])
    trials = compose_trials(plan, tmp_path / "s", early_stop=False)
    found = planned(tmp_path / "s", monkeypatch, trials, parallel=2)
    assert found == (2 * (2 * 2 + 1), 2)
    found = planned(tmp_path / "s", monkeypatch, trials, parallel=None, cpus=16)
    assert found == (16, 3)


def test_a_search_has_room_for_the_ends_of_its_space(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    keys = {"rollout.num_actors": {"choice": [1, 3]}, "objective.beta1": [0, 1]}
    asked = {"metric": "reward/mean", "goal": "max", "count": 2, "batch": 1, "keys": keys}
    plan = plan_of({"search": asked}, ["experiment=ce_gppo_tiny", *SIZE])
    search = Search(plan.search, Composer(plan, tmp_path / "s", early_stop=False))
    assert planned(tmp_path / "s", monkeypatch, [], search, parallel=2) == (2 * (3 * 2 + 1), 2)


def test_the_scarcest_resource_counts(monkeypatch):
    monkeypatch.setattr(room.ray, "cluster_resources", lambda: {"CPU": 64.0, "GPU": 7.0})
    assert room_for({"CPU": 4.0, "GPU": 2}) == 3
    assert room_for({"CPU": 4.0}) == 16
    assert room_for({"CPU": 99.0}) == 1
