"""One engine and one packed model in a process of its own, which must meet torchvision before transformers does.

python image_engine.py FOLDER

The embedded model is in FOLDER/model. Prints, as JSON, the largest difference of their logprobs in nats, before and
after other weights are loaded, and the tokens that were drawn.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from isentropic import batching
from isentropic.config import ModelConfig, RolloutConfig
from isentropic.records import Request, Rollout, RolloutKey
from isentropic.rollout.vllm_engine import VllmEngine
from isentropic.tasks.figures import FiguresConfig, FiguresTask

WINDOW, TEMPERATURE = 64, 0.7
CONFIG = RolloutConfig(
    engine="vllm", num_actors=1, tensor_parallel=1, prompts_per_step=4, group_size=2,
    temperature=TEMPERATURE, top_p=1.0, top_k=-1,
    max_prompt_tokens=32, max_response_tokens=8, max_staleness=0, max_num_seqs=16, kv_cache_gib=0.125,
    dtype="float32", probe_tolerance=1e-4, timeout_s=120.0,
)  # fmt: skip


def requests(prompts, chat):
    return [
        Request(
            key=RolloutKey("train", draw, 0, sample),
            turn=0,
            token_ids=chat.prompt_ids(prompt),
            seed=17 * draw + sample,
            temperature=TEMPERATURE,
            max_tokens=8,
            media=prompt.media,
        )
        for draw, prompt in enumerate(prompts)
        for sample in range(2)
    ]


def rollouts(engine, prompts, chat):
    """Through the engine, as the controller joins them."""
    asked = {request.key: request for request in requests(prompts, chat)}
    done = [completion for part in engine.generate(asked.values()) for completion in part]
    return [
        Rollout(
            key=each.key,
            prompt=prompts[each.key.draw],
            token_ids=np.concatenate([asked[each.key].token_ids, each.token_ids]),
            turns=(
                (
                    len(asked[each.key].token_ids),
                    len(asked[each.key].token_ids) + len(each.token_ids),
                ),
            ),
            rollout_logprob=each.logprob,
            temperature=TEMPERATURE,
            seed=0,
            finish_reason=each.finish_reason,
            step=1,
            policy_version=each.policy_version,
        )
        for each in sorted(done, key=lambda completion: completion.key)
    ]


def main(folder):
    path = str(folder / "model")
    engine = VllmEngine(path, CONFIG, max_length=WINDOW, device="cpu")
    # Only now, as in a real run: the learner is another process.
    from isentropic.images import load_images
    from isentropic.learner.images import ImageReader
    from isentropic.learner.model import PackedModel, load_model
    from isentropic.models.pretrained import load_chat
    from isentropic.weights.buckets import fill_buckets

    settings = {
        "revision": None,
        "max_length": WINDOW,
        "trust_remote_code": False,
        "warm_start": None,
        "image_pixels": None,
    }
    model = ModelConfig(name="tiny", path=path, **settings)
    lm = load_model(model)
    packed = PackedModel(lm, temperature=TEMPERATURE, vocab_chunk=48)
    reader = ImageReader(load_images(path, lm.config, None), lm.model.get_rope_index, 2)
    chat = load_chat(model)
    task = FiguresTask(
        FiguresConfig(
            name="figures",
            folder=str(folder),
            pixels=70,
            max_count=4,
            others=3,
            train_size=4,
            eval_size=1,
            seed=0,
        )
    )
    prompts = [task.prompt("train", index) for index in range(3)]
    prompts.append(replace(task.prompt("train", 3), media=()))  # text alone

    def difference():
        drawn = rollouts(engine, prompts, chat)
        [[batch]] = batching.score_batches(drawn, 1, 10_000)
        tensors = (
            batch.token_ids,
            batch.position_ids,
            batch.cu_seqlens.astype(np.int32),
            batch.predict,
            batch.target,
        )
        with torch.no_grad():
            found = packed(
                *map(torch.from_numpy, tensors), max_length=WINDOW, images=reader.inputs(batch)
            ).logprob
        expected = np.concatenate([drawn[row].rollout_logprob for row in batch.rows])
        return float(np.abs(found.numpy() - expected).max()), [
            rollout.token_ids.tolist() for rollout in drawn
        ]

    before, first = difference()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.add_(0.1 * parameter.std().nan_to_num() * torch.randn_like(parameter))
    engine.load_weights(1, list(fill_buckets(lm.named_parameters(), torch.float32)))
    after, second = difference()
    banned = [lm.config.image_token_id, lm.config.video_token_id]
    print(
        json.dumps(
            {"before": before, "after": after, "first": first, "second": second, "banned": banned}
        )
    )
    engine.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
