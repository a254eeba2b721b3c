"""Uploading to the Hub: refused before anything is exported, and never at the cost of the export."""

import pytest

from isentropic.experiments.commands import export


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
