"""Run folders as a run leaves them: names of metrics from the functions that make them, values from a formula."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from isentropic.controller.storage.ledger import Batch, write_batch
from isentropic.metrics.accounting import mean_over_updates
from isentropic.metrics.classes import CLASSES
from isentropic.metrics.entropy import entropy_histogram, entropy_metrics
from isentropic.metrics.sinks.jsonl import JsonlSink
from isentropic.metrics.step_metrics import (
    mismatch_metrics,
    response_metrics,
    reward_metrics,
    staleness_metrics,
)
from isentropic.records import Group, Prompt, Rollout, RolloutKey

UPDATES = 8
NASTY = "<script>document.title='broken in'</script><img src=x onerror=alert(1)> $x_1$ & </pre>"


def config(name, *, seed=0, steps=20, beta1=0.5, beta2=1.0):
    return {
        "seed": seed,
        "run": {"name": name, "steps": steps, "dir": f"runs/{name}", "dry": False},
        "model": {"name": "tiny", "path": "embedded"},
        "task": {"name": "arithmetic"},
        "rollout": {"prompts_per_step": 64, "group_size": 8, "temperature": 1.0},
        "learner": {"updates_per_rollout": UPDATES, "lr": 5e-4},
        "evaluation": {"samples": 4, "every": 5, "prompts": 128},
        "filter": {"name": "drop_flat"},
        "objective": {
            "name": "ce_gppo",
            "clip_low": 0.2,
            "clip_high": 0.2,
            "beta1": beta1,
            "beta2": beta2,
        },
    }


def start_line(rng):
    metrics = {"policy_version": 0, "eval/entropy": 1.62}
    return metrics | evaluation(0, 0.2, rng)


def evaluation(version, avg, rng):
    avg = float(avg + 0.01 * rng.normal())
    pair = {"avg_at_k": avg, "pass_at_k": min(1.0, avg + 0.25)}
    own = {f"eval/arithmetic/{name}": value for name, value in pair.items()}
    return (
        own
        | {f"eval/{name}": value for name, value in pair.items()}
        | {"eval/policy_version": version}
    )


def step_line(step, steps, rng, *, beta1, beta2):
    """Entropy decays the faster, the larger beta1 and the smaller beta2."""
    done = step / steps
    entropy = 0.25 + 1.3 * math.exp(-(1.5 + beta1 - 0.5 * beta2) * done) + 0.01 * rng.normal()
    metrics = (
        mean_over_updates([]) | entropy_metrics([], {}) | reward_metrics([]) | response_metrics([])
    )
    metrics |= staleness_metrics([], step) | mismatch_metrics([], {}, 1.0)
    noise = 1 + 0.1 * rng.normal()
    predicted = -0.02 * math.exp(-2 * done) * noise
    shares = np.array([0.45, 0.12, 0.2, 0.18, 0.05]) + 0.02 * rng.random(5)
    metrics |= {
        f"grad_share/{name}": share
        for name, share in zip(CLASSES, shares / shares.sum(), strict=True)
    }
    metrics |= {
        f"drift/{name}": 20 * predicted * sign
        for name, sign in zip(CLASSES, (1.4, -0.3, -0.4, 0.3, 0), strict=True)
    }
    metrics |= {f"entropy/decile_{d}": entropy * (1.4 - 0.08 * d) for d in range(10)}
    return metrics | {
        "policy_version": UPDATES * (step - 1),
        "entropy/mean": entropy,
        "entropy/trained": entropy * 1.05,
        "entropy/histogram": entropy_histogram(rng.exponential(entropy, 500)),
        "entropy/predicted_change": predicted,
        "entropy/measured_change": 0.6 * predicted + 0.001 * rng.normal(),
        "entropy/measured_change_se": 0.002,
        "entropy/prediction_correlation": 0.9 if step > 2 else float("nan"),
        "reward/mean": 0.2 + 0.6 * (1 - math.exp(-3 * done)) + 0.02 * rng.normal(),
        "reward/std": 0.4,
        "group/all_right_frac": 0.4 * done,
        "group/all_wrong_frac": 0.5 * (1 - done),
        "response/tokens_mean": 12 + 4 * done,
        "clip/low_frac": 0.006 * noise,
        "clip/high_frac": 0.004 * noise,
        "clip/frac": 0.01 * noise,
        "lp_given_low": 0.8,
        "lp_given_high": 0.9,
        "grad_share/low": 0.02 * beta1 * noise,
        "grad_share/high": 0.015 * beta2 * noise,
        "drift/total": 20 * predicted,
        "kl/k1": 2e-4 * noise,
        "kl/k3": 3e-4 * noise,
        "ratio/p01": 0.9,
        "ratio/p50": 1.0,
        "ratio/p99": 1.1,
        "ratio/max": 1.5 * noise,
        "grad_norm/mean": 0.4 * noise,
        "grad_norm/max": 0.7 * noise,
        "mismatch/logprob_abs_max": 3e-6 * abs(noise),
        "mismatch/logprob_abs_mean": 4e-7,
        "sync/probe_logprob_abs_max": 2e-6,
        **{f"cf/{label}/cosine": value for label, value in (("ppo", 0.97), ("dapo", 0.975), ("cispo", 0.99))},
        **{f"time/{phase}_s": 0.3 for phase in ("reward", "old_logprob", "recheck", "sync", "wait", "other")},
        "time/rollout_s": 2 + 0.2 * rng.random(),
        "time/update_s": 1.1,
        "time/step_s": 4.6,
        "throughput/rollout_tok_s": 2500.0,
        "throughput/learner_tok_s": 5200.0,
    }  # fmt: skip


def rollout(draw, sample, reward, tokens):
    prompt = Prompt(
        prompt_id=f"p{draw}",
        messages=({"role": "user", "content": f"{draw} + 1 = ?"},),
        answer=str(draw + 1),
    )
    return Rollout(
        key=RolloutKey("train", draw, 0, sample),
        prompt=prompt,
        token_ids=np.arange(3 + tokens),
        turns=((3, 3 + tokens),),
        rollout_logprob=np.full(tokens, -0.5, dtype=np.float32),
        temperature=1.0,
        seed=sample,
        finish_reason="stop",
        step=1,
        policy_version=0,
        reward=reward,
    )


def write_ledger(folder, step=1):
    """Draw 0 is flat and right, draw 1 flat and wrong, draw 2 mixed; the longest response is draw 2's last."""
    rewards = {0: (1.0, 1.0, 1.0), 1: (0.0, 0.0, 0.0), 2: (1.0, 0.0, 0.0)}
    groups = []
    for draw, own in rewards.items():
        rows = tuple(rollout(draw, i, reward, 4 + 10 * draw + i) for i, reward in enumerate(own))
        groups.append(Group(draw=draw, prompt=rows[0].prompt, rollouts=rows))
    teacher = replace(
        rollout(1, 3, 1.0, 5), origin="teacher:solver"
    )  # right, where nobody else was
    batch = Batch(
        step=step, groups=tuple(groups), next_draw=3, source_step=0, policy_version=0, reward_errors=0,
        teachers=(teacher,),
    )  # fmt: skip
    texts = {row.key: [f"{NASTY} from {row.key.draw}-{row.key.sample}"] for row in batch.rollouts}
    write_batch(folder, batch, texts)


