"""Who may use a run's folder, and what the run keeps in it."""

import json

import pytest
from omegaconf import OmegaConf

from isentropic.config import ResumeConfig, with_current_keys
from isentropic.experiments.run.folder import (
    changed_keys,
    check_data,
    check_run_folder,
    remove_torn,
    write_data,
    write_run_folder,
)
from isentropic.tasks.arithmetic import ArithmeticConfig, ArithmeticTask
from isentropic.tasks.data.digest import DataDigest


class Run:
    """What the run folder asks of a config."""

    task = objective = None  # nothing of the user's own is in them

    def __init__(self, folder, mode="never", allow_changes=()):
        self.run = OmegaConf.create({"dir": str(folder)})
        self.resume = ResumeConfig(mode=mode, allow_changes=allow_changes)


CFG = OmegaConf.create(
    {
        "seed": 0,
        "run": {"steps": 9, "name": "${who}", "date": None},
        "who": "a",
        "tracking": {"wandb": "auto"},
        "steering": {"name": "none"},
    }
)
# The keys of rollout/ that came later: who records that section at all today, has them.
ROLLOUT = with_current_keys({"rollout": {}})["rollout"]
OTHER = OmegaConf.merge(CFG, {"seed": 1, "run": {"steps": 20}, "tracking": {"wandb": "offline"}})


def test_what_a_run_keeps(tmp_path):
    folder = write_run_folder(Run(tmp_path / "deep" / "run"), CFG)

    assert OmegaConf.load(folder / "config.yaml").run.name == "a"  # resolved
    kept = json.loads((folder / "environment.json").read_text())
    assert kept["packages"]["torch"].startswith("2.")
    assert kept["isentropic"].endswith("isentropic")
    assert set(kept) >= {"git", "python", "platform", "command", "started"}


def test_a_second_start_keeps_the_first_environment(tmp_path):
    write_run_folder(Run(tmp_path), CFG)
    first = (tmp_path / "environment.json").read_text()
    write_run_folder(Run(tmp_path), CFG)

    assert (tmp_path / "environment.1.json").read_text() == first


def test_no_secret_of_the_environment_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "canary-5417")
    write_run_folder(Run(tmp_path), CFG)

    assert not any("canary-5417" in path.read_text() for path in tmp_path.iterdir())


def start(folder):
    """A run that has reached its first line."""
    write_run_folder(Run(folder), CFG)
    (folder / "metrics.jsonl").write_text('{"step": 0}\n')


def test_a_start_that_failed_before_its_first_line_may_be_made_again(tmp_path):
    write_run_folder(Run(tmp_path), CFG)
    (tmp_path / "metrics.jsonl").touch()
    check_run_folder(Run(tmp_path), OTHER)


def test_a_folder_with_a_run_is_refused_and_both_ways_out_are_named(tmp_path):
    start(tmp_path)

    with pytest.raises(ValueError, match=r"resume=auto.*run\.name="):
        check_run_folder(Run(tmp_path), CFG)
    check_run_folder(Run(tmp_path, mode="auto"), CFG)


def test_another_config_is_refused_until_the_change_is_allowed(tmp_path):
    start(tmp_path)

    with pytest.raises(
        ValueError, match=r"run\.steps: 9 -> 20; seed: 0 -> 1.*allow_changes=\[run\.steps,seed\]"
    ):
        check_run_folder(Run(tmp_path, mode="auto"), OTHER)
    with pytest.raises(ValueError, match=r"allow_changes=\[seed\]"):
        check_run_folder(Run(tmp_path, mode="auto", allow_changes=("run.steps",)), OTHER)
    check_run_folder(Run(tmp_path, mode="auto", allow_changes=("run", "seed")), OTHER)


LONG = OmegaConf.create(
    with_current_keys(
        {
            **OmegaConf.to_container(CFG, resolve=False),
            "learner": {"lr_schedule": "constant"},
            "steering": {"name": "flexec", "total_steps": "${run.steps}"},
            "filter": {"steps": ["${run.steps}"]},
        }
    )
)


