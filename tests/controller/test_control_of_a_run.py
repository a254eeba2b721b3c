"""Entropy controllers in the loop: they act on the step that they sensed, and resume exactly."""

import numpy as np
import pytest

FLEXEC, CRAFT, CODE, ENTROPIC, BOUND, REPO = (
    [f"method={name}", "terms=none"]
    for name in ("flexec", "entrocraft", "entrocraft_code", "entropic", "sign_bound", "repo_r")
)
# The fake policy starts uniform over eight tokens: 2.08 nats, and falls.
OD = [*FLEXEC, "steering.schedule=od", "steering.floor_share=0.999"]
LOW = ["steering.low=3.0", "steering.high=4.0"]  # always below the band: m = -1
HIGH = ["steering.low=0.0", "steering.high=0.1"]


@pytest.mark.parametrize(
    "choice",
    [
        FLEXEC,
        OD,
        [*CRAFT, "steering.low=2.05", "steering.high=2.06"],
        [*CODE, "steering.low=2.05", "steering.high=2.06"],
        [*ENTROPIC, "steering.target=2.0"],
        [*BOUND, "steering.target=2.0"],
        REPO,
    ],
    ids=[
        "flexec",
        "flexec od",
        "entrocraft",
        "entrocraft_code",
        "entropic",
        "sign_bound",
        "repo_r",
    ],
)
def test_resume_is_exact(choice, fake_run):
    choice = [*choice, "checkpoint.every=2"]
    # The planned length of a run is a setting, and not how far this process goes.
    cut = ["run.steps=4", *(["steering.total_steps=6"] if "method=flexec" in choice else [])]
    whole = fake_run(*choice, folder="whole").run()
    fake_run(*choice, *cut, folder="cut").run()
    rest = fake_run(*choice, folder="cut").run(resume=True)
    assert min(rest.lines.lines) == 5
    for step in (5, 6):
        assert rest.stable[step] == whole.stable[step]
    np.testing.assert_array_equal(rest.learner.logits, whole.learner.logits)


def coefficients_of(run, name):
    """The coefficient that the learner got, per step."""
    seen, original = [], run.learner.update

    async def watched(batches):
        seen.append(batches[0].coefficients[name])
        return await original(batches)

    run.learner.update = watched
    run.run()
    return seen


def test_the_schedule_reaches_the_learner(fake_run):
    got = coefficients_of(fake_run(*FLEXEC), "up_weight")
    assert got == pytest.approx([1, 2 / 3, 1 / 3, 0, 0, 0])  # lambda = 1 - 2k/6


def test_od_acts_on_the_entropy_of_its_own_step(fake_run):
    run = fake_run(*OD)
    got = coefficients_of(run, "up_weight")
    lines = [run.lines.lines[step] for step in range(1, 7)]
    floor, raising = 0.999 * lines[0]["entropy/mean"], False
    for k, line in enumerate(lines):
        entropy = line["entropy/mean"]
        high = floor + (lines[0]["entropy/mean"] - floor) * (1 - k / 6)
        raising = True if entropy <= floor else False if entropy > high else raising
        assert line["flexec/up_weight"] == got[k] == float(raising)
    assert set(got) == {0.0, 1.0}, [line["entropy/mean"] for line in lines]


@pytest.mark.parametrize("method", ["steer", "clip_b", "clip_v", "aspo", "qae"])
def test_the_other_presets_run(method, fake_run):
    lines = fake_run(f"method={method}", "terms=none", "run.steps=2").run().lines.lines
    assert lines[2]["update/count"] > 0 and "control/target" not in lines[2]
    assert ("steer_weight/mean" in lines[2]) == (method == "steer")


def test_a_microbatch_of_steer_acts(fake_run):
    """With a largest change of its own every response is damped more than by that of all."""
    means = {
        size: fake_run("method=steer", "terms=none", "run.steps=1", f"objective.microbatch={size}")
        .run().lines.lines[1]["steer_weight/mean"]
        for size in ("1", "100000", "null")
    }  # fmt: skip
    assert means["1"] < means["null"] == means["100000"]


@pytest.mark.parametrize(("edges", "sign"), [(LOW, -1), (HIGH, 1)])
def test_one_sign_is_trained_on(edges, sign, fake_run):
    run = fake_run(*CRAFT, *edges)
    trained, original = [], run.learner.update

    async def watched(batches):
        trained.extend(batch.fields["advantage"] for part in batches[0].updates for batch in part)
        return await original(batches)

    run.learner.update = watched
    lines = run.run().lines.lines
    filtered = [lines[step] for step in range(1, 7) if not lines[step]["entrocraft/unfiltered"]]
    assert filtered and all(line["control/mode"] == sign for line in filtered)
    assert all((sign * values >= 0).all() for values in trained)
    for line in filtered:
        assert 0 < line["fate/against_target_frac"] < 1
        assert line["control/effective_batch"] == line["update/samples"]
        assert line["entrocraft/weight"] == pytest.approx(1 / line["entrocraft/kept_frac"])


def test_a_band_without_edges_is_the_base_method(fake_run):
    base = fake_run("method=grpo", folder="base").run()
    wide = fake_run(*CRAFT, "steering.low=0", "steering.high=null", folder="wide").run()
    np.testing.assert_array_equal(base.learner.logits, wide.learner.logits)
    assert "control/target" not in base.lines.lines[1]


def test_entrocraft_by_prompts(fake_run):
    """Prompts of one update keep different numbers of responses, so the two means train differently."""
    sizes = ["rollout.group_size=4", "learner.updates_per_rollout=1"]
    plain, by_prompt = (
        fake_run(*CRAFT, *LOW, *sizes, f"reduction={name}", folder=name).run()
        for name in ("sequence_mean", "per_prompt")
    )
    lines = [plain.lines.lines[step] for step in range(1, 7)]
    assert any(line["entrocraft/prompt_weight_max"] > line["entrocraft/weight"] for line in lines)
    assert not np.array_equal(plain.learner.logits, by_prompt.learner.logits)


def test_entropic_pushes_what_is_trained_on(fake_run):
    """Entropy 2.08 above a target of 0: alpha is 1, and what was punished does not count."""
    run = fake_run(*ENTROPIC, "steering.target=0").run()
    lines = [run.lines.lines[step] for step in range(1, 7)]
    assert all(
        line["entropic/alpha"] == 1 and line["control/saturated_frac"] == 1 for line in lines
    )
    assert all(line["control/effective_batch"] < line["update/samples"] for line in lines)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=entropic", "terms=adaptive_entropy"],
         "steering=entropic with terms=adaptive_entropy"),
        (["method=[flexec,papo]"], "steering=flexec with reweight=polarity"),
        (["method=papo", "terms=adaptive_entropy"],
         "terms=adaptive_entropy with reweight=polarity"),
        (["method=flexec", "objective=ce_gppo"], "steering=flexec sets up_weight, low_weight"),
        (["method=sign_bound", "objective=reinforce"], "steering=sign_bound sets clip_low"),
        (["method=flexec", "learner.updates_per_rollout=1"], "objective=flexec with learner.upd"),
        (["method=sign_bound", "learner.updates_per_rollout=1"], "steering=sign_bound with learn"),
        (["method=entrocraft_code", "steering.scores=raw"], "pays 1 for a right and 0 for a wrong"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(overrides, message, make_config):
    with pytest.raises(ValueError, match=message):
        make_config(*overrides)


def test_papo_without_its_signal_is_no_controller(make_config):
    make_config("method=[entropic,papo]", "papo.signal=off")
