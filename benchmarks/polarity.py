"""What the statistics beyond logprob and entropy cost, PAPO's polarity among them.

The old-policy pass with sensitivity, sum p^2 and sum s^2, against one with logprob and entropy alone, on the same
tokens, in turn.

    python benchmarks/polarity.py [--vocabulary 32768] [--hidden 512] [--layers 8] [--sequences 64] [--response 64]

One rank, a Qwen3 with random weights. Prints the best round of each (CPU time; on a GPU seconds), and
their ratio; the aim is < 1.05.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT / "platform")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from transformers import Qwen3Config, Qwen3ForCausalLM  # noqa: E402

from isentropic import batching  # noqa: E402
from isentropic.config import LearnerConfig, ModelConfig  # noqa: E402
from isentropic.learner.learner import Learner  # noqa: E402
from isentropic.objectives.ce_gppo import CeGppoConfig  # noqa: E402
from isentropic.objectives.tokens import heads, tile  # noqa: E402
from isentropic.objectives.tokens import statistics as token_statistics  # noqa: E402
from isentropic.records import Prompt, Rollout, RolloutKey  # noqa: E402

OBJECTIVE = CeGppoConfig(
    name="ce_gppo", ratio="token", clip_low=0.2, clip_high=0.2, beta1=0.5, beta2=1.0, dual_clip=None
)


class SumsWithoutPolarity(tile.Sums):
    """What logprob and entropy need of the running sums."""

    def add(self, logits, local_target):
        picked, inside = tile.pick(logits, local_target)
        self.picked = torch.where(inside, picked, self.picked)
        maximum = torch.maximum(self.maximum, logits.amax(-1))
        d = self.maximum - maximum
        self.s1, self.s0 = d.exp() * (self.s1 + d * self.s0), d.exp() * self.s0
        self.maximum = maximum
        shifted = logits.sub_(maximum[:, None])
        e = shifted.exp()
        self.s0 += e.sum(-1)
        self.s1 += torch.linalg.vecdot(e, shifted)


def whole_without_polarity(logits, target):
    logprobs = logits.log_softmax(-1)
    entropy = -torch.linalg.vecdot(logprobs.exp(), logprobs)
    logprob = logprobs.gather(1, target[:, None])[:, 0].clone()
    return logprobs, token_statistics.TokenStatistics(logprob, *[entropy] * 4)


WITH = {"choose_head": lambda *_: heads.TORCH, "_whole": token_statistics._whole}
WITHOUT = {
    "choose_head": lambda *_: heads.Head(SumsWithoutPolarity, tile.gradient),
    "_whole": whole_without_polarity,
}


def make_learner(folder: Path, given: argparse.Namespace) -> Learner:
    config = Qwen3Config(
        vocab_size=given.vocabulary,
        hidden_size=given.hidden,
        intermediate_size=3 * given.hidden,
        num_hidden_layers=given.layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=given.hidden // 8,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({}))
    values = yaml.safe_load((ROOT / "conf/learner/default.yaml").read_text())
    model = ModelConfig(
        name="random",
        path=str(folder),
        revision=None,
        max_length=4096,
        trust_remote_code=False,
        warm_start=None,
        image_pixels=None,
    )
    values |= {"num_ranks": 1, "microbatch_tokens": given.budget}
    return Learner(
        config=LearnerConfig(**values),
        model=model,
        objective=OBJECTIVE,
        temperature=1.0,
        total_updates=1,
    )


def make_rollout(draw: int, given: argparse.Namespace, rng: np.random.Generator) -> Rollout:
    tokens = int(rng.integers(given.response // 2, given.response + 1))
    return Rollout(
        key=RolloutKey("train", draw, 0, 0),
        prompt=Prompt(prompt_id="", messages=(), answer=""),
        token_ids=rng.integers(0, given.vocabulary, size=16 + tokens),
        turns=((16, 16 + tokens),),
        rollout_logprob=np.zeros(tokens, dtype=np.float32),
        temperature=1.0,
        seed=0,
        finish_reason="stop",
        step=1,
        policy_version=0,
    )


def seconds(learner: Learner, batches, functions: dict) -> float:
    for name, function in functions.items():
        setattr(token_statistics, name, function)
    clock = (
        time.perf_counter if torch.cuda.is_available() else time.process_time
    )  # other programs take no CPU time
    start = clock()
    learner.score(batches)  # its results are on the host when it returns
    return clock() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    defaults = {"vocabulary": 32768, "hidden": 512, "layers": 8, "sequences": 64, "response": 64}
    for name, value in (defaults | {"budget": 4096, "rounds": 5}).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    rollouts = [make_rollout(draw, given, rng) for draw in range(given.sequences)]
    batches = batching.score_batches(rollouts, 1, given.budget)[0]
    with tempfile.TemporaryDirectory() as folder:
        learner = make_learner(Path(folder), given)
        times: dict[str, list[float]] = {"with": [], "without": []}
        for number in range(given.rounds + 1):
            for name, functions in (("with", WITH), ("without", WITHOUT)):
                took = seconds(learner, batches, functions)
                if number:  # the first round warms up
                    times[name].append(took)
        learner.close()
    best = {name: min(values) for name, values in times.items()}
    tokens = sum(rollout.num_response_tokens for rollout in rollouts)
    print(
        f"old-policy pass, {tokens} response tokens, hidden {given.hidden}, vocabulary {given.vocabulary}:"
    )
    print(f"  with polarity     {1e3 * best['with']:9.1f} ms")
    print(f"  without           {1e3 * best['without']:9.1f} ms")
    print(f"  ratio             {best['with'] / best['without']:9.3f}")


if __name__ == "__main__":
    main()
