"""Entrocraft on one group of four: what is kept, and with what advantage, in both forms."""

import json

import numpy as np
import pytest

from isentropic.batching import plan_updates, step_batches
from isentropic.methods.advantages import Normalised
from isentropic.methods.control.controller import Effects
from isentropic.methods.control.entrocraft import EntrocraftConfig
from isentropic.objectives.tokens.reductions import PerPrompt

GRPO = Normalised(name="normalised", std="unbiased")


def ramp(start, end):
    return {"kind": "linear", "from_step": 1, "to_step": 101, "start": start, "end": end}


def controller(**changes):
    values = {"name": "entrocraft", "form": "paper", "low": ramp(0.6, 0.1), "high": ramp(0.7, 0.2)}
    values |= {"min_kept": 0.0625, "denominator": "kept", "sign": "advantage", "scores": "sign"}
    return EntrocraftConfig(**{**values, **changes}).build({})


def choose(control, new, rewards, k, entropy=0.55, sensitivity=0.1):
    """Verdicts and advantages of one group, in the order of its rewards, and the metrics."""
    group = new.group(rewards)
    control.sense(k + 1, entropy)
    keys = [rollout.key for rollout in group.rollouts]
    values = GRPO(np.array(rewards, dtype=np.float64))
    advantages = dict(zip(keys, map(float, values), strict=True))
    sensitivities = np.broadcast_to(sensitivity, len(keys))
    scores = {
        key: new.scores(2, sensitivity=value)
        for key, value in zip(keys, sensitivities, strict=True)
    }
    choice = control.choose([group], advantages, dict.fromkeys(keys, "trained"), scores)
    kept = [choice.verdicts[key] == "trained" for key in keys]
    return kept, [choice.advantages[key] for key in keys], choice.metrics


SIGNS = (1.0, 1.0, -1.0, -1.0)
A = 0.8660254  # 1 / std of SIGNS


@pytest.mark.parametrize(
    ("k", "kept", "code"),
    [
        pytest.param(0, [0, 0, 1, 1], (0, 0, -1, -1), id="below (0.6, 0.7): the wrong ones"),
        pytest.param(20, [1, 1, 1, 1], (A, A, -A, -A), id="inside (0.5, 0.6): all"),
        pytest.param(60, [1, 1, 0, 0], (1, 1, 0, 0), id="above (0.3, 0.4): the right ones"),
    ],
)
def test_both_forms(k, kept, code, new):
    got, advantages, metrics = choose(controller(), new, SIGNS, k)
    assert got == kept
    assert advantages == pytest.approx([A, A, -A, -A], abs=1e-6)
    assert metrics["entrocraft/kept_frac"] == sum(kept) / 4
    assert metrics["entrocraft/weight"] == 4 / sum(kept)
    got, advantages, metrics = choose(controller(form="code"), new, SIGNS, k)
    assert got == [1, 1, 1, 1] and advantages == pytest.approx(code, abs=1e-6)
    assert metrics["entrocraft/weight"] == 1


def test_all_in_the_denominator(new):
    kept, advantages, metrics = choose(controller(denominator="all"), new, SIGNS, 60)
    assert kept == [1, 1, 1, 1] and advantages == pytest.approx([A, A, 0, 0], abs=1e-6)
    assert (metrics["entrocraft/kept_frac"], metrics["entrocraft/weight"]) == (0.5, 1)


@pytest.mark.parametrize(
    ("rewards", "kept", "pushes", "most"),
    [
        # A prompt's half of the loss goes to its only wrong answer, or to three of them.
        pytest.param(
            [(1.0, 1.0, 1.0, -1.0), (1.0, -1.0, -1.0, -1.0)],
            [[0, 0, 0, 1], [0, 1, 1, 1]],
            [-1.5 / 4, -0.5 / 12, -0.5 / 12, -0.5 / 12],
            4,
            id="one and three",
        ),
        # All right: kept with A = 0, so the prompt's half of the loss pushes nothing.
        pytest.param(
            [(1.0, 1.0, 1.0, 1.0), SIGNS],
            [[1, 1, 1, 1], [0, 0, 1, 1]],
            [0, 0, 0, 0, -A / 8, -A / 8],
            2,
            id="all right",
        ),
    ],
)
def test_by_prompts_as_in_equation_5(rewards, kept, pushes, most, new):
    """Two prompts of four at m = -1, two tokens per response: A / (prompts * |S| * 2) per token."""
    control = controller()
    control.sense(1, 0.55)
    groups = [new.group(values, draw=draw) for draw, values in enumerate(rewards)]
    advantages = {
        rollout.key: float(value)
        for group, values in zip(groups, rewards, strict=True)
        for rollout, value in zip(group.rollouts, GRPO(np.array(values)), strict=True)
    }
    choice = control.choose(groups, advantages, dict.fromkeys(advantages, "trained"), {})
    got = [[choice.verdicts[r.key] == "trained" for r in group.rollouts] for group in groups]
    assert got == kept
    assert choice.metrics["entrocraft/prompt_weight_max"] == most
    samples = [
        new.sample(rollout, choice.advantages[rollout.key])
        for group in groups
        for rollout in group.rollouts
        if choice.verdicts[rollout.key] == "trained"
    ]
    _, (weights,) = step_batches(
        step=1,
        samples=samples,
        plan=plan_updates(samples, 1),
        num_ranks=1,
        microbatch_tokens=8,
        reduction=PerPrompt(name="per_prompt", within="sequence_mean"),
        max_response_tokens=2,
        coefficients={},
    )
    by_token = [
        weight * float(one.advantage[0])
        for weight, one in zip(weights["loss_weight"], samples, strict=True)
    ]
    assert by_token == pytest.approx(pushes, abs=1e-6)


