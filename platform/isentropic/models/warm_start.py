"""Supervised warm start of the embedded model, on the spot, so that RL has something to sharpen.

It stops on measured SAMPLED accuracy, never on time: a model that is right too rarely gives RL no signal, and one
that is right too often has no entropy left to lose.
"""

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

from isentropic.checks import check_range
from isentropic.models import tiny as tiny_model
from isentropic.models.tiny import TinySizes, build_model, build_tokenizer
from isentropic.records import Prompt
from isentropic.tasks.arithmetic import ArithmeticTask
from isentropic.tasks.chat import Chat

CARD = "warm_start.json"  # written last: a folder that has it is whole
IGNORED = -100  # cross_entropy's label of tokens that are not learned


@dataclass(frozen=True, kw_only=True)
class WarmStartConfig:
    """Values live in conf/model/tiny.yaml."""

    seed: int
    sizes: TinySizes
    style_weights: tuple[float, ...]  # of the demonstrations, in the order of the task's `styles`
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
        for key in (
            "batch_size",
            "max_steps",
            "check_every",
            "check_prompts",
            "max_response_tokens",
            "num_threads",
        ):
            check_range(f"model.warm_start.{key}", getattr(self, key), at_least=1)
        for key in ("lr", "matrix_lr"):
            check_range(f"model.warm_start.{key}", getattr(self, key), above=0)
        check_range("model.warm_start.warmup_steps", self.warmup_steps, at_least=0)
        check_range("model.warm_start.target_accuracy", self.target_accuracy, above=0, below=1)
        if min(self.style_weights, default=0) < 0 or not sum(self.style_weights):
            raise ValueError(
                f"model.warm_start.style_weights must be numbers >= 0, one of them above 0; got {self.style_weights}."
            )


def check_styles(config: WarmStartConfig, task: type[ArithmeticTask]) -> None:
    """Raises ValueError where the weights are not one for each of the task's styles."""
    if len(config.style_weights) != len(task.styles):
        raise ValueError(
            f"model.warm_start.style_weights must be {len(task.styles)} numbers ({', '.join(task.styles)}), got "
            f"{config.style_weights}."
        )


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What sampling at temperature 1 gave."""

    accuracy: float
    entropy: float  # nats a response token, exact
    tokens_mean: float  # response tokens, the end token included


def train(
    config: WarmStartConfig, task: ArithmeticTask, folder: Path, report: Callable[[str], None]
) -> None:
    """Trains until the sampled accuracy is reached, then writes the model folder and its card."""
    check_styles(config, type(task))
    started = time.monotonic()
    with _private_torch(config.seed, config.num_threads):
        chat = Chat(build_tokenizer())
        model = build_model(config.sizes, chat.tokenizer)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        report(
            f"model tiny: warm start of {parameters:,} parameters to accuracy {config.target_accuracy}, once"
        )
        step, train = _until_accurate(config, task, model, chat, report)
        held_out = _measure(config, task, model, chat, "eval")
        tiny_model.save(folder, model, chat.tokenizer)
    seconds = time.monotonic() - started
    report(f"model tiny: warm start took {step} steps, {seconds:.0f} s")
    card = {
        "steps": step,
        "seconds": round(seconds, 1),
        "parameters": parameters,
        "train": asdict(train),
    }
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
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
        )
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


def _batch(
    config: WarmStartConfig, task: ArithmeticTask, chat: Chat, rng: random.Random
) -> tuple[Tensor, Tensor]:
    """Token ids and labels [B, T] of demonstrations on train prompts, padded; only the policy's turns are learned."""
    prompts = [
        task.prompt("train", rng.randrange(task.size("train"))) for _ in range(config.batch_size)
    ]
    rows = [
        episode(task, chat, prompt, task.demonstration(prompt, rng, config.style_weights))
        for prompt in prompts
    ]
    longest = max(len(tokens) for tokens, _ in rows)
    token_ids = torch.full((len(rows), longest), chat.tokenizer.pad_token_id)
    labels = torch.full((len(rows), longest), IGNORED)
    for row, (tokens, learned) in enumerate(rows):
        token_ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, : len(tokens)] = torch.tensor(learned)
    return token_ids, labels


def episode(
    task: ArithmeticTask, chat: Chat, prompt: Prompt, turns: Sequence[str]
) -> tuple[list[int], list[int]]:
    """Tokens of an episode, and the same with IGNORED in the place of all that the policy does not write."""
    tokens = chat.prompt_ids(prompt).tolist()
    learned = [IGNORED] * len(tokens)
    for count, text in enumerate(turns, start=1):
        written = chat.tokenizer.encode(text + tiny_model.END, add_special_tokens=False)
        reply = task.reply(prompt, turns[:count])
        between = [] if reply is None else chat.reply_ids(prompt, reply, "stop").tolist()
        tokens += written + between
        learned += written + [IGNORED] * len(between)
    return tokens, learned


@torch.no_grad()
def _measure(
    config: WarmStartConfig, task: ArithmeticTask, model: Qwen3ForCausalLM, chat: Chat, split: str
) -> Measured:
    """One episode at temperature 1 for each of the split's first prompts, turn by turn, all in one batch."""
    model.eval()
    prompts = [
        task.prompt(split, index) for index in range(min(config.check_prompts, task.size(split)))
    ]
    tokens = [chat.prompt_ids(prompt).tolist() for prompt in prompts]
    turns: list[list[str]] = [[] for _ in prompts]
    going, entropy, written = list(range(len(prompts))), 0.0, 0
    for turn in range(1, task.max_turns + 1):
        responses, nats = _sample(config, model, chat, [tokens[row] for row in going])
        entropy, written = entropy + nats, written + sum(map(len, responses))
        further = []
        for row, response, text in zip(going, responses, chat.decode(responses), strict=True):
            turns[row].append(text)
            reply = task.reply(prompts[row], turns[row]) if turn < task.max_turns else None
            if reply is not None and response[-1] == chat.eos_token_id:
                tokens[row] += [
                    *response.tolist(),
                    *chat.reply_ids(prompts[row], reply, "stop").tolist(),
                ]
                further.append(row)
        going = [
            row
            for row in further
            if len(tokens[row]) + config.max_response_tokens <= config.sizes.window
        ]
        if not going:
            break
    model.train()
    right = [task.grade(prompt, texts) for prompt, texts in zip(prompts, turns, strict=True)]
    return Measured(
        accuracy=sum(right) / len(right),
        entropy=entropy / written,
        tokens_mean=written / len(prompts),
    )


def _sample(
    config: WarmStartConfig, model: Qwen3ForCausalLM, chat: Chat, prompts: Sequence[list[int]]
) -> tuple[list[np.ndarray], float]:
    """A response [N] to each prompt, the end token included, padded on the left; and their entropies' sum in nats."""
    longest = max(map(len, prompts))
    pad, end = chat.tokenizer.pad_token_id, chat.eos_token_id
    token_ids = torch.tensor([[pad] * (longest - len(ids)) + ids for ids in prompts])
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts])
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
    responses = sampled.sequences[:, longest:]
    logprobs = torch.stack(sampled.logits, dim=1).log_softmax(dim=-1)
    written = (
        (responses == end).cumsum(dim=1) - (responses == end).int()
    ) == 0  # up to the end token, with it
    entropy = -(logprobs.exp() * logprobs).sum(dim=-1)[written].sum()
    return [row[keep].numpy() for row, keep in zip(responses, written, strict=True)], entropy.item()


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
