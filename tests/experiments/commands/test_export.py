"""Uploading to the Hub: refused before anything is exported, and never at the cost of the export."""

import shutil

import pytest
from omegaconf import OmegaConf

from isentropic.experiments.commands import export
from isentropic.experiments.settings.compose import compose
from isentropic.tasks.arithmetic import ArithmeticConfig


class Hub:
    """Stands for `huggingface_hub.HfApi`: keeps what it was asked for."""

    calls: list
    fails: Exception | None = None

    def create_repo(self, name, *, private, exist_ok):
        self.calls.append((name, private, exist_ok))
        return f"https://huggingface.co/{name}"

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        if self.fails:
            raise self.fails
        self.calls.append((repo_id, folder_path.name, commit_message))


@pytest.fixture
def hub(monkeypatch):
    Hub.calls, Hub.fails = [], None
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    return Hub


@pytest.mark.parametrize(
    ("name", "token", "message"),
    [
        ("me/model", None, "push=me/model needs a token of the Hub, and this machine has none"),
        ("a/b/c", "hf", "push=a/b/c is no name of a model of the Hub"),
    ],
)
def test_refused_before_anything_is_exported(tmp_path, monkeypatch, capsys, name, token, message):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    assert export.main([str(tmp_path), f"push={name}"]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_new_model_is_private(tmp_path, hub):
    address = export.push_to_hub(tmp_path / "model_000060", "me/model")
    assert address == "https://huggingface.co/me/model"
    assert hub.calls == [
        ("me/model", True, True),
        ("me/model", "model_000060", "Add model_000060"),
    ]


def test_what_was_not_uploaded_is_there(tmp_path, hub):
    hub.fails = OSError("no route to host")
    with pytest.raises(ConnectionError, match=r"was written and not uploaded \(OSError: no route"):
        export.push_to_hub(tmp_path / "model", "me/model")


def test_an_export_runs_none_of_the_runs_own_code(recorded, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(recorded[0], run)
    trace = tmp_path / "trace"
    values = OmegaConf.load(run / "config.yaml")
    own = {"name": "own", "file": "evil.py", "function_name": "f", "settings": {}}
    values = OmegaConf.to_container(values) | {"objective": own}
    (run / "config.yaml").write_text(OmegaConf.to_yaml(values))
    (run / "code" / "objective").mkdir(parents=True)
    (run / "code" / "objective" / "evil.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    to = export.export(run, to=tmp_path / "model")
    assert (to / "config.json").is_file() and "| task | arithmetic |" in (
        to / "README.md"
    ).read_text()
    assert not trace.exists()


def test_the_embedded_model_needs_a_task_of_ours_and_makes_no_other():
    values = OmegaConf.to_container(compose(["experiment=ce_gppo_tiny"]), resolve=True)
    assert isinstance(export._embedded_task(values["task"]), ArithmeticConfig)
    with pytest.raises(ValueError, match=r"'own' with model.path=embedded.* was changed"):
        export._embedded_task({"name": "own", "file": "evil.py", "class_name": "T"})
