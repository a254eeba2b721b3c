"""Two presets that set one slot differently are refused, unless something that wins anyway settles it."""

import pytest

from isentropic.experiments.presets import as_names, conflicts, preset_values

CLIP = {"objective": "clip", "objective.clip_high": 0.28}
GPPO = {"objective": "ce_gppo", "filter": "drop_flat"}


def write(folder, **presets):
    for name, text in presets.items():
        (folder / f"{name}.yaml").write_text(text)


def test_values_of_a_preset(tmp_path):
    write(
        tmp_path,
        dapo="defaults:\n  - override /objective: clip\n  - _self_\nobjective: {clip_high: 0.28}\n",
        hot="defaults: [dapo, _self_]\nrollout: {temperature: 1.2}\n",
    )

    assert preset_values(tmp_path / "dapo.yaml") == CLIP
    assert preset_values(tmp_path / "hot.yaml") == {**CLIP, "rollout.temperature": 1.2}


def test_two_presets_that_differ_are_refused_with_both_names_and_the_slot():
    with pytest.raises(ValueError, match=r"method=dapo and method=gppo both set objective: 'clip' and 'ce_gppo'"):
        conflicts({"dapo": CLIP, "gppo": GPPO}, settled=set())


def test_two_presets_that_agree_compose():
    conflicts({"dapo": CLIP, "twin": dict(CLIP), "other": {"filter": "keep_all"}}, settled=set())


def test_the_command_line_settles_a_conflict_and_what_is_below_it():
    conflicts({"dapo": CLIP, "gppo": GPPO, "low": {"objective.clip_high": 0.2}}, settled={"objective"})


def test_another_key_settles_nothing():
    with pytest.raises(ValueError, match="objective"):
        conflicts({"dapo": CLIP, "gppo": GPPO}, settled={"filter", "objective.clip_high"})


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        pytest.param(None, [], id="none"),
        pytest.param("papo", ["papo"], id="one"),
        pytest.param(["papo", "uec_rl"], ["papo", "uec_rl"], id="several"),
    ],
)
def test_as_names(choice, names):
    assert as_names(choice) == names