def resumed(folder, begun, *changes, allow=()):
    """A run of `begun` is resumed with other values."""
    write_run_folder(Run(folder), OmegaConf.merge(LONG, OmegaConf.from_dotlist(begun)))
    (folder / "metrics.jsonl").write_text('{"step": 0}\n')
    today = OmegaConf.merge(LONG, OmegaConf.from_dotlist([*begun, *changes]))
    check_run_folder(Run(folder, mode="auto", allow_changes=allow), today)


FIXED = ["steering.total_steps=9", "filter.steps=[9]"]


def test_a_run_may_be_made_longer_if_nothing_depends_on_its_length(tmp_path):
    resumed(tmp_path, FIXED, "run.steps=20")
    with pytest.raises(ValueError, match=r"config: seed: 0 -> 1\. Give .*allow_changes=\[seed\]"):
        resumed(tmp_path, FIXED, "run.steps=20", "seed=1")


@pytest.mark.parametrize(
    ("begun", "change", "why"),
    [
        pytest.param(
            ["learner.lr_schedule=linear", *FIXED],
            "run.steps=20",
            r"learner\.lr_schedule=linear depends on run\.steps",
            id="the learning rate",
        ),
        pytest.param(
            FIXED[1:],
            "run.steps=20",
            r"steering\.total_steps: 9 -> 20\. steering\.total_steps depends on run\.steps",
            id="a value that reads it",
        ),
        pytest.param(
            FIXED[:1], "run.steps=20", r"filter\.steps depends on run\.steps", id="in a list"
        ),
        pytest.param(
            FIXED, "run.steps=5", r"run\.steps: 9 -> 5\. Give the values", id="shorter, with no why"
        ),
    ],
)
def test_another_length_is_refused_with_what_depends_on_it(tmp_path, begun, change, why):
    with pytest.raises(ValueError, match=why):
        resumed(tmp_path, begun, change)
    resumed(tmp_path, begun, change, allow=("run.steps", "steering", "filter"))


def test_changed_keys_leaves_out_what_computes_nothing():
    assert changed_keys(
        {"seed": 0, "tracking": {"wandb": "auto"}, "checkpoint": {"stop_within_s": 9}, "gone": 1},
        {
            "seed": 0,
            "tracking": {"wandb": "online"},
            "checkpoint": {"stop_within_s": 8},
            "new": None,
        },
    ) == {"gone": "gone: 1 -> not set", "new": "new: not set -> None"}


def test_runs_of_earlier_versions_go_on_with_as_many_reward_workers_as_there_are_cpus_for():
    assert changed_keys({"rewards": {"workers": 2}}, {"rewards": {"workers": None}}) == {}
    assert changed_keys({"rewards": {"timeout_s": 2}}, {"rewards": {"timeout_s": 3}})


def test_a_loss_term_is_off_if_it_is_absent_or_null():
    """Configs of earlier versions have the nulls; those of today leave the key out."""
    old = {"terms": {"name": "kl", "kl": {"coef": 0.1}, "nll": None, "entropy_bonus": None}}
    new = {"terms": {"name": "kl", "kl": {"coef": 0.1}}}
    assert changed_keys(old, new) == changed_keys(new, old) == {}
    assert changed_keys(old, {"terms": {"name": "kl"}}) == {
        "terms.kl.coef": "terms.kl.coef: 0.1 -> not set"
    }


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()

    with pytest.raises(ValueError, match=r"thesis\.tex"):
        check_run_folder(Run(tmp_path), CFG)


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(ValueError, match="is a file"):
        check_run_folder(Run(tmp_path / "file" / "run"), CFG)


