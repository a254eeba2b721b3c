"""Slots that have no meaning together are refused with the reason."""

from types import SimpleNamespace as Slot

import pytest

from isentropic.methods.combinations import check_combinations
from isentropic.objectives.terms import TermsConfig


def run(**changes):
    slots = {
        "filter": Slot(name="keep_all"), "advantage": Slot(name="normalised"), "sampling": Slot(name="one_wave"),
        "shaping": Slot(name="exploration"), "steering": Slot(name="none", actuators={}),
        "reweight": Slot(name="none"), "terms": TermsConfig(name="none"), "reuse": Slot(name="none"),
        "reduction": Slot(name="token_mean"), "objective": Slot(name="clip"), "learner": Slot(updates_per_rollout=2),
    }  # fmt: skip
    return Slot(**(slots | changes))


def test_sensible_ones_pass():
    check_combinations(run())
    check_combinations(run(filter=Slot(name="keep_rules"), sampling=Slot(name="second_wave")))
    check_combinations(
        run(filter=Slot(name="drop_flat", on="reward"), sampling=Slot(name="refilled"))
    )


@pytest.mark.parametrize(
    ("name", "on", "allowed"),
    [
        ("drop_flat", "reward", True),
        ("drop_flat", "shaped_reward", False),
        ("keep_all", None, False),
    ],
)
def test_refilled_goes_with_drop_flat_on_the_task_reward(name, on, allowed):
    chosen = {"filter": Slot(name=name, on=on), "shaping": Slot(name="none")}
    check_combinations(run(**chosen))
    if allowed:
        check_combinations(run(**chosen, sampling=Slot(name="refilled")))
    else:
        with pytest.raises(
            ValueError, match=r"sampling=refilled with filter=.* Set filter=drop_flat"
        ):
            check_combinations(run(**chosen, sampling=Slot(name="refilled")))


@pytest.mark.parametrize("on", ["shaped_reward", None])
def test_refill_judged_on_shaped_rewards(on):
    chosen = Slot(name="drop_flat", on=on) if on else Slot(name="keep_all")
    with pytest.raises(ValueError, match="sampling sees task rewards only"):
        check_combinations(run(sampling=Slot(name="refilled"), filter=chosen))


def test_keep_rules_count_standard_deviations():
    with pytest.raises(ValueError, match="count standard deviations"):
        check_combinations(run(filter=Slot(name="keep_rules"), advantage=Slot(name="centred")))


def test_steering_needs_measured_steps():
    ledger = Slot(ledger=Slot(every=0))
    steered = Slot(name="steered", actuators={"beta1": [0.0, 1.0]})
    with pytest.raises(ValueError, match=r"accounting\.ledger\.every=0.*steering=none"):
        check_combinations(run(steering=steered, accounting=ledger))


@pytest.mark.parametrize("name", ["clip_b", "clip_v"])
def test_tokens_leave_the_mean_over_tokens_only(name):
    kept, every = (Slot(name=name, denominator=choice) for choice in ("kept", "all"))
    check_combinations(run(objective=kept))
    check_combinations(run(objective=every, reduction=Slot(name="sequence_mean")))
    with pytest.raises(ValueError, match=r"denominator=kept with reduction=sequence_mean"):
        check_combinations(run(objective=kept, reduction=Slot(name="sequence_mean")))
    over = Slot(name="steer", base=kept)
    with pytest.raises(ValueError, match=r"objective\.base\.denominator=kept"):
        check_combinations(run(objective=over, reduction=Slot(name="per_prompt")))
