"""The dry run shows what the model reads and what is paid, for any decoder, and refuses what the engine lacks."""

import json
from functools import partial

import pytest
from hydra import compose, initialize_config_dir
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from isentropic.experiments.dry import preview
from isentropic.experiments.dry.describe import describe as findings
from isentropic.experiments.hydra_main import CONF
from isentropic.experiments.run.prepare import prepare
from isentropic.experiments.settings.load import load
from isentropic.models.tiny import build_tokenizer
from isentropic.tasks import TASKS

SMALL = ["task.train_size=8", "task.eval_size=2", "cluster.address=auto"]


def settings(*overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return load(compose("config", list(overrides)))


def describe(config):
    """The plan; raises ValueError with all that the run would be refused for."""
    text, problems = findings(config)
    if problems:
        raise ValueError("\n".join(problems))
    return text


def lines_after(text, start):
    lines = text.splitlines()
    (first,) = (number for number, line in enumerate(lines) if line.startswith(start))
    return lines[first:]


def test_prompts_golds_and_rewards_of_the_embedded_task():
    text = describe(settings(*SMALL))
    first = lines_after(text, "prompt 1")
    assert first[0] == 'prompt 1   arithmetic/train/3x1/0, 9 tokens, gold "15"'
    assert first[1].strip() == '"<|user|>2+7+6=<|end|><|assistant|>"'
    assert first[2].split() == ["4", "24", "17", "29", "17", "28", "35", "1", "5"]
    assert [line.strip() for line in lines_after(text, "rewards")[:3]] == [
        'rewards    right answer "#15": 1.0',
        'wrong answer "#18": 0.0',
        'empty answer "": 0.0',
    ]


@pytest.fixture
def problems(tmp_path):
    file = tmp_path / "problems.jsonl"
    rows = [{"problem": f"What is {n} + 1?", "answer": n + 1} for n in range(8)] + [
        {"problem": "?"}
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    return [
        "task=math",
        f"task.path={file}",
        "task.on_bad_row=skip",
        "task.eval_share=0.25",
        "task.suffix=''",
        "cluster.address=auto",
    ]


def test_of_mathematics(problems, tiny_model_path):
    model = ["model=path", f"model.path={tiny_model_path}", "model.max_length=100"]
    sizes = ["rollout.max_prompt_tokens=60", "rollout.max_response_tokens=40"]
    text = describe(settings(*problems, *model, *sizes))
    assert "math: 6 train, 2 held out; bad rows left out: 1" in text
    prompt, answer = (line.strip() for line in lines_after(text, "prompt 1")[:2])
    gold = prompt.rpartition("gold ")[2].strip('"')
    assert (
        answer
        == f'"<|im_start|>user\\nWhat is {int(gold) - 1} + 1?<|im_end|>\\n<|im_start|>assistant\\n"'
    )
    rewards = [line.strip() for line in lines_after(text, "rewards")[:3]]
    assert rewards[0] == f'rewards    right answer "{gold}": 1.0'
    assert rewards[1].endswith(": 0.0") and rewards[2] == 'empty answer "": 0.0'


def test_held_out_prompts_that_are_trained_on_are_said(problems, tiny_model_path, tmp_path):
    model = ["model=path", f"model.path={tiny_model_path}", "model.max_length=100"]
    sizes = ["rollout.max_prompt_tokens=60", "rollout.max_response_tokens=40"]
    assert "HELD-OUT" not in describe(settings(*problems, *model, *sizes))

    path = problems[1].partition("=")[2]
    said = lines_after(
        describe(settings(*problems, *model, *sizes, f"task.eval_path={path}")), "held out"
    )
    assert said[0] == (
        "held out   ALL HELD-OUT PROMPTS ARE TRAINED ON TOO: on these eval/* says what was "
        f"remembered. task.eval_path is task.path, {path}; task.eval_path=null holds a share of it "
        "out."
    )
    # A copy under another name, whose ids and one problem differ.
    rows = (tmp_path / "problems.jsonl").read_text().splitlines()[2:5]
    rows.append(json.dumps({"problem": "What is 100 + 1?", "answer": 101}))
    (tmp_path / "test.jsonl").write_text("\n".join(rows))
    text = describe(settings(*problems, *model, *sizes, f"task.eval_path={tmp_path}/test.jsonl"))
    assert lines_after(text, "held out")[0].startswith(
        "held out   3 of 4 HELD-OUT PROMPTS ARE TRAINED ON TOO"
    )


OWN = """
def grade(prompt, response, row):
    if response == "":
        return row["nothing"]
    return {"right": response == str(row["answer"]), "dear": 0.5}
"""


@pytest.mark.parametrize("gold", ["answer", "null"])
def test_of_a_reward_of_one_s_own(problems, tiny_model_path, tmp_path, gold):
    (tmp_path / "mine.py").write_text(OWN)
    own = f"task.reward={{file: {tmp_path}/mine.py, function: grade}}"
    problems[0] = "task=rows"
    model = ["model=path", f"model.path={tiny_model_path}", "model.max_length=100"]
    sizes = ["rollout.max_prompt_tokens=60", "rollout.max_response_tokens=40"]
    more = [own, f"task.answer_column={gold}", "rewards.timeout_s=30"]
    text, refused = findings(settings(*problems, *model, *sizes, *more))
    lines = lines_after(text, "rewards")
    said = [line.strip().partition(": ")[2] for line in lines]
    empty = f"raised, {tmp_path}/mine.py:4: KeyError: 'nothing'"
    if gold == "answer":
        assert said[:3] == ["1.5 (right 1, dear 0.5)", "0.5 (right 0, dear 0.5)", empty]
        assert not refused
    else:
        assert said[:2] == ["0.5 (right 0, dear 0.5)", empty]
        (why,) = refused  # as the run would be
        assert "the reward fails on an empty answer" in why and "mine.py:4: KeyError" in why
    said = [line.split()[0] for line in lines_after(text, "verdict")]
    assert said == ["verdict", "and"][: 1 + len(refused)], "what fits may be refused all the same"


def reward_lines(task, *overrides):
    config = settings(*SMALL, *overrides)
    prompt = TASKS["arithmetic"].make(config.task).prompt("train", 0)
    return preview._reward_lines([prompt], partial(preview._graded, task, None, config.rewards))


def test_a_right_answer_that_is_not_paid_is_said():
    class Silent:
        isolated = False

        def grade(self, prompt, turns):
            return 0.0

    assert "PAID NO MORE THAN A WRONG ONE" in reward_lines(Silent())[-1]


def test_a_right_answer_that_no_metric_would_count_is_said():
    class Half:
        isolated = False

        def grade(self, prompt, turns):
            return 0.5 * (turns[-1] == prompt.answer)

    assert "takes 1 (task.reward_right)" in reward_lines(Half())[-1]


def test_a_task_whose_reward_raises_is_shown():
    class Broken:
        isolated = False

        def grade(self, prompt, turns):
            raise RuntimeError("no such column")

    assert reward_lines(Broken())[0].endswith("raises RuntimeError: no such column")


MAMBA = MambaConfig(vocab_size=128, hidden_size=64, num_hidden_layers=1)
GPT2 = GPT2Config(vocab_size=128, n_embd=64, n_layer=2, n_head=2, n_positions=128)
OPT = OPTConfig(
    vocab_size=128,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    ffn_dim=128,
    max_position_embeddings=128,
    word_embed_proj_dim=64,
)


def test_other_decoders(tmp_path):
    OPTForCausalLM(OPT).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    text = describe(settings(*SMALL, *of_folder(tmp_path)))
    assert "memory     per rank" in text and "full-length responses at once" in text


@pytest.mark.parametrize(
    ("lm", "message"),
    [
        pytest.param(lambda: GPT2LMHeadModel(GPT2), "GPT2LMHeadModel has no decoder", id="GPT-2"),
        pytest.param(lambda: MambaForCausalLM(MAMBA), "MambaForCausalLM mixes tokens", id="Mamba"),
    ],
)
def test_decoders_that_the_learner_could_not_run(lm, message, tmp_path):
    """The run would be refused too, before it starts anything."""
    lm().save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    config = settings(*SMALL, *of_folder(tmp_path))
    for look in (describe, prepare):
        with pytest.raises(ValueError, match=message):
            look(config)


def test_heads_that_the_engine_lacks(tmp_path):
    config = GPT2Config(vocab_size=128, n_embd=64, n_layer=1, n_head=4, n_positions=128)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"heads have 16 dimensions.*only 32, 64"):
        describe(settings(*SMALL, *of_folder(tmp_path)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"oger\.teachers: no file .*teachers\.jsonl"),
        ("", r"teachers\.jsonl has no rows"),
        (
            '{"prompt_id": "a", "teacher": "t", "response": "1", "reward": Infinity}',
            r"teachers\.jsonl, row 1: reward must be a number, and a finite one, got inf",
        ),
    ],
)
def test_teachers_that_the_run_would_be_refused_for(text, message, tmp_path):
    path = tmp_path / "teachers.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        describe(settings(*SMALL, "method=oger", "oger.cache=null", f"oger.teachers={path}"))


def test_an_engine_that_could_not_start_here(monkeypatch):
    monkeypatch.setattr("isentropic.rollout.vllm_packages._version", {}.get)
    with pytest.raises(ValueError, match=r"rollout\.engine=vllm.*vLLM is not installed"):
        describe(settings(*SMALL))


def of_folder(folder):
    sizes = [
        "model.max_length=100",
        "rollout.max_prompt_tokens=40",
        "rollout.max_response_tokens=40",
    ]
    return ["model=path", f"model.path={folder}", *sizes]
