"""Which statistic of the probe tells a wrong copy of the weights from bfloat16's noise?

    python benchmarks/probe.py [--probes 1000000] [--wrong 10000]

A probe is a few short samples that the engines draw right after a sync, and that the learner scores.

Noise: gaps between engine and learner are drawn from student's t with 2 degrees of freedom, whose
variance is infinite: one token in 5,000 is off by half a nat where the mean is 0.01. A mean of 0.064
has been reported for a mixture of experts.

Faults: the embedded model samples with wrong weights, scores with the right ones, and the noise
comes on top. Shifted: each tensor is off by one element. Permuted: two layers are exchanged. Stale:
the last layer is the share a of the way back to where its training began.

Prints, for each statistic, the largest value in all probes of noise, and the share of the faulty
probes that lie above the limit.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT / "platform")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from hydra import compose, initialize_config_dir  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM  # noqa: E402

from isentropic.controller.feed import PROBE_TOKENS  # noqa: E402
from isentropic.controller.probe import CAP  # noqa: E402
from isentropic.experiments.run.prepare import prepare  # noqa: E402
from isentropic.experiments.settings.load import load  # noqa: E402

NOISE = ((0.01, 32), (0.01, 16), (0.064, 32))  # nats of |gap| in the mean, and tokens of a probe
FREEDOM = 2
LIMIT = 0.3  # rollout.probe_tolerance of the models in bfloat16

STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "max": lambda gap: np.abs(gap).max(axis=1),
    "mean": lambda gap: np.abs(gap).mean(axis=1),
    "capped mean": lambda gap: np.minimum(np.abs(gap), CAP).mean(axis=1),
    "k3": lambda gap: (np.expm1(np.minimum(gap, 50)) - gap).mean(axis=1),
    "median": lambda gap: np.median(np.abs(gap), axis=1),
    "p99": lambda gap: np.percentile(np.abs(gap), 99, axis=1),
}


def noise(rng: np.random.Generator, mean: float, shape: tuple[int, ...]) -> np.ndarray:
    """Student's t, scaled to the mean size; that of t with 2 degrees of freedom is sqrt(2)."""
    return rng.standard_t(FREEDOM, shape) * (mean / np.sqrt(2))


def largest(mean: float, probes: int, tokens: int) -> dict[str, float]:
    """The largest value of each statistic in so many probes of noise."""
    rng = np.random.default_rng(0)
    found = dict.fromkeys(STATISTICS, 0.0)
    for begin in range(0, probes, 20_000):
        gap = noise(rng, mean, (min(20_000, probes - begin), tokens))
        for name, statistic in STATISTICS.items():
            found[name] = max(found[name], float(statistic(gap).max()))
    return found


def faults(path: str) -> Iterator[tuple[str, torch.nn.Module]]:
    """Models with wrong weights, by what is wrong."""

    def fresh() -> torch.nn.Module:
        return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    yield "right", fresh()
    shifted = fresh()
    for parameter in shifted.parameters():
        parameter.data = parameter.flatten().roll(1).view_as(parameter)
    yield "shifted", shifted
    permuted = fresh()
    layers = permuted.model.layers
    first, last = layers[0].state_dict(), layers[-1].state_dict()
    first = {name: value.clone() for name, value in first.items()}
    layers[0].load_state_dict(last)
    layers[-1].load_state_dict(first)
    yield "permuted", permuted
    torch.manual_seed(0)
    began = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
    for share in (1.0, 0.3, 0.1):
        stale = fresh()
        pairs = zip(
            stale.model.layers[-1].parameters(), began.model.layers[-1].parameters(), strict=True
        )
        for parameter, old in pairs:
            parameter.data = parameter + share * (old - parameter)
        yield f"stale {share:g}", stale


@torch.no_grad()
def gaps(
    wrong: torch.nn.Module, right: torch.nn.Module, prompts: torch.Tensor, end: int
) -> np.ndarray:
    """[N] learner - engine, in nats, of all tokens of one answer to each prompt."""
    tokens, done, rows = prompts, torch.zeros(len(prompts), dtype=torch.bool), []
    for _ in range(PROBE_TOKENS):
        engine, learner = (
            model(input_ids=tokens).logits[:, -1].log_softmax(-1) for model in (wrong, right)
        )
        drawn = torch.multinomial(engine.exp(), 1)
        gap = (learner - engine).gather(1, drawn)[:, 0]
        rows.append(gap[~done])
        done |= drawn[:, 0] == end
        tokens = torch.cat([tokens, drawn], dim=1)
    return torch.cat(rows).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--probes", type=int, default=1_000_000)
    parser.add_argument("--wrong", type=int, default=10_000)
    arguments = parser.parse_args()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        config = load(compose("config", ["run.name=probe"]))
    prepared = prepare(config)
    task, chat = prepared.task, prepared.chat
    ids = [chat.prompt_ids(task.prompt("eval", i)).tolist() for i in range(task.size("eval"))]
    length = max(set(map(len, ids)), key=[len(row) for row in ids].count)
    prompts = torch.tensor([row for row in ids if len(row) == length][:64]).repeat(8, 1)

    print(f"largest value in {arguments.probes:,} probes of noise")
    print(f"{'mean':>6} {'tokens':>6} " + " ".join(f"{name:>12}" for name in STATISTICS))
    for mean, tokens in NOISE:
        values = largest(mean, arguments.probes, tokens).values()
        print(f"{mean:6g} {tokens:6d} " + " ".join(f"{v:12.3g}" for v in values), flush=True)

    print(f"\nmedian of {arguments.wrong:,} probes, and the share of them above {LIMIT}")
    print(f"{'':13} " + " ".join(f"{name:>17}" for name in STATISTICS))
    rng, right = np.random.default_rng(1), None
    for name, model in faults(prepared.model.path):
        right = right or model
        pool = gaps(model, right, prompts, chat.eos_token_id)
        probes = rng.choice(pool, size=(arguments.wrong, 32))
        probes = probes + noise(rng, 0.01, probes.shape)
        found = [statistic(probes) for statistic in STATISTICS.values()]
        cells = [f"{np.median(each):8.3g} {(each > LIMIT).mean():8.4f}" for each in found]
        print(f"{name:13} " + " ".join(cells), flush=True)


if __name__ == "__main__":
    main()
