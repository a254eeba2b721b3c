"""A machine of the cluster goes away, with whatever ran there; another one takes its place."""

import pytest
from training_job import assert_same_run

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture
def cluster():
    """A head with two CPUs; the third process of a run needs another node."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
    )
    yield cluster
    cluster.shutdown()


def test_a_node_goes(job, golden, cluster):
    node = cluster.add_node(num_cpus=1)
    run = job(f"cluster.address={cluster.address}", "learner.timeout_s=60")
    run.until(lambda: run.steps() >= 4)
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    assert run.wait() == 0, run.text()[-3000:]
    assert_same_run(run.folder, golden)