def books_line(entropy, before, rng):
    """Books of a step in which NA&LP and PA&HP pull down; they add up to the measured change."""
    now = {"pa_hp": -0.002, "pa_lp": 0.0005, "na_hp": 0.001, "na_lp": -0.003, "zero_adv": 0.0}
    now = {name: value * (1 + 0.1 * rng.normal()) for name, value in now.items()}
    measured, residual = entropy - before, 1e-5
    momentum = measured - residual - sum(now.values())
    line = {f"ledger/{name}": value for name, value in now.items()}
    line |= {f"ledger/impulse/{name}": 10 * value for name, value in now.items()}
    line |= {"ledger/impulse/low": 0.002, "ledger/impulse/high": -0.001, "ledger/low": 0.0002}
    line |= {"ledger/source/new": sum(now.values()), "ledger/explained": 0.9998}
    parts = {"measured": measured, "momentum": momentum, "decay": 0.0, "residual": residual}
    return line | {f"ledger/{name}": value for name, value in parts.items()}


def make_run(
    folder, *, steps=20, done=None, seed=0, beta1=0.5, beta2=1.0, alarm=None, ledger=False, books=0
):
    """`done`: steps so far (None: all; -1: not even line 0). `alarm`: the step at which one is raised.
    `books`: every how many steps are measured (0: none)."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        yaml.safe_dump(config(folder.name, seed=seed, steps=steps, beta1=beta1, beta2=beta2))
    )
    about = {
        "started": "2026-01-02T03:04:05+00:00",
        "git": {"commit": "0123456789abcdef", "dirty": True},
    }
    (folder / "environment.json").write_text(json.dumps(about))
    done = steps if done is None else done
    rng = np.random.default_rng([seed, round(100 * beta1), round(100 * beta2)])
    sink = JsonlSink(folder)
    if done >= 0:
        sink.log(0, start_line(rng))
    before = 1.55
    for step in range(1, done + 1):
        line = step_line(step, steps, rng, beta1=beta1, beta2=beta2)
        if step % 5 == 0:
            line |= evaluation(UPDATES * step, 0.2 + 0.5 * step / steps, rng)
        if books and step % books == 0:
            line |= books_line(line["entropy/mean"], before, rng)
        before = line["entropy/mean"]
        sink.log(step, line)
    if alarm is not None:
        record = {
            "step": alarm,
            "rule": "entropy_collapse",
            "state": "raised",
            "level": "warning",
            "action": "stop",
        }
        record |= {
            "metric": "entropy/mean",
            "message": "entropy collapse: entropy/mean is 0.1 nats, below 0.2 nats",
        }
        sink.log_alarm(record)
    sink.close()
    if ledger:
        (folder / "rollouts").mkdir()
        write_ledger(folder / "rollouts")
    return folder


def make_sweep(folder, *, steps=10, beta1=(0.0, 0.5, 1.0), beta2=(0.5, 1.0), seeds=(0, 1)):
    for first in beta1:
        for second in beta2:
            for seed in seeds:
                make_run(
                    folder / f"b1_{first}-b2_{second}-s_{seed}",
                    steps=steps,
                    seed=seed,
                    beta1=first,
                    beta2=second,
                )
    return folder


@pytest.fixture(scope="session")
def make():
    return SimpleNamespace(run=make_run, sweep=make_sweep, ledger=write_ledger, nasty=NASTY)
