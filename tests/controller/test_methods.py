"""PAPO, OGER, UEC-RL in the loop: off is the base method, resume is exact, they compose."""

import shutil
from itertools import product

import numpy as np
import pyarrow.parquet as pq
import pytest

from isentropic.methods.oger.teachers import TeacherResponse, write_teachers

PAPO, OGER, UEC = (
    ["method=papo"],
    ["method=oger", "oger.cache=null"],
    ["method=uec_rl", "terms=none"],
)
REPLAYING = [
    "uec.replay_every=2",
    "uec.replay_threshold=0",
    "uec.keep=released",
    "uec.explore_size=4",
]
UEC_OFF = [
    "uec.explore_size=0",
    "uec.queue=false",
    "uec.overlong_filter=false",
    "uec.replay_every=null",
]


@pytest.mark.parametrize(
    ("base", "off"),
    [
        ([], [*PAPO, "papo.alpha=0"]),
        ([], [*PAPO, "papo.signal=off"]),
        (["objective=clip", "filter=keep_all"], [*OGER, "oger.coef=0", "oger.teachers=null"]),
        (["objective=clip_dual"], [*UEC, *UEC_OFF]),
    ],
    ids=["papo alpha 0", "papo off", "oger without teachers", "uec_rl all off"],
)
def test_switched_off_it_is_the_base_method(base, off, fake_run):
    plain, method = fake_run(*base, folder="base").run(), fake_run(*off, folder="off").run()
    np.testing.assert_array_equal(plain.learner.logits, method.learner.logits)
    got = method.stable
    for step, line in plain.stable.items():
        assert {key: got[step].get(key) for key in line} == line


@pytest.mark.parametrize(
    "method",
    [[*PAPO, "papo.signal=trend"], [*UEC, *REPLAYING]],
    ids=["papo", "uec_rl"],
)
def test_resume_is_exact(method, fake_run):
    whole = fake_run(*method, "checkpoint.every=2", folder="whole").run()
    first = fake_run(*method, "run.steps=4", "checkpoint.every=2", folder="cut").run()
    rest = fake_run(*method, "checkpoint.every=2", folder="cut").run(resume=True)
    expected = whole.stable
    for step in (5, 6):
        assert rest.stable[step] == expected[step]
    if method[0] == UEC[0]:
        assert expected[6]["uec/replayed"] != "0.0"
    assert min(rest.lines.lines) == 5 and max(first.lines.lines) == 4
    np.testing.assert_array_equal(rest.learner.logits, whole.learner.logits)


def test_uec_rl_explores_and_replays(fake_run):
    lines = fake_run(*UEC, *REPLAYING, "run.steps=8").run().lines.lines
    steps = [lines[step] for step in range(1, 9)]
    assert sum(line["uec/hard_prompts"] for line in steps) > 0
    assert all(line["uec/explored"] == 4 * line["uec/hard_prompts"] for line in steps)
    assert sum(line["uec/kept_explore_positive"] for line in steps) > 0
    assert [line["uec/queue_size"] < 16 for line in steps] == [True] * 8
    assert all(line["uec/replayed"] == 0 for line in steps[0::2])
    replays = [line for line in steps if line["uec/replayed"]]
    assert replays and {line["uec/replayed"] for line in replays} <= {
        16,
        32,
    }  # units of 4 prompts of 4
    for line in replays:
        trained = line["update/samples"] + line["uec/replayed"]
        assert (
            line["update/count"] <= trained // 16 * 2
        )  # two a unit; fewer where there are fewer prompts
        assert line["replay/entropy_before"] != line["replay/entropy_after"]
    assert all("replay/entropy_before" not in line for line in steps if not line["uec/replayed"])


@pytest.fixture
def teachers(tmp_path):
    path = tmp_path / "teachers.jsonl"
    rows = [
        TeacherResponse(prompt_id=f"train-{i}", teacher="ones", text="11", reward=1.0)
        for i in range(20)
    ]
    write_teachers(path, rows)
    return f"oger.teachers={path}"


def test_the_ledger_has_the_teachers_and_gives_them_back(fake_run, teachers, tmp_path):
    """A run that finds its steps in the ledger trains on the recorded teachers, not the file's."""
    choice = ["method=oger", "oger.cache=null", teachers, "run.steps=2"]
    first, again = fake_run(*choice, folder="first"), fake_run(*choice, folder="again")
    for run in (first, again):
        run.learner.logits[1] = (
            1.0  # the mean probability of '11' and the end is not that of '1111' and the end
        )
    rows = pq.read_table(first.run().folder / "rollouts" / "step_000001.parquet").to_pylist()
    assert [row["response"] for row in rows if row["origin"] == "teacher:ones"] == [["11"]] * 4
    shutil.copytree(first.folder / "rollouts", again.folder / "rollouts")
    others = [
        TeacherResponse(prompt_id=f"train-{i}", teacher="ones", text="1111", reward=1.0)
        for i in range(20)
    ]
    write_teachers(tmp_path / "teachers.jsonl", others)
    old, new = first.lines.lines[1], again.run().lines.lines[1]
    assert new["oger/offline_prob_mean"] == old["oger/offline_prob_mean"]


FEW = [
    (False, "clip", False, True),
    (True, "ce_gppo", False, False),
    (True, "gspo", True, True),
    (False, "ce_gppo", True, False),
]
COMPOSITIONS = [
    pytest.param(*choice, marks=() if choice in FEW else pytest.mark.slow)
    for choice in product([False, True], ["ce_gppo", "clip", "gspo"], [False, True], [False, True])
]


@pytest.mark.parametrize(("papo", "objective", "uec", "oger"), COMPOSITIONS)
def test_every_composition_runs_two_steps(papo, objective, uec, oger, fake_run, teachers):
    methods = [name for name, chosen in (("papo", papo), ("oger", oger), ("uec_rl", uec)) if chosen]
    overrides = [
        f"method=[{','.join(methods)}]",
        f"objective={objective}",
        "terms=none",
        "run.steps=2",
    ]
    overrides += [f"filter={'keep_rules' if uec else 'keep_all' if oger else 'drop_flat'}"]
    overrides += [teachers, "oger.cache=null"] if oger else []
    overrides += ["uec.explore_size=4"] if uec else []
    lines = fake_run(*overrides).run().lines.lines
    assert sorted(lines) == [0, 1, 2]
    assert ("papo/u" in lines[2], "oger/bonus_mean" in lines[2], "uec/queue_size" in lines[2]) == (
        papo,
        oger,
        uec,
    )
    if oger:
        assert lines[2]["oger/teacher_groups_frac"] == 1.0


def test_truncated_sampling_is_no_mismatch(fake_run):
    """top-p changes what the engine's logprobs are of; the probe is drawn without it."""
    lines = fake_run("rollout.top_p=0.5", "run.steps=2").run().lines.lines
    assert all(np.isnan(lines[step]["mismatch/logprob_abs_max"]) for step in (0, 1, 2))
    assert lines[2]["sync/probe_logprob_abs_max"] < 1e-6
