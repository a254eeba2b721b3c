"""Refuses requests that an engine cannot answer, before any is started, and answers without numbers."""

import numpy as np

from isentropic.config import check_temperature
from isentropic.records import Request
from isentropic.seeds import SEED_BITS


def describe(request: Request) -> str:
    """Names the request, for an error."""
    return f"request {tuple(request.key)}, turn {request.turn}"


def check_request(
    request: Request, *, max_length: int, vocab_size: int, reads_images: bool = False
) -> None:
    """Raises ValueError, naming the request, if vLLM would refuse it, cut it or never end it."""
    name = describe(request)
    length = len(request.token_ids)
    if length == 0:
        raise ValueError(f"{name}: the prompt is empty; an engine needs at least one token.")
    if request.max_tokens < 1:
        raise ValueError(f"{name}: max_tokens must be >= 1, got {request.max_tokens}.")
    if length + request.max_tokens > max_length:
        raise ValueError(
            f"{name}: {length} prompt tokens and up to {request.max_tokens} new ones exceed the "
            f"window of {max_length} (model.max_length). Shorten the prompt, or lower "
            "rollout.max_response_tokens."
        )
    low = int(request.token_ids.min())
    high = int(request.token_ids.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"{name}: token ids run from {low} to {high}, the model has 0 to {vocab_size - 1}; "
            "tokenizer and model do not belong together."
        )
    if not 0 <= request.seed < 1 << SEED_BITS:
        raise ValueError(f"{name}: the seed must be in [0, 2^{SEED_BITS}), got {request.seed}.")
    check_temperature(f"{name}: temperature", request.temperature, greedy=True)
    if request.media and not reads_images:
        raise ValueError(f"{name}: has media, but this engine's model reads only text.")


def check_logprob(request: Request, logprob: np.ndarray) -> None:
    """Raises RuntimeError, naming the request, if a sampled token's logprob [N] is no number.

    No loss could be made of it, and a rollout that holds one cannot be read on a resume.
    """
    wrong = np.flatnonzero(~np.isfinite(logprob))
    if len(wrong):
        raise RuntimeError(
            f"{describe(request)}: the engine gave the logprob {logprob[wrong[0]]} for token "
            f"{wrong[0]} of {len(logprob)} (not finite: {len(wrong)}). Its weights or its kernels "
            "give no numbers: look at grad_norm and loss of the last updates, or try another "
            "rollout.dtype."
        )