def test_checking_writes_nothing(tmp_path):
    check_run_folder(Run(tmp_path / "run"), CFG)

    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_was_writing_is_removed(tmp_path):
    (tmp_path / "checkpoints" / ".tmp-step_000004" / "learner").mkdir(parents=True)
    (tmp_path / ".tmp-metrics.jsonl-1").touch()
    (tmp_path / "metrics.jsonl").touch()
    remove_torn(tmp_path)

    assert sorted(path.name for path in tmp_path.rglob("*")) == ["checkpoints", "metrics.jsonl"]


@pytest.mark.parametrize(
    "written",
    [
        None,
        b"",
        b"seed: [",
        b"\x00\x01",
        b"\xff\xfe\xfa",
        b"- 1",
        b"seed: ${who",
        b"seed: !!python/object/apply:os.getcwd []",
    ],
)
def test_a_damaged_config_is_named(tmp_path, written):
    """Torn, of something else, or with a tag that would call something: never a traceback, never a guess."""
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    if written is not None:
        (tmp_path / "config.yaml").write_bytes(written)
    with pytest.raises(
        ValueError, match=r"config\.yaml cannot be read.*restore it, or start another run"
    ):
        check_run_folder(Run(tmp_path, "auto"), CFG)


def test_a_run_from_before_a_key_resumes_with_the_value_it_had(tmp_path):
    """`rollout.engine` came later: an older run had vLLM, so vLLM is no change and another engine is one."""
    (tmp_path / "config.yaml").write_text("seed: 0\nrollout: {num_actors: 1}\n")
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')

    def today(engine):
        rollout = {"num_actors": 1, **ROLLOUT, "engine": engine}
        return OmegaConf.create({"seed": 0, "rollout": rollout, "steering": {"name": "none"}})

    check_run_folder(Run(tmp_path, mode="auto"), today("vllm"))
    with pytest.raises(ValueError, match=r"rollout\.engine: vllm -> other.*allow_changes="):
        check_run_folder(Run(tmp_path, mode="auto"), today("other"))


@pytest.mark.parametrize("allowed", [(), ("rollout.max_staleness",)])
def test_staleness_cannot_be_raised(tmp_path, allowed):
    """The first step behind the checkpoint would need weights from before it."""
    staleness = [OmegaConf.merge(CFG, {"rollout": {"max_staleness": value}}) for value in (0, 1)]
    write_run_folder(Run(tmp_path), staleness[0])
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    with pytest.raises(ValueError, match=r"weights that it no longer has.*max_staleness=0"):
        check_run_folder(Run(tmp_path, mode="auto", allow_changes=allowed), staleness[1])


@pytest.mark.parametrize(("before", "today"), [(None, 8), (8, None)])
def test_segments_neither_begin_nor_end_in_the_middle_of_a_run(before, today, tmp_path):
    """What is in flight would be missing, or dropped; another length of segments is no harm."""
    allowed = ("rollout.segment_tokens",)

    def config(tokens):
        return OmegaConf.merge(CFG, {"rollout": {**ROLLOUT, "segment_tokens": tokens}})

    write_run_folder(Run(tmp_path), config(before))
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    with pytest.raises(ValueError, match=r"part of the run.*Resume with rollout\.segment_tokens="):
        check_run_folder(Run(tmp_path, mode="auto", allow_changes=allowed), config(today))


def test_segments_of_another_length_may_follow(tmp_path):
    longer = [
        OmegaConf.merge(CFG, {"rollout": {**ROLLOUT, "segment_tokens": tokens}})
        for tokens in (8, 16)
    ]
    write_run_folder(Run(tmp_path), longer[0])
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    allowed = ("rollout.segment_tokens",)
    check_run_folder(Run(tmp_path, mode="auto", allow_changes=allowed), longer[1])


