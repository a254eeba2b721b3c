"""Where Ray puts ranks and engines on two nodes of eight GPUs: one cluster, started once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from isentropic.actors.ray_runtime import SOURCE_ROOT

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def placed():
    script = Path(__file__).with_name("two_nodes.py")
    ended = subprocess.run(
        [sys.executable, script],
        env={"PYTHONPATH": SOURCE_ROOT, "PATH": "/usr/bin:/bin", "HOME": str(Path.home())},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", ["apart", "spread", "tensor parallel"])
def test_ranks_have_one_node_and_engines_the_other(placed, case):
    found = placed[case]
    assert [set(found["ranks"].values()), len(found["engines"])] == [{8}, 1]
    assert not found["ranks"].keys() & found["engines"].keys()


@pytest.mark.parametrize(
    ("case", "ranks", "engines"),
    [
        pytest.param("ranks on a", {"a": 8}, {"b": 8}, id="ranks by label"),
        pytest.param("ranks on b", {"b": 8}, {"a": 8}, id="on the other node"),
        pytest.param("engines on a", {"b": 8}, {"a": 8}, id="engines by label: ranks keep off"),
        pytest.param("both labels", {"b": 4}, {"a": 4}, id="both by label"),
        pytest.param("two nodes of ranks", {"a": 6, "b": 6}, {"a": 1, "b": 1}, id="12 ranks"),
    ],
)
def test_which_node(placed, case, ranks, engines):
    assert placed[case] == {"ranks": ranks, "engines": engines}


def test_engines_go_beside_the_ranks_only_if_they_must(placed):
    half, more = placed["half"], placed["engines beside the ranks"]
    assert not half["ranks"].keys() & half["engines"].keys()
    assert list(more["ranks"].values()) == [4] and sorted(more["engines"].values()) == [4, 8]


def test_shared_gpus_are_those_of_one_node(placed):
    assert placed["shared"]["ranks"] == placed["shared"]["engines"]
    assert list(placed["shared"]["ranks"].values()) == [8]


def test_what_cannot_be_placed_is_refused_and_does_not_hang(placed):
    uneven, label, many = (placed[case] for case in ("uneven", "no such label", "too many"))
    assert "ValueError: learner.num_ranks=9: a node holds at most 8 ranks" in uneven["error"]
    assert "cluster.learner_label=role:c; the nodes have role:a, role:b" in label["error"]
    assert "WaitError" in many["error"] and "no room for 9 engines" in many["error"]
    assert "17 are wanted: 1 missing" in many["error"]


def test_a_node_that_does_not_share_the_run_folder_is_named(placed):
    found = placed["folder"]
    assert found["left"] == []
    assert "is not that of " in found["error"] and "ISENTROPIC_RUNS" in found["error"]


def test_all_nodes_are_asked_what_they_have(placed):
    found = placed["survey"]
    assert found["left"] == []
    assert sorted(view["gpus"] for view in found["views"]) == [0, 8, 8]
    assert len({view["name"] for view in found["views"]}) == 3, "of one host, by number"
    assert all(view["answered"] and view["sees_runs"] for view in found["views"])
    assert len({view["code"] for view in found["views"]} - {None}) == 1
