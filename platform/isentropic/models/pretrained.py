"""One way to read a model's config, tokenizer, image processor and chat, for driver and ranks.

Everything takes the whole `ModelConfig`: a revision that reached the weights but not the tokenizer
would give prompts that the model was not trained on.
"""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PretrainedConfig

from isentropic.config import ModelConfig
from isentropic.images import load_images
from isentropic.tasks.chat import Chat

T = TypeVar("T")


def source(model: ModelConfig) -> dict[str, Any]:
    """The arguments that every `from_pretrained` of the model gets."""
    return {
        "pretrained_model_name_or_path": model.path,
        "revision": model.revision,
        "trust_remote_code": model.trust_remote_code,
    }


def load_config(model: ModelConfig) -> PretrainedConfig:
    """The model's own Hugging Face config.

    Raises:
        ValueError: config.json is missing or cannot be read.
    """
    return _read(model, "config.json", lambda: AutoConfig.from_pretrained(**source(model)))


def load_tokenizer(model: ModelConfig) -> Any:
    """The model's tokenizer. Raises ValueError if its files are missing or cannot be read."""
    return _read(model, "its tokenizer", lambda: AutoTokenizer.from_pretrained(**source(model)))


def load_chat(model: ModelConfig, today: date | None = None) -> Chat:
    """The tokenizer with its chat template and, if the model reads images, their reader.

    `today` is the date that a template may write. Raises ValueError as `load_tokenizer`.
    """
    config = load_config(model)
    images = _read(
        model,
        "preprocessor_config.json",
        lambda: load_images(model.path, config, model.image_pixels, model.revision),
    )
    return Chat(
        load_tokenizer(model),
        images,
        end_ids=_end_ids(model, config),
        today=today,
        vocab_size=config.get_text_config(decoder=True).vocab_size,
    )


def _end_ids(model: ModelConfig, config: PretrainedConfig) -> list[int]:
    """Tokens at which an engine ends a turn: some models name several."""
    ids: list[int] = []
    for owner in (config, config.get_text_config(decoder=True), _generation_config(model)):
        named = getattr(owner, "eos_token_id", None)
        ids += named if isinstance(named, list) else [] if named is None else [named]
    bad = [end for end in ids if not isinstance(end, int)]
    if bad:
        raise ValueError(
            f"model.path={model.path}: eos_token_id must be a token id or a list of them, got "
            f"{bad[0]!r}. Repair its config.json or generation_config.json."
        )
    return ids


def _generation_config(model: ModelConfig) -> GenerationConfig | None:
    folder = Path(model.path)
    if folder.is_dir() and not (folder / "generation_config.json").exists():
        return None

    def read() -> GenerationConfig:
        return GenerationConfig.from_pretrained(model.path, revision=model.revision)

    if folder.is_dir():
        return _read(model, "generation_config.json", read)
    try:
        return read()
    except OSError:  # a model of the Hub may have none
        return None


def _read(model: ModelConfig, what: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except Exception as error:  # foreign files, and code that meets them unprepared
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        reason = " ".join(lines[:2])
        raise ValueError(
            f"model.path={model.path}: {what} cannot be read "
            f"({type(error).__name__}: {reason:.200}). Copy the model's files again from where it "
            f"came, or save them anew with "
            "save_pretrained(<folder>)."
        ) from error
