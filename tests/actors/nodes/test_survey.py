import subprocess
import sys

from ray import cloudpickle

from isentropic.actors.nodes import look

# As on a node without this project: nothing of it is loaded.
THERE = """
import pickle, sys
look_around = pickle.load(sys.stdin.buffer)
seen = look_around(None, "/nowhere", "127.0.0.1:1", ["no-such"], [])
assert "isentropic" not in sys.modules, sorted(sys.modules)
print(seen["code"], seen["versions"]["no-such"], seen["sees_runs"])
"""


def test_a_node_without_this_project_looks_too(tmp_path):
    cloudpickle.register_pickle_by_value(look)
    try:
        sent = cloudpickle.dumps(look.look_around)
    finally:
        cloudpickle.unregister_pickle_by_value(look)
    said = subprocess.run(
        [sys.executable, "-c", THERE], input=sent, capture_output=True, cwd=tmp_path, env={}
    )
    assert said.stdout.split() == [b"None", b"None", b"False"], said.stderr.decode()
