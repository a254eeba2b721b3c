"""The table of slots beside the files of conf/."""

from dataclasses import is_dataclass
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from isentropic.experiments.settings.slots import SLOTS

CONF = Path(__file__).resolve().parents[3] / "conf"


@pytest.mark.parametrize("slot", sorted(set(SLOTS) - {"terms"}))
def test_every_entry_can_be_chosen_and_every_choice_has_an_entry(slot):
    """A preset may be one of several of the same name; the presets of terms choose none of their own."""
    names = {OmegaConf.load(path).get("name") for path in (CONF / slot).glob("*.yaml")}
    assert names - {None} == set(SLOTS[slot])
    assert all(is_dataclass(entry) for entry in SLOTS[slot].values())


@pytest.mark.parametrize("slot", ["shaping", "reweight", "reuse", "steering"])
def test_slots_that_may_hold_state_are_built(slot):
    assert all(callable(entry.build) for entry in SLOTS[slot].values())


@pytest.mark.parametrize("slot", ["sampling", "filter", "advantage", "token_weight", "reduction"])
def test_the_others_are_what_the_config_holds(slot):
    assert not any(hasattr(entry, "build") for entry in SLOTS[slot].values())
