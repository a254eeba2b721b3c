"""The manifests against our schema of the fields they use, and against the project: versions, names, config."""

import copy
import shlex
import tomllib
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
import yaml
from hydra import compose, initialize_config_dir

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "jobs" / "manifests"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml") if path.name != "schema.yaml")
RAY_FILES = ("cluster.yaml", "job.yaml")
LABEL = {"app.kubernetes.io/part-of": "isentropic"}


def manifest(name):
    return yaml.safe_load((FOLDER / name).read_text())


def cluster_spec(name):
    spec = manifest(name)["spec"]
    return spec.get("rayClusterSpec", spec)


def templates(name):
    spec = cluster_spec(name)
    return [
        spec["headGroupSpec"]["template"],
        *(group["template"] for group in spec["workerGroupSpecs"]),
    ]


@pytest.fixture(scope="module")
def schema():
    schema = manifest("schema.yaml")
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", FILES)
def test_fields_and_types(name, schema):
    assert list(schema.iter_errors(manifest(name))) == []


def change(document, path, value):
    changed = copy.deepcopy(document)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


HEAD = ("spec", "headGroupSpec", "template", "spec")
WORKER = ("spec", "workerGroupSpecs", 0)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param((*WORKER, "maxReplica"), 3, id="misspelled field of KubeRay"),
        pytest.param((*WORKER, "replicas"), "one", id="wrong type"),
        pytest.param((*HEAD, "volume"), [], id="misspelled field of a pod"),
        pytest.param((*HEAD, "securityContext", "runAsNonRoot"), False, id="root"),
        pytest.param((*HEAD, "automountServiceAccountToken"), True, id="account token"),
        pytest.param((*HEAD, "containers", 0, "image"), "isentropic:latest", id="image not pinned"),
        pytest.param(
            (*HEAD, "containers", 0, "env", 0),
            {"name": "WANDB_API_KEY", "value": "k"},
            id="key as variable",
        ),
        pytest.param(("spec", "authOptions", "mode"), "disabled", id="no token"),
        pytest.param(
            ("spec", "headGroupSpec", "serviceType"), "LoadBalancer", id="dashboard open to all"
        ),
    ],
)
def test_the_schema_refuses(path, value, schema):
    assert not schema.is_valid(change(manifest("cluster.yaml"), path, value))


@pytest.mark.parametrize("name", RAY_FILES)
def test_versions_are_those_of_the_project(name):
    images = {
        container["image"] for each in templates(name) for container in each["spec"]["containers"]
    }

    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert cluster_spec(name)["rayVersion"] == version("ray")
    assert images == {f"registry.example/isentropic:{own}-cuda"}


@pytest.mark.parametrize("name", RAY_FILES)
def test_each_group_has_what_a_run_needs(name):
    groups = {group["groupName"]: group for group in cluster_spec(name)["workerGroupSpecs"]}

    assert set(groups) == {"learner", "rollout"}
    assert [groups[name]["labels"] for name in groups] == [{"role": name} for name in groups]
    for each in templates(name):
        [container] = each["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            volume["name"] for volume in each["spec"]["volumes"]
        }
        assert {"/runs", "/dev/shm"} <= {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"name": "ISENTROPIC_RUNS", "value": "/runs"} in container["env"]
        assert each["metadata"]["labels"] == LABEL  # the network policy selects by it
    for group in groups.values():
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert "nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert cluster_spec(name)["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_volumes_and_policy_name_each_other():
    volumes = {volume["name"]: volume for volume in templates("job.yaml")[0]["spec"]["volumes"]}

    assert (
        volumes["runs"]["persistentVolumeClaim"]["claimName"]
        == manifest("storage.yaml")["metadata"]["name"]
    )
    assert (
        f"create secret generic {volumes['wandb']['secret']['secretName']} "
        in (FOLDER / "storage.yaml").read_text()
    )
    assert manifest("network.yaml")["spec"]["podSelector"]["matchLabels"] == LABEL


def test_the_job_waits_for_a_save_and_goes_on_after_a_fault():
    spec = manifest("job.yaml")["spec"]
    wait_s = int(yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"])

    assert all(
        each["spec"]["terminationGracePeriodSeconds"] >= wait_s for each in templates("job.yaml")
    )
    assert spec["backoffLimit"] > 0 and "resume=auto" in spec["entrypoint"]


def test_the_jobs_command_is_one_of_ours(monkeypatch):
    """It composes, fits the GPUs of the groups, and writes to the volume."""
    monkeypatch.setenv("ISENTROPIC_RUNS", "/runs")
    python, script, *overrides = shlex.split(manifest("job.yaml")["spec"]["entrypoint"])
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        config = compose("config", overrides)
    gpus = config.learner.num_ranks * config.cluster.gpus_per_rank
    gpus += (
        config.rollout.num_actors * config.rollout.tensor_parallel * config.cluster.gpus_per_engine
    )
    has = sum(
        group["replicas"]
        * int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        for group in cluster_spec("job.yaml")["workerGroupSpecs"]
    )

    assert python == "python" and (ROOT / Path(script).relative_to("/opt/isentropic")).is_file()
    assert config.run.dir == "/runs/ce-gppo-7b"
    assert gpus <= has
    labels = (config.cluster.learner_label, config.cluster.rollout_label)
    assert labels == ("role:learner", "role:rollout")
