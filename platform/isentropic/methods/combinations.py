"""Combinations of slots that each make sense by themselves and none together."""

from typing import Any

from isentropic.methods.steering import first_coefficients


def check_combinations(config: Any) -> None:
    """Refuses them with the reason.

    Args:
        config: the whole run's, typed.

    Raises:
        ValueError: the first combination that has no meaning.
    """
    _keep_rules(config)
    _refilled(config)
    _one_controller(config)
    _steering(config)
    _moving_bounds(config)
    _kept_denominator(config)


def _keep_rules(config: Any) -> None:
    if config.filter.name == "keep_rules" and config.advantage.name != "normalised":
        raise ValueError(
            f"filter=keep_rules with advantage={config.advantage.name}: uec.keep_regular and "
            "uec.keep_explore count standard deviations, and these advantages are in reward units. "
            "Set advantage=normalised, or another filter."
        )


def _refilled(config: Any) -> None:
    """Refilling counts what the filter will drop, so both must judge by the task's reward."""
    judged_on = config.filter.name, getattr(config.filter, "on", None)
    if config.sampling.name != "refilled" or judged_on == ("drop_flat", "reward"):
        return
    chosen = f"filter={config.filter.name}"
    if config.shaping.name == "exploration":
        raise ValueError(
            f"sampling=refilled with shaping=exploration and {chosen}: sampling sees task rewards "
            "only, so it would refill for groups that the exploration reward lets pass. "
            "Set sampling=one_wave, or filter=drop_flat filter.on=reward."
        )
    raise ValueError(
        f"sampling=refilled with {chosen}: it draws until enough groups differ in the task's "
        "reward, and another filter drops others. "
        "Set filter=drop_flat filter.on=reward, or sampling=one_wave."
    )


def _one_controller(config: Any) -> None:
    """Two that follow the entropy would each answer for what the other did."""
    reweight, steering = config.reweight, config.steering.name
    controllers = [
        name
        for name, present in (
            (f"steering={steering}", steering != "none"),
            ("terms=adaptive_entropy", config.terms.adaptive_entropy is not None),
            (
                "reweight=polarity",
                reweight.name == "polarity" and reweight.alpha > 0 and reweight.signal != "off",
            ),
        )
        if present
    ]
    if len(controllers) > 1:
        raise ValueError(
            f"{' with '.join(controllers)}: each of them moves the entropy by what it measures, so "
            "neither could tell its own effect from the other's. Choose one. "
            "Off are steering=none, terms=none, reweight=none."
        )


def _steering(config: Any) -> None:
    """What is steered by must be measured, and the objective must have what is set."""
    steering = config.steering
    if steering.actuators and config.accounting.ledger.every == 0:
        raise ValueError(
            "steering=steered with accounting.ledger.every=0: coefficients are chosen from what the "
            "ledger measures. Set accounting.ledger.every=1 (every step), or steering=none."
        )
    if steering.name != "none":
        steering.build(first_coefficients(config))
    if steering.name == "entrocraft" and steering.form == "code" and steering.scores == "raw":
        task = config.task
        pays = getattr(task, "reward_right", 1.0), getattr(task, "reward_wrong", 0.0)
        if pays != (1.0, -1.0):
            raise ValueError(
                f"steering.scores=raw with task={task.name}, which pays {pays[0]:g} for a right "
                f"and {pays[1]:g} for a wrong answer: the code's form takes +1 and -1 as the "
                "advantages themselves. Set steering.scores=sign, or a task that pays so."
            )


def _moving_bounds(config: Any) -> None:
    """Bounds on the ratio bind only once an update has moved the policy."""
    moving = "steering=sign_bound" if config.steering.name == "sign_bound" else "objective=flexec"
    chosen = config.objective.name == "flexec" or config.steering.name == "sign_bound"
    if chosen and config.learner.updates_per_rollout == 1 and config.reuse.name == "none":
        raise ValueError(
            f"{moving} with learner.updates_per_rollout=1: every ratio is 1, so no bound ever "
            "binds and the method does nothing. Set learner.updates_per_rollout to 2 or more."
        )


def _kept_denominator(config: Any) -> None:
    """What is masked leaves the mean over tokens; in other means every response has one of its own."""
    objective, reduction, key = config.objective, config.reduction.name, "objective"
    while objective.name not in ("clip_b", "clip_v") and getattr(objective, "base", None):
        objective, key = objective.base, f"{key}.base"
    if getattr(objective, "denominator", None) == "kept" and reduction != "token_mean":
        raise ValueError(
            f"{key}.denominator=kept with reduction={reduction}: the tokens that {objective.name} drops are taken "
            "out of the mean over all tokens of a minibatch, and this one has others. Set "
            f"{key}.denominator=all, or reduction=token_mean."
        )
