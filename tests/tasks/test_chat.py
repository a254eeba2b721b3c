"""What the model reads between two turns, and what is read of its turns."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from isentropic.models.tiny import CHAT_TEMPLATE, END, build_tokenizer, character_tokenizer
from isentropic.records import Prompt, Rollout, RolloutKey
from isentropic.tasks.chat import MARK, Chat

PROMPT = Prompt(prompt_id="p", messages=({"role": "user", "content": "1+2="},), answer="3")
ROLLOUT = Rollout(
    key=RolloutKey("train", 0, 0, 0),
    prompt=PROMPT,
    token_ids=np.array(build_tokenizer().encode("1+2=5")),
    turns=((4, 5),),
    rollout_logprob=np.zeros(1, dtype=np.float32),
    temperature=1.0,
    seed=0,
    finish_reason="stop",
    step=1,
    policy_version=0,
)


def chat_with(template, **values):
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    return Chat(tokenizer, **values)


def between(chat, reply="5", finish_reason="stop", prompt=PROMPT):
    return chat.tokenizer.decode(chat.reply_ids(prompt, reply, finish_reason))


# Drops the thinking of earlier turns, as reasoning models do: a last turn is written with it, one that
# another message follows is not. Text in front of the turn gets shorter once there is a reply.
THINKING = (
    "{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if m['role'] == 'assistant' and loop.last %}<think>some thoughts</think>{% endif %}"
    "{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Writes the number of messages in front of them: the same text gets longer.
COUNTED = "{{ messages | length * 1000 }}" + CHAT_TEMPLATE


@pytest.mark.parametrize(
    "template",
    [
        pytest.param(CHAT_TEMPLATE, id="a true prefix"),
        pytest.param(THINKING, id="earlier turns are rewritten"),
        pytest.param(COUNTED, id="what stands in front changes"),
    ],
)
def test_the_text_between_turns(template):
    chat = chat_with(template)
    assert between(chat) == "<|user|>5<|end|><|assistant|>"
    assert between(chat, finish_reason="length") == "<|end|><|user|>5<|end|><|assistant|>"


def test_any_token_that_ends_a_turn_is_not_written_twice():
    template = CHAT_TEMPLATE.replace("<|end|>", "<|system|>")  # stands for a second end token
    chat = chat_with(template, end_ids=[build_tokenizer().vocab["<|system|>"]])
    assert between(chat) == "<|user|>5<|system|><|assistant|>"


def test_the_mark_may_stand_in_a_problem():
    prompt = Prompt(
        prompt_id="p", messages=({"role": "user", "content": f"what is {MARK}?"},), answer=""
    )
    assert between(chat_with(CHAT_TEMPLATE), prompt=prompt) == "<|user|>5<|end|><|assistant|>"
    assert f"<|user|>{MARK}<|end|>" in between(chat_with(CHAT_TEMPLATE), reply=MARK)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        pytest.param(
            "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}",
            "the policy's text is missing",
            id="no turns of the policy",
        ),
        pytest.param(
            "{% for m in messages %}{% if not loop.last %}{{ m['content'] }}{% endif %}{% endfor %}",
            "the reply's text is missing",
            id="no reply",
        ),
    ],
)
def test_a_template_without_turns_is_refused(template, message):
    with pytest.raises(ValueError, match=message):
        between(chat_with(template))


def test_tags_that_are_special_tokens_are_graded_and_end_and_padding_are_not():
    tokenizer = character_tokenizer(
        list("so 5"), marks=["<answer>", "</answer>"], chat_template=CHAT_TEMPLATE
    )
    assert {"<answer>", "</answer>", END} <= set(tokenizer.all_special_tokens)
    turn = tokenizer.encode("so <answer>5</answer><|end|><|pad|>", add_special_tokens=False)
    assert Chat(tokenizer).decode([np.array(turn)]) == ["so <answer>5</answer>"]


def test_every_end_token_of_a_model_is_left_out():
    tokenizer = character_tokenizer(list("5"), marks=["<|eot|>"], chat_template=CHAT_TEMPLATE)
    turn = np.array(tokenizer.encode("5<|eot|>", add_special_tokens=False))
    assert Chat(tokenizer).decode([turn]) == ["5<|eot|>"]
    assert Chat(tokenizer, end_ids=[tokenizer.vocab["<|eot|>"]]).decode([turn]) == ["5"]


def test_a_template_that_writes_the_date_writes_the_run_s():
    template = "{{ strftime_now('%d %b %Y') }}" + CHAT_TEMPLATE
    first, later = (
        chat_with(template, today=date(2026, 1, day)).prompt_text(PROMPT) for day in (31, 30)
    )
    assert first == "31 Jan 2026<|user|>1+2=<|end|><|assistant|>"
    assert later.startswith("30 Jan 2026")
    assert chat_with(template).prompt_text(PROMPT).startswith(date.today().strftime("%d %b %Y"))


@pytest.mark.parametrize(
    ("missing", "message"),
    [("chat_template", "no chat template"), ("eos_token", "no eos_token")],
)
def test_a_tokenizer_that_lacks_what_a_chat_needs(missing, message):
    tokenizer = build_tokenizer()
    setattr(tokenizer, missing, None)
    with pytest.raises(ValueError, match=message):
        Chat(tokenizer)


def byte_level():
    """A tokenizer whose tokens may end in the middle of a character."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=[END, "<think>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(["so is the sum of the sums"], trainer)
    return {"tokenizer_object": tokenizer, "eos_token": END, "chat_template": CHAT_TEMPLATE}


class Whispering(PreTrainedTokenizerFast):
    """Writes its texts in a way of its own."""

    def _decode(self, token_ids, **values):
        return super()._decode(token_ids, **values).lower()


@pytest.mark.parametrize(
    ("made", "direct"),
    [
        pytest.param(lambda: PreTrainedTokenizerFast(**byte_level()), True, id="bytes"),
        pytest.param(build_tokenizer, True, id="characters"),
        pytest.param(lambda: Whispering(**byte_level()), False, id="with a text of its own"),
    ],
)
def test_texts_are_those_that_the_tokenizer_writes(made, direct):
    """Decoded directly or not: a check, and a reader of the ledger, see what transformers gives."""
    tokenizer = made()
    chat = Chat(tokenizer)
    assert (chat._backend is not None) == direct
    rng = np.random.default_rng(0)
    turns = [rng.integers(0, len(tokenizer), size=length) for length in (0, 1, 40, 400)]
    said = [turn[~np.isin(turn, chat._unread)].tolist() for turn in turns]
    assert chat.decode(turns) == [tokenizer.decode(part) for part in said]


def test_what_was_decoded_is_not_decoded_again():
    rollout = replace(ROLLOUT, texts=("said before",))
    assert Chat(build_tokenizer()).turn_texts(rollout) == ["said before"]
    assert Chat(build_tokenizer()).turn_texts(ROLLOUT) == ["5"]


def test_prompts_can_be_read_while_turns_are_decoded():
    """Decoding has a thread of its own; a tokenizer must not refuse because it is in use."""
    chat = Chat(PreTrainedTokenizerFast(**byte_level()))
    ids = chat.prompt_ids(PROMPT)
    turns = [np.random.default_rng(0).integers(2, 200, size=20_000)] * 4
    with ThreadPoolExecutor(2) as threads:
        decoding = [threads.submit(chat.decode, turns) for _ in range(6)]
        while not all(each.done() for each in decoding):
            np.testing.assert_array_equal(chat.prompt_ids(PROMPT), ids)
    assert len({tuple(each.result()) for each in decoding}) == 1
