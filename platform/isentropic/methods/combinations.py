"""Combinations of slots that each make sense alone and none together."""

from typing import Any

from isentropic.methods.sampling import check_refilled


def check_combinations(config: Any) -> None:
    """Refuses them with the reason. `config` is the whole run's, typed.

    Raises:
        ValueError: the first combination that has no meaning.
    """
    _keep_rules(config)
    _refill(config)
    check_refilled(config.sampling, config.filter)


def _keep_rules(config: Any) -> None:
    if config.filter.name == "keep_rules" and config.advantage.name != "normalised":
        raise ValueError(
            f"filter=keep_rules with advantage={config.advantage.name}: uec.keep_regular and uec.keep_explore count "
            "standard deviations, and these advantages are in reward units. Set advantage=normalised, or another "
            "filter."
        )


def _refill(config: Any) -> None:
    judged_on = config.filter.name, getattr(config.filter, "on", None)
    if (config.sampling.name, config.shaping.name) != ("refilled", "exploration"):
        return
    if judged_on != ("drop_flat", "reward"):
        raise ValueError(
            f"sampling=refilled with shaping=exploration and filter={config.filter.name}: sampling sees task rewards "
            "alone, so it would refill for groups that the exploration reward lets teach. Set sampling=one_wave, or "
            "filter=drop_flat filter.on=reward."
        )
