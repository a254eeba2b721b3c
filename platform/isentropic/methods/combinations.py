"""Combinations of slots that each make sense by themselves and none together."""

from typing import Any


def check_combinations(config: Any) -> None:
    """Refuses them with the reason.

    Args:
        config: the whole run's, typed.

    Raises:
        ValueError: the first combination that has no meaning.
    """
    _keep_rules(config)
    _refilled(config)
    _steering(config)


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


def _steering(config: Any) -> None:
    """What is steered by must be measured, and the objective must have it."""
    if not config.steering.actuators:
        return
    if config.accounting.ledger.every == 0:
        raise ValueError(
            "steering=steered with accounting.ledger.every=0: coefficients are chosen from what the "
            "ledger measures. Set accounting.ledger.every=1 (every step), or steering=none."
        )
    config.steering.build(config.objective.at(1))
