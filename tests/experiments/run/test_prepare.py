"""What cannot work is refused before anything starts."""

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from isentropic.experiments.run import prepare as prepare_module
from isentropic.experiments.run.prepare import data_key, prepare
from isentropic.experiments.settings.load import load

CONF = Path(__file__).resolve().parents[3] / "conf"


@pytest.fixture
def figures(tmp_path, monkeypatch):
    """The config of a run with images, its model and drawings in a folder of their own; no torchvision anywhere."""
    monkeypatch.setenv("ISENTROPIC_CACHE", str(tmp_path))
    monkeypatch.setenv("ISENTROPIC_TORCHVISION", str(tmp_path))
    monkeypatch.setattr("isentropic.rollout.torchvision_cpu.find_spec", lambda name: None)

    def make(*overrides):
        small = ["task.train_size=3", "task.eval_size=2", "cluster.address=auto"]
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            return load(compose("config", ["experiment=uec_rl_figures_tiny", *small, *overrides]))

    return make


def test_images_on_a_cpu_without_torchvision(figures):
    with pytest.raises(
        ValueError, match=r"tiny_vision reads images.*could not start here.*`make vlm`"
    ):
        prepare(figures())


def test_the_drawings_are_made_and_measured(figures, tmp_path, monkeypatch):
    (tmp_path / "torchvision").mkdir()
    ready = prepare(figures())
    assert ready.dropped == {"train": 0, "eval": 0}
    assert len(list((tmp_path / "figures").rglob("*.png"))) == 5
    # To processes that make branches, and to the workers that grade.
    there = pickle.loads(pickle.dumps(replace(ready, data=None)))
    assert there.task.prompt("eval", 1) == ready.task.prompt("eval", 1)
    assert there.chat.images.num_tokens(there.task.prompt("train", 0).media[0]) == 4
    with pytest.raises(ValueError, match=r"3 of 3 train prompts.*max_prompt_tokens=12"):
        prepare(
            figures("rollout.max_prompt_tokens=12")
        )  # the text alone has about that many; an image adds 4


def test_runs_with_the_same_data_read_it_once_and_are_checked_each(figures, tmp_path, monkeypatch):
    (tmp_path / "torchvision").mkdir()
    first = prepare(figures())
    assert first.attention_share == 0
    monkeypatch.setattr(prepare_module, "fit_prompts", None)  # called, it fails

    by_work = figures("learner.balance=work")
    assert data_key(by_work) == data_key(figures())
    second = prepare(by_work, first)
    assert second.attention_share > 0
    assert second.task is first.task
    assert second.data is first.data
    heads = figures("learner.context_parallel=3", "learner.num_ranks=3")
    with pytest.raises(ValueError, match="context_parallel=3"):
        prepare(heads, first)
    for other in ("rollout.max_prompt_tokens=40", "task.train_size=4"):
        assert data_key(figures(other)) != data_key(figures())


def test_images_for_a_model_of_text_alone(figures, tmp_path):
    from isentropic.models import tiny as tiny_model

    tokenizer = tiny_model.build_tokenizer()
    sizes = tiny_model.TinySizes(
        hidden_size=32,
        intermediate_size=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        window=1024,
    )
    tiny_model.save(tmp_path / "text", tiny_model.build_model(sizes, tokenizer), tokenizer)
    with pytest.raises(ValueError, match=r"carries an image .* the model reads text alone"):
        prepare(figures("model=path", f"model.path={tmp_path}/text"))


def test_an_engine_that_could_not_start_here(figures, monkeypatch):
    monkeypatch.setattr("isentropic.rollout.vllm_packages._version", {}.get)
    with pytest.raises(ValueError, match=r"rollout\.engine=vllm.*vLLM is not installed: make venv"):
        prepare(figures())
    with pytest.raises(
        ValueError, match=r"rollout\.engine must be one of vllm; got 'vlm'\. Did you"
    ):
        figures("rollout.engine=vlm")
