"""The learner's tokens per second against a bare torch loop over the same packed batch, in one process, in turn.

    python benchmarks/learner.py [--model FOLDER] [--dtype bfloat16] [--sequences 256] [--response 32] [--budget 4096]

The bare loop has the same packed attention and AdamW, and nothing else: no FSDP, no entropy, no sensitivity, whole
logits and a log_softmax. Both make one optimizer step a round; the ratio is that of the best rounds.
"""

import argparse
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1] / "platform")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from isentropic import batching  # noqa: E402
from isentropic.config import LearnerConfig, ModelConfig  # noqa: E402
from isentropic.learner.estimate import flops_per_token  # noqa: E402
from isentropic.learner.learner import Learner  # noqa: E402
from isentropic.learner.model import load_model, read_config  # noqa: E402
from isentropic.models import tiny as tiny_model  # noqa: E402
from isentropic.objectives.ce_gppo import CeGppoConfig  # noqa: E402
from isentropic.objectives.loss.leaves import step_loss  # noqa: E402
from isentropic.objectives.tokens.reductions import TokenMean  # noqa: E402
from isentropic.records import (  # noqa: E402
    MicroBatch,
    Prompt,
    Rollout,
    RolloutKey,
    Sample,
    StepBatch,
    TokenScores,
)

OBJECTIVE = CeGppoConfig(
    name="ce_gppo", ratio="token", clip_low=0.2, clip_high=0.2, beta1=0.5, beta2=1.0, dual_clip=None
)


def learner_config(options: argparse.Namespace) -> LearnerConfig:
    return LearnerConfig(
        num_ranks=1,
        updates_per_rollout=1,
        microbatch_tokens=options.budget,
        dtype=options.dtype,
        lr=1e-4,
        lr_schedule="constant",
        warmup_updates=0,
        weight_decay=0.0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_eps=1e-8,
        max_grad_norm=1.0,
        max_skipped_updates=1,
        gradient_checkpointing=getattr(options, "checkpointing", False),
        compile=options.compile,
        vocab_chunk=options.vocab_chunk,
        unsharded_gradient_gib=4.0,
        balance="tokens",
        head="auto",
        timeout_s=600.0,
        collective_timeout_s=600.0,
        replicas=1,
        context_parallel=1,
        deterministic=getattr(options, "deterministic", False),
    )


