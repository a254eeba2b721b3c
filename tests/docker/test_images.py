"""No container engine runs where this is tested: what can be known of the images by reading them."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
IMAGES = ("Dockerfile", "Dockerfile.cpu")
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())


def instructions(name):
    """(instruction, arguments) in order, comments gone and continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / name).read_text(), flags=re.MULTILINE).replace(
        "\\\n", " "
    )
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def where(name, instruction, containing):
    return next(
        i
        for i, (word, rest) in enumerate(instructions(name))
        if word == instruction and re.search(containing, rest)
    )


@pytest.mark.parametrize("name", IMAGES)
def test_known_instructions_and_a_pinned_base(name):
    found = instructions(name)

    assert {word for word, _ in found} <= {
        "ARG",
        "FROM",
        "RUN",
        "USER",
        "WORKDIR",
        "COPY",
        "ENV",
        "VOLUME",
        "CMD",
    }
    assert [rest for word, rest in found if word == "FROM"] == ["${BASE}"]
    base = next(rest for word, rest in found if rest.startswith("BASE="))
    assert re.fullmatch(r"BASE=[a-z/]+:\d+\.\d+\.\d+-[a-z0-9.-]+", base)


@pytest.mark.parametrize("name", IMAGES)
def test_downloads_come_before_the_code_and_after_the_user(name):
    install = where(name, "RUN", r"docker/install\.sh (cpu|cuda)")

    assert where(name, "USER", "^isentropic$") < where(name, "COPY", r"pyproject\.toml") < install
    assert all(
        install < where(name, "COPY", rf" {folder} {folder}$")
        for folder in ("platform", "conf", "jobs")
    )
    assert "useradd --uid 1000" in instructions(name)[where(name, "RUN", "useradd")][1]
    assert [rest for word, rest in instructions(name) if word == "USER"][-1] == "isentropic"


@pytest.mark.parametrize("name", IMAGES)
def test_what_is_copied_exists_and_is_let_through(name):
    lines = (DOCKER / f"{name}.dockerignore").read_text().splitlines()
    allowed = [line[1:] for line in lines if line.startswith("!")]
    copied = [
        part
        for word, rest in instructions(name)
        if word == "COPY"
        for part in shlex.split(rest)[1:-1]
    ]

    assert lines[1] == "*"
    for source in copied:
        assert any(source == each or source.startswith(f"{each}/") for each in allowed), source
        assert (ROOT / source).exists() or source == "README.md", source
    assert {"platform", "conf", "jobs", "pyproject.toml"} <= set(copied)


@pytest.mark.parametrize("name", IMAGES)
def test_a_python_that_the_package_supports(name):
    version = re.search(r"PYTHON=python3\.(\d+)", (DOCKER / name).read_text())
    assert version and int(version[1]) in (11, 12)  # requires-python, and what install.sh looks for


@pytest.mark.parametrize("name", [*IMAGES, "compose.yaml", "README.md"])
def test_no_secret_is_written_down(name):
    text = (DOCKER / name).read_text()

    assert not re.search(
        r"(?i)(api_?key|password|secret|auth_token)\s*[=:]\s*[\"']?[0-9a-z]{8,}", text
    )
    assert "WANDB_API_KEY" not in text


def test_compose_shares_one_image_and_its_token_is_a_file():
    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert set(COMPOSE["services"]) == {"head", "worker", "submit"}
    for service in COMPOSE["services"].values():
        assert service["image"] == f"isentropic:{own}-cpu"
        assert service["secrets"] == ["ray_token"] and service["cap_drop"] == ["ALL"]
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
        assert "RAY_AUTH_TOKEN" not in service["environment"]
    assert COMPOSE["secrets"] == {"ray_token": {"environment": "RAY_AUTH_TOKEN"}}


def test_compose_opens_the_dashboard_to_this_machine_alone():
    ports = {name: service.get("ports", []) for name, service in COMPOSE["services"].items()}
    assert ports == {"head": ["127.0.0.1:8265:8265"], "worker": [], "submit": []}


def test_images_and_manifests_agree():
    for name in ("job.yaml", "cluster.yaml"):
        text = (ROOT / "jobs" / "manifests" / name).read_text()
        assert "registry.example/isentropic:0.1.0-cuda" in text
    for name in IMAGES:
        env = " ".join(rest for word, rest in instructions(name) if word == "ENV")
        assert (
            "ISENTROPIC_RUNS=/runs" in env
            and "WORKDIR /opt/isentropic" in (DOCKER / name).read_text()
        )
