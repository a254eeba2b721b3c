"""What the model reads between two turns, and what is read of its turns."""

from datetime import date

import numpy as np
import pytest

from isentropic.models.tiny import CHAT_TEMPLATE, END, build_tokenizer, character_tokenizer
from isentropic.records import Prompt
from isentropic.tasks.chat import MARK, Chat

PROMPT = Prompt(prompt_id="p", messages=({"role": "user", "content": "1+2="},), answer="3")


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