def test_a_prompt_that_lost_all_is_not_in_the_mean(new):
    """Its only response that passed the filter is right, at m = -1: one prompt is left of two."""
    control = controller()
    control.sense(1, 0.55)
    lost, left = new.group(SIGNS, draw=0), new.group(SIGNS, draw=1)
    verdicts = {r.key: "trained" for r in left.rollouts} | {lost.rollouts[0].key: "trained"}
    verdicts |= {r.key: "overlong" for r in lost.rollouts[1:]}
    advantages = {r.key: r.reward * A for group in (lost, left) for r in group.rollouts}
    choice = control.choose([lost, left], advantages, verdicts, {})
    assert choice.metrics["entrocraft/prompt_weight_max"] == 2 / 1 * 4 / 2


def test_groups_that_are_all_right(new):
    """The paper's form keeps them without effect, the code's form pushes them."""
    assert choose(controller(), new, (1.0,) * 4, 60)[:2] == ([1] * 4, [0.0] * 4)
    assert choose(controller(form="code"), new, (1.0,) * 4, 60)[1] == [1.0] * 4


def test_raw_scores_and_their_signs(new):
    rewards = (1.0, 0.0, 0.0, 1.0)
    assert choose(controller(form="code"), new, rewards, 0)[1] == [0, -1, -1, 0]
    partly = (1.0, 0.01, 0.5, 0.0)  # partial credit is not right
    assert choose(controller(form="code"), new, partly, 60)[1] == [1, 0, 0, 0]
    assert choose(controller(form="code"), new, partly, 0)[1] == [0, -1, -1, -1]
    raw = controller(form="code", scores="raw", min_kept=0.0)
    assert choose(raw, new, rewards, 0)[1] == [0, 0, 0, 0]  # nothing to learn from


@pytest.mark.parametrize("entropy", [0.6, 0.7])
def test_on_an_edge_all_are_kept(entropy, new):
    assert choose(controller(), new, SIGNS, 0, entropy)[0] == [1] * 4


def test_a_band_without_edges_changes_nothing(new):
    control = controller(low=0.0, high=None)
    for entropy in (0.0, 5.0):
        kept, advantages, metrics = choose(control, new, SIGNS, 60, entropy)
        assert kept == [1] * 4 and advantages == pytest.approx([A, A, -A, -A], abs=1e-6)
        assert metrics == {
            "entrocraft/kept_frac": 1.0,
            "entrocraft/weight": 1.0,
            "entrocraft/prompt_weight_max": 1.0,
        }


@pytest.mark.parametrize(
    ("min_kept", "unfiltered"), [(0.25, False), (0.26, True)], ids=["just enough", "too few"]
)
@pytest.mark.parametrize("form", ["paper", "code"])
def test_too_few_kept(form, min_kept, unfiltered, new):
    control = controller(form=form, min_kept=min_kept)
    rewards = (1.0, 1.0, 1.0, -1.0)  # one wrong answer of four, at m = -1
    kept, advantages, metrics = choose(control, new, rewards, 0)
    assert control.aim(1).saturated is unfiltered
    assert control.observe(1, 0.5, Effects(change=0.0, rest=0.0, slopes={})) == {
        "entrocraft/unfiltered": float(unfiltered)
    }
    assert metrics["entrocraft/kept_frac"] == 0.25
    if unfiltered:
        assert kept == [1] * 4 and advantages == pytest.approx([0.5] * 3 + [-1.5], abs=1e-5)


def test_drift_goes_by_the_sign_of_the_effect(new):
    """Above the band keep what lowers the entropy: A * sum S >= 0; with S < 0 that is A < 0."""
    sensitivity = [0.1, -0.1, 0.1, -0.1]
    control = controller(sign="drift")
    assert choose(control, new, SIGNS, 60, sensitivity=sensitivity)[0] == [1, 0, 0, 1]


def test_what_the_filter_dropped_stays_dropped(new):
    group = new.group(SIGNS)
    keys = [rollout.key for rollout in group.rollouts]
    control = controller()
    control.sense(1, 0.1)
    verdicts = dict(zip(keys, ["trained", "overlong", "overlong", "trained"], strict=True))
    advantages = dict(zip(keys, [A, A, -A, -A], strict=True))
    choice = control.choose([group], advantages, verdicts, {})
    assert [choice.verdicts[key] for key in keys] == [
        "against_target",
        "overlong",
        "overlong",
        "trained",
    ]
    assert choice.metrics["entrocraft/kept_frac"] == 0.5


def test_the_state_is_the_last_choice(new):
    one, other = controller(), controller()
    choose(one, new, SIGNS, 0)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert other.aim(1) == one.aim(1) and one.aim(1).mode == -1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"form": "both"}, "steering.form"),
        ({"low": 0.8, "high": 0.7}, "steering.low is 0.8"),
        ({"min_kept": 2}, "min_kept"),
        ({"denominator": "none"}, "denominator"),
        ({"denominator": "per_prompt"}, "steering.denominator=kept and reduction=per_prompt"),
        ({"sign": "s"}, "steering.sign"),
        ({"scores": "rank"}, "steering.scores"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        controller(**changes)
