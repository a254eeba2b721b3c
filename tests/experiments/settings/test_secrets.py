"""No secret of the environment reaches a config, a report or a tracker, however it is written."""

import pytest
from omegaconf import OmegaConf

from isentropic.checks import is_secret_name, secret_values
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