@pytest.mark.parametrize(
    ("rollout", "checkpoint", "refused"),
    [
        pytest.param({"segment_tokens": 8}, True, True, id="twice a step is in flight"),
        pytest.param({"segment_tokens": 8, "prompts_in_flight": 5}, True, True, id="one is"),
        pytest.param({"segment_tokens": 8, "prompts_in_flight": 4}, True, False, id="nothing is"),
        pytest.param({"segment_tokens": 8}, False, False, id="all is drawn again"),
        pytest.param({}, True, False, id="whole rollouts"),
    ],
)
@pytest.mark.parametrize(("key", "value"), [("temperature", 0.5), ("top_p", 0.9), ("top_k", 5)])
def test_rollouts_in_flight_are_finished_as_they_were_begun(
    tmp_path, rollout, checkpoint, refused, key, value
):
    whole = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "prompts_per_step": 4}
    before = OmegaConf.merge(CFG, {"rollout": {**ROLLOUT, **whole, **rollout}})
    today = OmegaConf.merge(before, {"rollout": {key: value}})
    write_run_folder(Run(tmp_path), before)
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    if checkpoint:
        (tmp_path / "checkpoints" / "step_000002").mkdir(parents=True)
    run = Run(tmp_path, mode="auto", allow_changes=(f"rollout.{key}",))
    if not refused:
        return check_run_folder(run, today)
    with pytest.raises(
        ValueError, match=rf"rollout\.{key}={value}, but .* in flight .*Resume with rollout\.{key}="
    ):
        check_run_folder(run, today)


def test_staleness_can_be_lowered_if_that_is_allowed(tmp_path):
    staleness = [
        OmegaConf.merge(CFG, {"rollout": {**ROLLOUT, "max_staleness": value}}) for value in (1, 0)
    ]
    write_run_folder(Run(tmp_path), staleness[0])
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    allowed = ("rollout.max_staleness",)
    check_run_folder(Run(tmp_path, mode="auto", allow_changes=allowed), staleness[1])


def digest(*, seed=0, size=3):
    """Of sums that another seed draws anew."""
    values = {"name": "arithmetic", "levels": ("2x1",), "train_size": size, "eval_size": 2}
    task = ArithmeticTask(ArithmeticConfig(**values, seed=seed))
    data = DataDigest(task)
    for split in ("train", "eval"):
        for index in range(task.size(split)):
            data.add(split, task.prompt(split, index))
    return data


@pytest.fixture
def begun(tmp_path):
    """A run that has drawn something from the data of seed 0."""
    write_data(tmp_path, digest())
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n')
    return tmp_path


def test_other_data_are_refused(begun):
    assert check_data(begun, digest(), ()) is None
    with pytest.raises(ValueError, match=r"the first is arithmetic/train/2x1/.*eval.*task\.data"):
        check_data(begun, digest(seed=1), ("run.steps",))
    with pytest.raises(ValueError, match=r"3 train prompts, now 4; the first 3 are the same\."):
        check_data(begun, digest(size=4), ())


@pytest.mark.parametrize("allowed", ["task.data", "task", "task.seed"])
def test_or_allowed_said_and_recorded(begun, allowed):
    before = (begun / "data.json").read_text()
    assert "permits it" in check_data(begun, digest(seed=1), (allowed,))
    write_data(begun, digest(seed=1))

    assert check_data(begun, digest(seed=1), ()) is None
    assert (begun / "data.1.json").read_text() == before
    write_data(begun, digest(seed=1))
    assert not (begun / "data.2.json").exists()


@pytest.mark.parametrize("content", [None, "", "[]", '{"train": {}}', "\x00"])
def test_a_folder_without_digests_is_resumed_and_said_once(begun, content):
    (begun / "data.json").unlink()
    if content is not None:
        (begun / "data.json").write_text(content)

    assert "earlier versions" in check_data(begun, digest(), ())
    write_data(begun, digest())
    assert check_data(begun, digest(), ()) is None


def test_data_of_a_start_that_drew_nothing_bind_nobody(tmp_path):
    write_data(tmp_path, digest())
    assert check_data(tmp_path, digest(seed=1), ()) is None
