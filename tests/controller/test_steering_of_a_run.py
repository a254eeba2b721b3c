"""A steered run: its betas change, stay in their box, and go on exactly after a resume."""

import math

import pytest

from isentropic.controller.actuators import Actuators

STEERED = ("method=ce_gppo_steered", "experiment=ce_gppo_tiny", "objective.clip_low=0.02",
           "objective.clip_high=0.02", "steering.target=1.5", "accounting.ledger.contexts=1.0")  # fmt: skip


def test_betas_move_and_stay_in_their_box(fake_run):
    run = fake_run(*STEERED).run()
    betas = [line["steer/beta1"] for step, line in run.lines.lines.items() if step]
    assert len(set(betas)) > 1
    assert all(0 <= beta <= 1 for beta in betas)
    assert run.lines.lines[3]["steer/target"] == 1.5


def test_updates_have_the_steered_coefficients(fake_run):
    run = fake_run(*STEERED, "steering.target=3.0")
    seen = []
    original = run.learner.update

    async def watched(batches):
        batch = batches[0]
        seen.append((batch.coefficients["beta1"], batch.term_coefficients["entropy_bonus"]))
        return await original(batches)

    run.learner.update = watched
    run.run()
    lines = [run.lines.lines[step] for step in range(1, 6)]
    chosen = [(line["steer/beta1"], line["steer/entropy_bonus"]) for line in lines]
    assert seen[1:] == chosen
    assert any(bonus > 0 for _, bonus in seen)


def test_a_bonus_that_is_not_in_the_loss_is_refused(make_config):
    with pytest.raises(ValueError, match=r"steering.actuators names entropy_bonus, which neither"):
        make_config("steering=steered", "accounting.ledger.every=1", "method=ce_gppo")


def test_a_resume_goes_on_exactly(fake_run):
    whole = fake_run(*STEERED, folder="whole").run().stable
    cut = fake_run(*STEERED, "run.steps=4", folder="cut")
    cut.run()
    resumed = fake_run(*STEERED, folder="cut")
    resumed.run(resume=True)
    for step in (5, 6):
        assert resumed.stable[step] == whole[step]


def test_without_books_there_is_nothing_to_steer_by(make_config):
    with pytest.raises(ValueError, match=r"accounting.ledger.every=0"):
        make_config(*STEERED, "accounting.ledger.every=0")
    config = make_config()
    effects = Actuators(config.objective, config.terms, ["beta1"], 0.9).measure([])
    assert all(map(math.isnan, (effects.rest, effects.slopes["beta1"])))


def test_an_objective_without_betas_is_refused(make_config):
    with pytest.raises(ValueError, match="which neither the objective nor the"):
        make_config("steering=steered", "accounting.ledger.every=1", "objective=dapo")
