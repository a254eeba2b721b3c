"""The nodes of a cluster: what a person is told of them, and of each way in which they may differ."""

from dataclasses import astuple, replace
from pathlib import Path

import pytest

from isentropic.actors.nodes.look import look_around
from isentropic.actors.nodes.survey import NodeView
from isentropic.experiments.doctor.cluster import INTERFACES, PACKAGES, compare

RUNS = Path("/shared/runs")
NODE = NodeView(
    name="a",
    gpus=8,
    host_gib=1000.0,
    object_store_gib=300.0,
    answered=True,
    gpu_devices=8,
    gpu_name="NVIDIA H100 80GB HBM3",
    gpu_gib=79.6,
    versions={"python": "3.11.9", "torch": "2.13.0"},
    code="0123456789abcdef",
    sees_runs=True,
    shm_gib=500.0,
    interfaces=("lo", "eth0", "ib0"),
    interface="eth0",
    variables={},
)


def told(*changes, passed_on=None):
    """(state, what, remedy) of the findings on nodes a, b, ... with these changes."""
    views = [
        replace(NODE, **({"name": name} | change))
        for name, change in zip("abcdef", changes, strict=False)
    ]
    return [astuple(finding) for finding in compare(views, RUNS, passed_on or {})]


def test_two_nodes_that_are_alike():
    found = told({}, {})

    assert {state for state, *_ in found} == {"ok"}
    text = "\n".join(what for _, what, _ in found)
    assert "2 nodes, 16 GPUs (a 8, b 8)" in text
    assert "GPUs: NVIDIA H100 80GB HBM3, 80 GiB on a, b" in text
    assert "code, Python and packages are the same on every node" in text
    assert "/shared/runs, the folder of runs, is seen on every node" in text
    assert "500.0 GiB free on a" in text and "300.0 GiB on a" in text
    assert "network to the head: eth0 on a, b" in text


OTHER_TORCH = {"python": "3.11.9", "torch": "2.12.1"}
NO_TORCH = {"python": "3.11.9", "torch": None}
BOND = {"NCCL_SOCKET_IFNAME": "bond0"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gpu_devices": 0}, "b: Ray was told of 8 GPUs, the machine has 0"),
        ({"answered": False}, "no process started on b"),
        ({"versions": OTHER_TORCH}, "torch differs: 2.13.0 on a, c; 2.12.1 on b"),
        ({"versions": NO_TORCH}, "torch differs: 2.13.0 on a, c; none on b"),
        ({"code": None}, "0123456789ab on a, c; no isentropic on b"),
        ({"code": "9" * 64}, "0123456789ab on a, c; 999999999999 on b"),
        ({"sees_runs": False}, "/shared/runs, the folder of runs, is not seen on b"),
        ({"variables": BOND}, "b: NCCL_SOCKET_IFNAME=bond0 is no interface of it; it has lo, eth0"),
    ],
)
def test_a_node_that_cannot_take_part(change, words):
    ((what, remedy),) = [its[1:] for its in told({}, change, {}) if its[0] == "wrong"]
    assert words in what
    assert remedy


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gpus": 4, "gpu_devices": 4}, "nodes with 4 and 8 GPUs"),
        ({"gpu_name": "L4", "gpu_gib": 22.5}, "HBM3, 80 GiB on a, c; L4, 22 GiB on b"),
        ({"shm_gib": 0.06}, "/dev/shm: 0.1 GiB free on b"),
    ],
)
def test_a_node_that_is_worse(change, words):
    found = told({}, change, {})
    ((what, remedy),) = [its[1:] for its in found if its[0] == "warning"]
    assert words in what and remedy
    assert "wrong" not in {state for state, *_ in found}


@pytest.mark.parametrize("value", ["eth0", "eth", "=ib0", "^docker0", "bond0,ib"])
def test_interfaces_that_nccl_would_take(value):
    assert "wrong" not in {state for state, *_ in told({}, passed_on={"NCCL_SOCKET_IFNAME": value})}


@pytest.mark.parametrize("value", ["=eth", "bond0"])
def test_interfaces_that_it_would_not(value):
    assert "wrong" in {state for state, *_ in told({}, passed_on={"GLOO_SOCKET_IFNAME": value})}


def test_what_is_seen_of_this_machine(tmp_path, monkeypatch):
    (tmp_path / "isentropic").mkdir()
    (tmp_path / "isentropic" / "code.py").write_text("pass")
    (tmp_path / "marker").touch()
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    arguments = (str(tmp_path / "marker"), str(tmp_path), "127.0.0.1:6379")
    seen = look_around(*arguments, [*PACKAGES, "no-such"], list(INTERFACES))
    view = NodeView(name="a", gpus=0, host_gib=2.0, object_store_gib=1.0, answered=True, **seen)

    assert view.sees_runs and view.code
    assert view.versions["torch"] and view.versions["no-such"] is None
    assert view.interface in view.interfaces
    assert view.variables["GLOO_SOCKET_IFNAME"] == "lo"
