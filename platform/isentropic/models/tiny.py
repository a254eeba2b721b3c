"""The embedded model: a Qwen3 of less than a million parameters that reads and writes single characters."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from isentropic.checks import check_range

PAD, END, UNKNOWN = "<|pad|>", "<|end|>", "<|unknown|>"
ROLES = ("system", "user", "assistant")
CHARACTERS = [chr(code) for code in range(32, 127)] + ["\n"]
# One token opens a message and one ends it: what a template costs, every rollout pays.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class TinySizes:
    """Sizes of the network; values live in conf/model/tiny.yaml."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    window: int  # positions the model can see

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            check_range(f"model.warm_start.sizes.{key}", value, at_least=1)
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"model.warm_start.sizes.num_heads must be a multiple of num_kv_heads, "
                f"got {self.num_heads} and {self.num_kv_heads}."
            )


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A token a character, three roles, and a chat template of two tokens a message."""
    return character_tokenizer(CHARACTERS, marks=[], chat_template=CHAT_TEMPLATE)


def character_tokenizer(
    characters: Sequence[str], *, marks: Sequence[str], chat_template: str
) -> PreTrainedTokenizerFast:
    """A token a character, behind the special ones: pad, end, unknown, the roles of a chat and `marks`."""
    special = [*(f"<|{role}|>" for role in ROLES), *marks]
    vocabulary = {
        token: index for index, token in enumerate([PAD, END, UNKNOWN, *special, *characters])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        bos_token=None,
        additional_special_tokens=special,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )


def build_model(sizes: TinySizes, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Random weights, from torch's global generator. The vocabulary is filled up to a multiple of 64."""
    config = Qwen3Config(
        vocab_size=(len(tokenizer) + 63) // 64 * 64,
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_kv_heads,
        head_dim=sizes.head_dim,
        max_position_embeddings=sizes.window,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def save(folder: Path, model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """An ordinary Hugging Face folder: config, generation_config, safetensors, tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
