"""What the model card of an export says, and that it names no folder of this machine."""

from dataclasses import replace

import pytest
import yaml

from isentropic.config import LoraConfig
from isentropic.experiments.card import model_card, serve_command
from isentropic.experiments.settings.compose import compose
from isentropic.experiments.settings.load import load, plain_config

LINES = {
    0: {"step": 0, "eval/avg_at_k": 0.342},
    2: {"step": 2, "eval/avg_at_k": 0.5},
    3: {"step": 3},
    4: {"step": 4, "eval/avg_at_k": 0.9},
}


@pytest.fixture(scope="module")
def composed():
    cfg = compose(
        ["experiment=ce_gppo_tiny", "run.name=mine", "seed=7", "run.preset=dapo", "run.steps=9"]
    )
    return load(cfg), plain_config(cfg)


@pytest.fixture
def card(composed):
    config, values = composed

    def write(config=config, lines=LINES, step=2):
        return model_card(config, values, lines, step=step, version=8 * step, dtype="bfloat16")

    return write


def test_what_the_card_says(card):
    text = card()

    for row in (
        "# mine, step 2",
        "| method | dapo |",
        "| task | arithmetic |",
        "| steps | 2 of 9, 16 updates |",
        "| seed | 7 |",
        "| 0.500, temperature 1; 0.342 before training |",
        "| weights | bfloat16, all of them trained |",
        "vllm serve .",
    ):
        assert row in text
    head = yaml.safe_load(text.split("---")[1])
    assert head["library_name"] == "transformers" and "base_model" not in head


def test_a_score_is_that_of_the_checkpoint_or_of_the_last_step_before_it(card):
    assert "| 0.500 after step 2, temperature 1; 0.342 before training |" in card(step=3)
    assert "| 0.342, temperature 1 |" in card(step=0)
    assert "| not measured |" in card(lines={})


def test_a_model_of_the_hub_is_named_and_a_folder_only_by_its_own_name(card, composed, tmp_path):
    def of(path):
        model = replace(composed[0].model, path=path)
        lora = LoraConfig(rank=8, alpha=16, targets=("all",))
        learner = replace(composed[0].learner, lora=lora)
        return card(replace(composed[0], model=model, learner=learner))

    hub, folder = of("some-lab/Small-1.5B"), of(str(tmp_path))
    assert yaml.safe_load(hub.split("---")[1])["base_model"] == "some-lab/Small-1.5B"
    assert "| weights | bfloat16, adapters of rank 8, merged |" in hub
    assert f"| model | {tmp_path.name} |" in folder and str(tmp_path.parent) not in folder


def test_the_command_that_serves_it_can_be_pasted(composed, tmp_path):
    command = serve_command(tmp_path / "a b", composed[0].model)
    assert command == f"vllm serve '{tmp_path}/a b'"