def make_batch(options: argparse.Namespace, vocabulary: int) -> StepBatch:
    """Prompts of 16 tokens and responses of half to all of `--response`, packed for one rank."""
    rng = np.random.default_rng(0)
    samples = []
    for draw in range(options.sequences):
        tokens = int(rng.integers(options.response // 2, options.response + 1))
        old = rng.normal(-2, 1, tokens).astype(np.float32)
        rollout = Rollout(
            key=RolloutKey("train", draw, 0, 0),
            prompt=Prompt(prompt_id="", messages=(), answer=""),
            token_ids=rng.integers(0, vocabulary, 16 + tokens),
            turns=((16, 16 + tokens),),
            rollout_logprob=old,
            temperature=1.0,
            seed=0,
            finish_reason="stop",
            step=1,
            policy_version=0,
            reward=0.0,
        )
        scores = TokenScores(logprob=old, entropy=old, sensitivity=old, sum_p2=old)
        advantage = np.full(tokens, rng.normal(), dtype=np.float32)
        samples.append(
            Sample(
                rollout=rollout,
                old=scores,
                advantage=advantage,
                token_weight=np.ones(tokens, dtype=np.float32),
            )
        )
    return batching.step_batches(
        step=1,
        samples=samples,
        plan=batching.plan_updates(samples, 1),
        num_ranks=1,
        microbatch_tokens=options.budget,
        reduction=TokenMean,
        max_response_tokens=options.response,
        coefficients=OBJECTIVE.at(1),
    )[0][0]


class BareLoop:
    """Forward, log_softmax, loss, backward, clip, AdamW."""

    def __init__(self, model: ModelConfig, dtype: torch.dtype, device: str) -> None:
        self.lm = load_model(model).to(device)
        self.optimizer = torch.optim.AdamW(
            self.lm.parameters(), lr=1e-4, weight_decay=0.0, fused=True
        )
        self.device = device
        self.cast = torch.autocast(device, dtype) if dtype != torch.float32 else nullcontext()

    def update(self, microbatches: tuple[MicroBatch, ...]) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        for batch in microbatches:
            fields = {name: self._to(value) for name, value in batch.fields.items()}
            fields["logprob"] = self._logprob(batch)
            step_loss(OBJECTIVE, OBJECTIVE.at(1), fields).loss.sum().backward()
        norm = torch.nn.utils.clip_grad_norm_(self.lm.parameters(), 1.0)
        self.optimizer.step()
        return float(norm)

    def _logprob(self, batch: MicroBatch) -> Tensor:
        bounds = self._to(batch.cu_seqlens).int()
        longest = int(np.diff(batch.cu_seqlens).max())
        with self.cast:
            hidden = self.lm.model(
                input_ids=self._to(batch.token_ids)[None],
                position_ids=self._to(batch.position_ids)[None],
                use_cache=False,
                cu_seq_lens_q=bounds,
                max_length_q=longest,
            ).last_hidden_state[0]
            logits = self.lm.lm_head(hidden[self._to(batch.predict)])
        return logits.float().log_softmax(-1).gather(1, self._to(batch.target)[:, None])[:, 0]

    def _to(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", help="a Hugging Face folder; default: the embedded sizes, random weights"
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--sequences", type=int, default=256)
    parser.add_argument("--response", type=int, default=32)
    parser.add_argument("--budget", type=int, default=4096)
    parser.add_argument("--vocab-chunk", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.model is None:
            sizes = tiny_model.TinySizes(
                hidden_size=128,
                intermediate_size=384,
                num_layers=2,
                num_heads=4,
                num_kv_heads=2,
                head_dim=32,
                window=512,
            )
            tokenizer = tiny_model.build_tokenizer()
            tiny_model.save(Path(folder), tiny_model.build_model(sizes, tokenizer), tokenizer)
        compare(options, options.model or folder)


def compare(options: argparse.Namespace, path: str) -> None:
    model = ModelConfig(
        name="benchmark",
        path=path,
        revision=None,
        max_length=64,
        trust_remote_code=False,
        warm_start=None,
        image_pixels=None,
    )
    config = read_config(model)
    batch = make_batch(options, config.vocab_size)
    (microbatches,) = batch.updates
    tokens = sum(len(packed.token_ids) for packed in microbatches)
    learner = Learner(
        config=learner_config(options),
        model=model,
        objective=OBJECTIVE,
        temperature=1.0,
        total_updates=10**6,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bare = BareLoop(model, getattr(torch, options.dtype), device)
    best = {"learner": float("inf"), "bare": float("inf"), "score": float("inf")}
    for _ in range(options.rounds):
        for name, work in (
            ("learner", lambda: learner.update(batch)),
            ("bare", lambda: bare.update(microbatches)),
            ("score", lambda: learner.score(microbatches)),
        ):
            start = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            best[name] = min(best[name], time.perf_counter() - start)
    print(
        f"{tokens} tokens in {len(microbatches)} microbatches, {torch.get_num_threads()} threads, {device}"
    )
    for name, seconds in best.items():
        print(f"{name:8} {tokens / seconds:12,.0f} tokens/s   {1e3 * seconds:9.1f} ms")
    flops = flops_per_token(config, tokens / options.sequences)
    print(f"learner: {flops * tokens / best['learner'] / 1e9:,.1f} model GFLOP/s")
    print(f"ratio learner / bare: {best['bare'] / best['learner']:.3f}")
    learner.close()


if __name__ == "__main__":
    main()
