"""The embedded model is made until it is right often enough, once, and is an ordinary model folder."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from isentropic.models.source import cached_warm_start
from isentropic.models.tiny import TinySizes, build_tokenizer
from isentropic.models.warm_start import IGNORED, WarmStartConfig, check_styles, episode
from isentropic.tasks.arithmetic import ArithmeticConfig, ArithmeticTask
from isentropic.tasks.calculator import CalculatorConfig, CalculatorTask
from isentropic.tasks.chat import Chat

SIZES = TinySizes(
    hidden_size=32,
    intermediate_size=64,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    window=64,
)
TASK = ArithmeticConfig(name="arithmetic", levels=("2x1",), train_size=500, eval_size=50, seed=0)
CONFIG = WarmStartConfig(
    seed=0,
    sizes=SIZES,
    style_weights=(0, 0, 1),
    batch_size=32,
    lr=5e-3,
    matrix_lr=0.03,
    warmup_steps=10,
    max_steps=200,
    check_every=10,
    check_prompts=100,
    target_accuracy=0.08,  # guessing '#' and one of 17 sums is right less often
    max_response_tokens=8,
    num_threads=1,
)


def test_stops_on_sampled_accuracy_is_cached_seeded_and_leaves_the_caller_s_torch_alone(tmp_path):
    lines = []
    state = torch.get_rng_state()
    folder = cached_warm_start(CONFIG, TASK, tmp_path, lines.append)
    assert torch.equal(state, torch.get_rng_state())
    card = json.loads((folder / "warm_start.json").read_text())
    assert card["train"]["accuracy"] >= 0.08 and card["steps"] % 10 == 0
    assert (
        0 < card["train"]["entropy"] < 3
    )  # nats; guessing among the 16 characters it needs is 2.8

    count = len(lines)
    assert cached_warm_start(CONFIG, TASK, tmp_path, lines.append) == folder
    assert len(lines) == count + 1  # found, not trained again

    again = cached_warm_start(CONFIG, TASK, tmp_path / "elsewhere", lines.append)
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".tiny-")] == [
        f".{folder.name}.lock"
    ]

    model = AutoModelForCausalLM.from_pretrained(folder)
    chat = Chat(AutoTokenizer.from_pretrained(folder))
    ids = torch.tensor([chat.tokenizer("#7<|end|>")["input_ids"]])
    assert model(input_ids=ids).logits.isfinite().all()
    assert model.generation_config.eos_token_id == chat.eos_token_id


def test_says_what_to_do_when_it_does_not_get_there(tmp_path):
    with pytest.raises(
        RuntimeError, match=r"did not reach sampled accuracy 0\.99 in 10 steps.*max_steps"
    ):
        cached_warm_start(
            replace(CONFIG, target_accuracy=0.99, max_steps=10), TASK, tmp_path, lambda line: None
        )
    assert not list(tmp_path.glob("tiny-*")) and not list(tmp_path.glob(".tiny-*/"))


def test_tokenizer_round_trip_and_template():
    tokenizer = build_tokenizer()
    messages = [{"role": "user", "content": "4+5="}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<|user|>4+5=<|end|><|assistant|>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) == 7
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special_tokens=True) == "4+5="
    printable = "".join(map(chr, range(32, 127))) + "\n"
    assert (
        tokenizer.decode(tokenizer(printable, add_special_tokens=False)["input_ids"]) == printable
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_accuracy": 1.0}, "target_accuracy must be > 0 and < 1, got 1.0"),
        ({"style_weights": (0, 0, 0)}, "one of them above 0"),
        ({"style_weights": (1, -1)}, "must be numbers >= 0"),
        ({"lr": 0.0}, "lr must be > 0"),
    ],
)
def test_refuses(change, message):
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **change)


def test_a_weight_for_each_style_of_the_task():
    check_styles(CONFIG, ArithmeticTask)
    with pytest.raises(ValueError, match=r"must be 2 numbers \(tool, direct\), got \(0, 0, 1\)"):
        check_styles(CONFIG, CalculatorTask)


def test_only_the_policy_s_turns_are_learned():
    task = CalculatorTask(
        CalculatorConfig(
            name="calculator", levels=("3x1",), train_size=9, eval_size=9, seed=0, max_turns=4
        )
    )
    chat, prompt = Chat(build_tokenizer()), task.prompt("train", 0)
    first, second, third = (int(term) for term in prompt.messages[0]["content"][:-1].split("+"))
    turns = [f"{first}+{second}=", f"{first + second}+{third}=", f"#{prompt.answer}"]
    tokens, learned = episode(task, chat, prompt, turns)
    assert chat.tokenizer.decode(tokens) == (
        f"<|user|>{first}+{second}+{third}=<|end|><|assistant|>{turns[0]}<|end|>"
        f"<|user|>{first + second}<|end|><|assistant|>{turns[1]}<|end|>"
        f"<|user|>{prompt.answer}<|end|><|assistant|>{turns[2]}<|end|>"
    )
    assert chat.tokenizer.decode(
        [token for token in learned if token != IGNORED]
    ) == "<|end|>".join([*turns, ""])
    assert all(label in (token, IGNORED) for token, label in zip(tokens, learned, strict=True))
