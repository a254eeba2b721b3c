"""No secret of the environment reaches a config, a report or a tracker, however it is written."""

import pytest
from omegaconf import OmegaConf

from isentropic.checks import is_secret_name, refuse_secrets, secret_values
from isentropic.config import flat
from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.load import load, plain_config


@pytest.mark.parametrize(
    "name",
    [
        *(
            "WANDB_API_KEY",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_ACCESS_KEY_ID",
            "PGPASSWORD",
            "GITHUB_PAT",
        ),
        *("HF_TOKEN", "MYSQL_PASSWD", "APIKEY", "DB_PASS", "SSH_PASSPHRASE", "MY_TOKEN_2"),
        *("GOOGLE_CREDENTIALS", "HTTP_AUTH", "client.secret"),
    ],
)
def test_names_of_secrets(name, monkeypatch):
    assert is_secret_name(name)
    monkeypatch.setenv(name, "canary-canary")
    assert secret_values()[name] == "canary-canary"


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "HOME", "PWD", "OLDPWD", "KEYBOARD", "GIT_AUTHOR_NAME", "TOKENIZERS_PARALLELISM"),
        *("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "SSH_AUTH_SOCK", "rollout.max_response_tokens"),
    ],
)
def test_other_names(name):
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LAB", "ghp_a1B2c3D4e5"),
        ("LAB", "github_pat_11ABCDEFG0abcdef"),
        ("LAB", "glpat-abcdefgh1234"),
        ("LAB", "hf_aBcDeFgHiJ"),
        ("LAB", "sk-abcdef123456"),
        ("LAB", "sk-ant-api03-abc_def-ghi"),
        ("LAB", "AKIA" + "ABCDEFGHIJKLMNOP"),  # in one piece it would stop every upload
        ("LAB", "xoxb-1234-5678-abcd"),
        ("LAB", "npm_abcdefghijkl"),
        ("LAB", "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl"),
        ("LAB", "-----BEGIN RSA PRIVATE KEY-----\nMIIE"),
        ("DATABASE_URL", "postgres://me:pass-word@host/db"),
        ("GIT_COMMIT", "ghp_a1B2c3D4e5"),
        ("LAB", "0123456789" * 4),
        ("LAB", "0123456789abcdef" * 2),
        ("LAB", "q8ZtL2mVx7Rk0Jw4Hs9Bn3Ty"),
        ("LAB", "f3XqZ9-pLw72_KsVt0YbN8dGh"),
    ],
)
def test_values_that_are_secrets_under_any_name(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    assert secret_values()[name] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GIT_COMMIT", "0123456789" * 4),
        ("GITHUB_SHA", "0123456789abcdef" * 4),
        ("INVOCATION_ID", "0123456789abcdef" * 2),
        ("CUDA_VISIBLE_DEVICES", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"),
        ("HOSTNAME", "worker-7f9c6d8b5-x2x9z"),
        ("RUN", "CeGppoTiny20261125Seed7Beta05"),
        ("RUN", "hf_experiment_with_long_name"),
        ("RUN", "sk-learn-baseline-of-2026"),
        ("RUN", "ce_gppo_1p5b_beta1_0p75_beta2_1p25_seed_3"),
        ("DATA", "/mnt/Data1/Group7/aB3dE5fG7hJ9kL1mN3pQ"),
        ("MIRROR", "https://example.org:8443/a/b"),
        ("LAB", "ghp_short"),
        ("TERM", "xterm-256color"),
    ],
)
def test_values_that_are_none(name, value, monkeypatch):
    """Else an ordinary name that is taken from the environment would be refused."""
    monkeypatch.setenv(name, value)
    assert name not in secret_values()


def test_a_value_is_refused_by_its_variables_name(monkeypatch):
    monkeypatch.setenv("LAB", "ghp_a1B2c3D4e5")
    cfg = compose()
    cfg.tracking.tags = ["a", "ghp_a1B2c3D4e5"]
    with pytest.raises(ValueError, match=r"tracking\.tags holds the value .* LAB") as refused:
        load(cfg)
    assert "ghp_" not in str(refused.value)


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("hydra.job.name=ghp_a1B2c3D4e5", "hydra.job.name"),
        ("+ghp_a1B2c3D4e5=1", "argument 2"),
        ("ghp_a1B2c3D4e5", "argument 2"),
    ],
)
def test_no_argument_holds_one(argument, shown, monkeypatch):
    """Hydra's own keys are in no config, but the command line is kept with the run."""
    monkeypatch.setenv("LAB", "ghp_a1B2c3D4e5")
    refuse_secrets(["run.name=a"])
    with pytest.raises(ValueError, match=f"^{shown} holds the value .* LAB") as refused:
        refuse_secrets(["run.name=a", argument])
    assert "ghp_" not in str(refused.value)


def test_no_key_of_the_config_looks_like_a_secret():
    """submit refuses such keys among its arguments."""
    keys = flat(OmegaConf.to_container(compose(), resolve=True))
    assert [key for key in keys if is_secret_name(key.rpartition(".")[2])] == []


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:WANDB_API_KEY}",
        '${oc.env:"WANDB_API_KEY"}',
        "${oc.env:'WANDB_API_KEY',x}",
        "${oc.env:${run.label}}",
        "x-${oc.env: WANDB_API_KEY }-y",
        "${oc.decode:${oc.env:WANDB_API_KEY}}",
        "canary-4711",
        "[a, 'x-canary-4711-y']",
    ],
)
def test_a_secret_in_a_value_is_refused_and_not_repeated(value, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "canary-4711")
    cfg = compose()
    cfg.run.label = "WANDB_API_KEY"
    cfg.tracking.project = OmegaConf.create(value) if value.startswith("[") else value
    with pytest.raises(ValueError, match="WANDB_API_KEY") as refused:
        load(cfg)
    assert "canary" not in str(refused.value)


def test_a_variable_that_is_set_but_empty_is_unset(monkeypatch):
    for name in ("ISENTROPIC_RUNS", "ISENTROPIC_CACHE"):
        monkeypatch.setenv(name, "")
    values = plain_config(compose(["experiment=smollm2_chain_sum"]))
    assert values["run"]["dir"] == "runs/smollm2_chain_sum"
    assert not values["model"]["path"].startswith("/smollm2")
    monkeypatch.setenv("ISENTROPIC_RUNS", "/shared")
    assert plain_config(compose())["run"]["dir"] == "/shared/train"
