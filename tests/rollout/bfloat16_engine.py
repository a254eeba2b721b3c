"""One engine in bfloat16 in a process of its own (a process has one engine): python bfloat16_engine.py MODEL

Prints, as JSON, the mean difference of its logprobs from those of torch in float32, in nats: with the folder's weights,
with other ones, and with the first again; and how far the second answers are from the first.
"""

import json
import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from isentropic.config import RolloutConfig
from isentropic.records import Request, RolloutKey
from isentropic.rollout.vllm_engine import VllmEngine
from isentropic.weights.buckets import fill_buckets

PROMPT, ANSWERS, LENGTH = np.arange(4, 20, dtype=np.int32), 16, 24
CONFIG = RolloutConfig(
    engine="vllm", num_actors=1, tensor_parallel=1, prompts_per_step=1, group_size=ANSWERS,
    temperature=1.0, top_p=1.0, top_k=-1,
    max_prompt_tokens=32, max_response_tokens=LENGTH, max_staleness=0, max_num_seqs=16, kv_cache_gib=0.125,
    dtype="bfloat16", probe_tolerance=0.3, timeout_s=120.0,
)  # fmt: skip


def load(engine: VllmEngine, version: int, model) -> None:
    engine.load_weights(version, list(fill_buckets(model.named_parameters(), torch.bfloat16)))


@torch.no_grad()
def gap(engine: VllmEngine, model) -> float:
    """Draws answers; returns the mean |engine - torch| of their tokens' logprobs."""
    requests = [
        Request(
            key=RolloutKey("train", 0, 0, sample), turn=0, token_ids=PROMPT, seed=sample,
            temperature=1.0, max_tokens=LENGTH,
        )
        for sample in range(ANSWERS)
    ]  # fmt: skip
    gaps = []
    for batch in engine.generate(requests):
        for each in batch:
            ids = torch.tensor(np.concatenate([PROMPT, each.token_ids]), dtype=torch.int64)
            scores = model(input_ids=ids[None]).logits[0, len(PROMPT) - 1 : -1].log_softmax(-1)
            wanted = scores.gather(-1, ids[len(PROMPT) :, None])[:, 0].numpy()
            gaps.append(np.abs(each.logprob - wanted))
    return float(np.concatenate(gaps).mean())


def main() -> None:
    engine = VllmEngine(sys.argv[1], CONFIG, max_length=96, device="cpu")
    first, second = (
        AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32) for _ in range(2)
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    found = {"start": gap(engine, first)}
    load(engine, 1, second)
    found |= {"other": gap(engine, second), "apart": gap(engine, first)}
    load(engine, 2, first)
    found["again"] = gap(engine, first)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
