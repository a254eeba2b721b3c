"""A model that cannot be used is refused before anything starts, with its path and what to do."""

import shutil
from pathlib import Path

import pytest

from isentropic.config import ModelConfig
from isentropic.folders import CACHE
from isentropic.models import source, warm_start
from isentropic.models.source import EMBEDDED, cache_folder, check_model, model_folder
from isentropic.tasks.arithmetic import ArithmeticConfig

TASK = ArithmeticConfig(name="arithmetic", levels=("2x1",), train_size=10, eval_size=10, seed=0)
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_layers": 1,
    "num_heads": 2,
    "num_kv_heads": 1,
    "head_dim": 16,
    "window": 64,
}
WARM_START = {
    "seed": 0,
    "sizes": SIZES,
    "style_weights": [1.0, 0.0, 1.0],
    "batch_size": 8,
    "lr": 0.005,
    "matrix_lr": 0.03,
    "warmup_steps": 5,
    "max_steps": 20,
    "check_every": 5,
    "check_prompts": 20,
    "target_accuracy": 0.3,
    "max_response_tokens": 8,
    "num_threads": 1,
}


def model(path, **changes):
    values = {
        "revision": None,
        "max_length": 64,
        "trust_remote_code": False,
        "warm_start": None,
        "image_pixels": None,
    }
    return ModelConfig(name="x", path=str(path), **{**values, **changes})


@pytest.fixture
def folder(tiny_model_path, tmp_path):
    return shutil.copytree(tiny_model_path, tmp_path / "my-model")


def test_a_whole_folder_passes_by_any_spelling(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    for path in (folder, "./my-model", "my-model"):
        assert model_folder(model(path), TASK) == str(folder)


def test_the_embedded_model_is_made_in_another_process(tmp_path, monkeypatch):
    """Here nothing is trained, and the folder is there all the same; the second time it is found."""
    monkeypatch.setenv("ISENTROPIC_CACHE", str(tmp_path))
    monkeypatch.setattr(warm_start, "train", None)
    monkeypatch.setattr("builtins.print", lambda *texts, **options: None)  # as Ray does
    wanted = model(
        EMBEDDED, warm_start=WARM_START | {"target_accuracy": 0.001, "max_steps": 200, "lr": 0.01}
    )
    found = model_folder(wanted, TASK)
    assert Path(found).parent == tmp_path and (Path(found) / warm_start.CARD).is_file()
    assert model_folder(wanted, TASK) == found


def test_a_model_of_the_cache_is_found_from_everywhere(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("ISENTROPIC_CACHE", str(folder.parent))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert model_folder(model("cache:my-model"), TASK) == str(folder)
    with pytest.raises(ValueError, match=rf"no folder {folder.parent}/my-modle\. Did you mean"):
        check_model(model("cache:my-modle"), TASK)


def test_the_cache_is_the_project_s_unless_it_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for unset in (
        lambda: monkeypatch.delenv(CACHE, raising=False),
        lambda: monkeypatch.setenv(CACHE, ""),
    ):
        unset()
        assert cache_folder() == Path(source.__file__).parents[3] / ".cache" / "models"


def test_missing_folder_names_its_neighbour(folder):
    with pytest.raises(ValueError, match=r"no folder .*my-modle\. Did you mean 'my-model'"):
        check_model(model(folder.with_name("my-modle")), TASK)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "has no config.json"),
        ("tokenizer*.json", None, "has no tokenizer"),
        ("model.safetensors", None, r"has no \*.safetensors"),
        ("config.json", "{", "is not JSON that can be read"),
        ("config.json", "[]", "holds list, not an object"),
        (
            "config.json",
            '{"model_type": "x", "auto_map": {"AutoModel": "evil.py"}}',
            "own Python code",
        ),
        (
            "config.json",
            '{"model_type": "x", "max_position_embeddings": 32}',
            "max_length=64 is more than the window",
        ),
    ],
)
def test_folders_that_are_not_models(folder, file, content, message):
    for path in folder.glob(file):
        path.unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        check_model(model(folder), TASK)


def test_all_that_a_folder_lacks_is_said_at_once(folder):
    """A window that is too short too, with settings that go together: 8 + 24 = 32."""
    (folder / "model.safetensors").unlink()
    (folder / "config.json").write_text('{"model_type": "x", "max_position_embeddings": 32}')
    with pytest.raises(ValueError) as refused:
        check_model(model(folder), TASK)
    lacks, found, window = str(refused.value).partition("model.max_length=64")
    assert "has no *.safetensors" in lacks and found
    assert (
        "Set model.max_length=32 rollout.max_prompt_tokens=8 rollout.max_response_tokens=24,"
        in window
    )


def test_a_file_is_not_a_model(folder):
    with pytest.raises(ValueError, match=r"config\.json is a file"):
        check_model(model(folder / "config.json"), TASK)


def test_a_name_that_the_hub_does_not_know(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    with pytest.raises(
        ValueError,
        match=r"model\.path=my modle is neither a folder here nor.*Did you mean 'my-model'",
    ):
        check_model(
            model("my modle"), TASK
        )  # a blank is in no name of the Hub, so nothing is asked of it


def test_trusted_code_of_the_hub_needs_a_revision():
    with pytest.raises(ValueError, match=r"model\.revision=<commit>"):
        check_model(model("owner/model", trust_remote_code=True), TASK)


@pytest.mark.parametrize(
    ("warm_start", "message"),
    [
        (None, "needs model.warm_start"),
        (WARM_START | {"batch_sizes": 8}, "Did you mean 'batch_size'"),
        (
            WARM_START | {"sizes": SIZES | {"layers": 2}},
            "unknown config key 'model.warm_start.sizes.layers'",
        ),
        (WARM_START | {"sizes": 3}, "section of keys"),
        (WARM_START | {"lr": "fast"}, "lr must be a number, got 'fast'"),
        (WARM_START | {"batch_size": 1.5}, "batch_size must be a whole number"),
        ({key: WARM_START[key] for key in WARM_START if key != "seed"}, "seed has no value"),
    ],
)
def test_warm_start_settings(warm_start, message):
    check_model(model(EMBEDDED, warm_start=WARM_START), TASK)
    with pytest.raises(ValueError, match=message):
        check_model(model(EMBEDDED, warm_start=warm_start), TASK)
    with pytest.raises(ValueError, match="window=64"):
        check_model(model(EMBEDDED, warm_start=WARM_START, max_length=65), TASK)
