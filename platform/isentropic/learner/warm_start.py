"""Supervised warm start of the embedded model, on the spot, so that RL has something to sharpen.

It stops on measured SAMPLED accuracy, never on time: a model that is right too rarely gives RL no signal, and one
that is right too often has no entropy left to lose.
"""

import json
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

from isentropic.checks import check_range
from isentropic.learner import tiny_model
from isentropic.learner.tiny_model import TinySizes, build_model, build_tokenizer
from isentropic.tasks.arithmetic import STYLES, ArithmeticTask, demonstration
from isentropic.tasks.chat import Chat

CARD = "warm_start.json"  # written last: a folder that has it is whole
IGNORED = -100  # cross_entropy's label of tokens that are not learned


@dataclass(frozen=True, kw_only=True)
class WarmStartConfig:
    """Values live in conf/model/tiny.yaml."""

    seed: int
    sizes: TinySizes
    style_weights: tuple[float, ...]  # of the demonstrations: steps, sums, direct
    batch_size: int
    lr: float  # AdamW: embeddings and norms
    matrix_lr: float  # Muon: all other matrices
    warmup_steps: int
    max_steps: int  # of the cosine, too
    check_every: int
    check_prompts: int  # sampled once each
    target_accuracy: float  # on train prompts, which RL will see
    max_response_tokens: int
    num_threads: int  # fixed, for the same bits on every machine of a kind

    def __post_init__(self) -> None:
        for key in ("batch_size", "max_steps", "check_every", "check_prompts", "max_response_tokens", "num_threads"):
            check_range(f"model.warm_start.{key}", getattr(self, key), at_least=1)
        for key in ("lr", "matrix_lr"):
            check_range(f"model.warm_start.{key}", getattr(self, key), above=0)
        check_range("model.warm_start.warmup_steps", self.warmup_steps, at_least=0)
        check_range("model.warm_start.target_accuracy", self.target_accuracy, above=0, below=1)
        if len(self.style_weights) != len(STYLES) or min(self.style_weights) < 0 or not sum(self.style_weights):
            raise ValueError(
                f"model.warm_start.style_weights must be {len(STYLES)} numbers >= 0 ({', '.join(STYLES)}), "
                f"one of them above 0; got {self.style_weights}."
            )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What sampling at temperature 1 gave."""

    accuracy: float
    entropy: float  # nats a response token, exact
    tokens_mean: float  # response tokens, the end token included


def train(config: WarmStartConfig, task: ArithmeticTask, folder: Path, report: Callable[[str], None]) -> None:
    """Trains until the sampled accuracy is reached, then writes the model folder and its card."""
    started = time.monotonic()
    with _private_torch(config.seed, config.num_threads):
        chat = Chat(build_tokenizer())
        model = build_model(config.sizes, chat.tokenizer)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        report(f"model tiny: warm start of {parameters:,} parameters to accuracy {config.target_accuracy}, once")
        step, train = _until_accurate(config, task, model, chat, report)
        held_out = _measure(config, task, model, chat, "eval")
        tiny_model.save(folder, model, chat.tokenizer)
    seconds = time.monotonic() - started
    report(f"model tiny: warm start took {step} steps, {seconds:.0f} s")
    card = {"steps": step, "seconds": round(seconds, 1), "parameters": parameters, "train": asdict(train)}
    card["eval"] = asdict(held_out)
    (folder / CARD).write_text(json.dumps(card, indent=1) + "\n")


def _until_accurate(
    config: WarmStartConfig,
    task: ArithmeticTask,
    model: Qwen3ForCausalLM,
    chat: Chat,
    report: Callable[[str], None],
) -> tuple[int, Measured]:
    """Steps taken, and what the last check measured."""
    # Muon reaches the same accuracy in about a third of AdamW's steps here; it is for hidden matrices only.
    named = list(model.named_parameters())
    matrices = [weight for name, weight in named if weight.ndim == 2 and "embed" not in name]
    others = [weight for name, weight in named if weight.ndim != 2 or "embed" in name]
    optimizers = [
        (torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0), config.lr),
        (torch.optim.Muon(matrices, weight_decay=0.0, adjust_lr_fn="original"), config.matrix_lr),
    ]
    rng = random.Random(config.seed)
    measured = None
    for step in range(1, config.max_steps + 1):
        rise = min(1.0, step / max(1, config.warmup_steps))
        factor = rise * (0.1 + 0.45 * (1 + math.cos(math.pi * step / config.max_steps)))
        token_ids, labels = _batch(config, task, chat, rng)
        logits = model(input_ids=token_ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, lr in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % config.check_every == 0:
            measured = _measure(config, task, model, chat, "train")
            report(
                f"  step {step:4d}  loss {loss.item():.3f}  sampled accuracy {measured.accuracy:.3f}  "
                f"entropy {measured.entropy:.3f} nats"
            )
            if measured.accuracy >= config.target_accuracy:
                return step, measured
    raise RuntimeError(
        f"the warm start of the embedded model did not reach sampled accuracy {config.target_accuracy} in "
        f"{config.max_steps} steps (last check: {measured}). Raise model.warm_start.max_steps, lower "
        "model.warm_start.target_accuracy, or choose easier task.levels."
    )


def _batch(config: WarmStartConfig, task: ArithmeticTask, chat: Chat, rng: random.Random) -> tuple[Tensor, Tensor]:
    """Token ids and labels [B, T] of demonstrations on train prompts, padded; only responses are learned."""
    prompts = [task.prompt("train", rng.randrange(task.size("train"))) for _ in range(config.batch_size)]
    texts = [demonstration(prompt, rng, config.style_weights) + tiny_model.END for prompt in prompts]
    responses = chat.tokenizer(texts, add_special_tokens=False)["input_ids"]
    rows = [(chat.prompt_ids(prompt).tolist(), ids) for prompt, ids in zip(prompts, responses, strict=True)]
    longest = max(len(prompt) + len(response) for prompt, response in rows)
    token_ids = torch.full((len(rows), longest), chat.tokenizer.pad_token_id)
    labels = torch.full((len(rows), longest), IGNORED)
    for row, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        token_ids[row, :end] = torch.tensor(prompt + response)
        labels[row, len(prompt) : end] = torch.tensor(response)
    return token_ids, labels


@torch.no_grad()
def _measure(
    config: WarmStartConfig, task: ArithmeticTask, model: Qwen3ForCausalLM, chat: Chat, split: str
) -> Measured:
    """One sample at temperature 1 for each of the split's first prompts, all in one batch, padded on the left."""
    model.eval()
    prompts = [task.prompt(split, index) for index in range(min(config.check_prompts, task.size(split)))]
    encoded = [chat.prompt_ids(prompt).tolist() for prompt in prompts]
    longest = max(map(len, encoded))
    pad, end = chat.tokenizer.pad_token_id, chat.eos_token_id
    token_ids = torch.tensor([[pad] * (longest - len(ids)) + ids for ids in encoded])
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in encoded])
    sampled = model.generate(
        input_ids=token_ids,
        attention_mask=mask,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=config.max_response_tokens,
        output_logits=True,
        return_dict_in_generate=True,
    )
    model.train()
    responses = sampled.sequences[:, longest:]
    logprobs = torch.stack(sampled.logits, dim=1).log_softmax(dim=-1)
    written = ((responses == end).cumsum(dim=1) - (responses == end).int()) == 0  # up to the end token, with it
    entropy = -(logprobs.exp() * logprobs).sum(dim=-1)[written].mean()
    texts = chat.decode([row[keep].numpy() for row, keep in zip(responses, written, strict=True)])
    right = [task.grade(prompt, [text]) for prompt, text in zip(prompts, texts, strict=True)]
    return Measured(
        accuracy=sum(right) / len(right), entropy=entropy.item(), tokens_mean=written.sum().item() / len(prompts)
    )


@contextmanager
def _private_torch(seed: int, num_threads: int) -> Iterator[None]:
    """Seeded, with a fixed number of threads; the caller's generator and threads come back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(before)
