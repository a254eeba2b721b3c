"""method=papo, oger and uec_rl: their sections reach the slots, compose, and refuse what has no meaning."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st

from isentropic.experiments.settings.load import load

CONF = Path(__file__).resolve().parents[3] / "conf"


def config(*overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return load(compose("config", ["cluster.address=auto", *overrides]))


def test_sections_reach_the_slots():
    assert config("method=papo", "papo.alpha=0.3", "objective=gspo").reweight.alpha == 0.3
    assert config("method=papo", "papo.h_ref=auto").reweight.h_ref == "auto"
    uec = config(
        "method=uec_rl",
        "uec.replay_every=null",
        "rollout.prompts_per_step=16",
        "rollout.group_size=4",
    )
    assert (uec.reuse.replay_every, uec.reuse.unit) == (None, (16, 4))
    assert (
        config("method=oger", "oger.offline.require_correct=false").shaping.require_correct is False
    )


@settings(max_examples=5, deadline=None)
@given(st.integers(1, 1000), st.data())
def test_the_band_of_entrocraft_falls_over_all_updates_of_the_run(steps, data):
    """(0.6, 0.7) - 0.5 k / T, k = step - 1: of one update the band is the first one alone."""
    done = data.draw(st.integers(0, steps - 1))
    band = config("method=entrocraft", f"run.steps={steps}").steering.band
    edges = (0.6 - 0.5 * done / steps, 0.7 - 0.5 * done / steps)
    assert band.at(1 + done) == pytest.approx(edges)
    code = config("method=entrocraft_code", f"run.steps={steps}").steering.band
    assert code.at(1 + done) == band.at(1 + done)


def test_a_schedule_of_one_s_own_means_what_it_says():
    edge = "{kind: linear, from_step: 1, to_step: 60, start: 0.38, end: 0.05}"
    band = config("method=entrocraft", "run.steps=60", f"steering.low={edge}").steering.band
    assert (band.at(1)[0], band.at(60)[0]) == (0.38, 0.05)


def test_rloo_as_published_sums_over_tokens_and_its_mean_is_named():
    published, mean = config("method=rloo"), config("method=rloo_mean")
    assert (published.reduction.name, mean.reduction.name) == ("sequence_sum", "sequence_mean")
    for one in (published, mean):
        assert (one.objective.name, one.advantage.name) == ("reinforce", "leave_one_out")


def test_a_mask_weighs_1_or_0_and_what_keeps_the_ratio_is_no_mask():
    kept = {
        choice: config(f"token_weight={choice}").token_weight.keep_ratio
        for choice in ("token_mask", "sequence_mask", "geometric_mask", "sequence_mis", "icepop")
    }
    assert [choice for choice, keeps in kept.items() if keeps] == ["sequence_mis", "icepop"]


def test_papo_and_uec_rl_compose():
    both = config("method=[papo,uec_rl]")
    slots = (both.sampling, both.filter, both.reweight, both.reuse)
    assert [slot.name for slot in slots] == [
        "second_wave",
        "keep_rules",
        "polarity",
        "queue_replay",
    ]
    assert (both.objective.name, both.objective.dual_clip, both.terms.kl.coef) == (
        "clip",
        3.0,
        0.01,
    )


def test_the_shaped_ratio_goes_over_the_chosen_objective():
    shaped = config("method=oger", "oger.offline.ratio=shaped", "objective=ce_gppo").objective
    assert (shaped.name, shaped.base.name, shaped.at(1)["offline_shape"]) == (
        "shaped_offline",
        "ce_gppo",
        0.1,
    )
    assert config("method=oger", "objective=ce_gppo").objective.name == "ce_gppo"


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["method=oger", "sampling=refilled"], "sampling sees task rewards only"),
        (["method=uec_rl", "advantage=centred"], "count standard deviations"),
        (
            ["method=papo", "reweight=none"],
            r"papo\.\* would do nothing: no slot reads it\. reweight=polarity would; chosen is "
            r"reweight=none\. Choose method=papo and no other reweight; or leave out method=papo",
        ),
        (["method=oger", "shaping=none"], "leave out method=oger"),
    ],
)
def test_what_has_no_meaning_is_refused(overrides, reason):
    with pytest.raises(ValueError, match=reason):
        config(*overrides)


@pytest.mark.parametrize(
    ("choice", "method"),
    [
        ("reweight=polarity", "papo"),
        ("sampling=second_wave", "uec_rl"),
        ("reuse=queue_replay", "uec_rl"),
        ("filter=keep_rules", "uec_rl"),
        ("shaping=exploration", "oger"),
    ],
)
def test_a_choice_that_takes_its_values_from_a_method_names_it(choice, method):
    with pytest.raises(ValueError, match=f"^{choice} takes its values from method={method}, which"):
        config(choice)
    assert config(f"method={method}", choice)


def test_tiny_experiments_are_the_demo_with_a_method():
    for name, slot in (("papo", "reweight"), ("oger", "shaping"), ("uec_rl", "reuse")):
        run = config(f"experiment={name}_tiny")
        assert run.run.name == f"{name}_tiny" and run.run.steps == 20
        assert getattr(run, slot).name != "none"
        assert run.learner.updates_per_rollout == 8


def test_geometry3k_has_the_published_settings():
    run = config("experiment=uec_rl_geometry3k", "task.path=geometry3k.jsonl")
    assert (run.task.image_column, run.model.path) == ("image", "Qwen/Qwen2.5-VL-7B-Instruct")
    assert run.model.image_pixels == (262_144, 4_194_304)
    assert (run.rollout.prompts_per_step, run.rollout.group_size, run.sampling.explore_size) == (
        512,
        5,
        20,
    )
    assert (run.sampling.explore_temperature, run.reuse.replay_every, run.terms.kl.coef) == (
        1.2,
        5,
        0.01,
    )
    assert (run.objective.clip_low, run.objective.clip_high, run.objective.dual_clip) == (
        0.2,
        0.2,
        3.0,
    )
    assert (run.learner.updates_per_rollout, run.learner.lr, run.learner.weight_decay) == (
        4,
        1e-6,
        0.01,
    )


def test_the_multi_turn_experiment_has_papo_and_a_calculator():
    run = config("experiment=papo_multi_turn_tiny")
    assert (run.task.name, run.task.max_turns, run.reweight.name) == ("calculator", 6, "polarity")
