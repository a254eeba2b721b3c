"""Every value of a run is typed and checked once: the composed conf/ loads, and what cannot work is refused."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from isentropic.config import LoraConfig
from isentropic.experiments.dry.describe import describe
from isentropic.experiments.settings.load import load, plain_config, typed
from isentropic.experiments.settings.slots import SLOTS

CONF = Path(__file__).resolve().parents[3] / "conf"


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", list(overrides))


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.fixture(scope="module")
def default() -> dict[str, Any]:
    return plain_config(composed())


def changed(default: dict[str, Any], key: str, value: Any) -> DictConfig:
    cfg = OmegaConf.create(default)
    OmegaConf.update(cfg, key, value, force_add=True)
    return cfg


@pytest.fixture(autouse=True)
def _own_ray(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_values_of_the_default(default):
    config = load(OmegaConf.create(default))

    assert config.objective.name == "ce_gppo"
    assert (config.objective.beta1, config.objective.beta2) == (0.5, 1.0)
    assert config.rollout.top_k == -1
    assert config.tracking.tags == ()
    assert config.resume.mode == "never"


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["learner.lora={rank: 8, alpha: 16, targets: [q_proj]}"], id="in one value"),
        pytest.param(
            [
                "learner=lora",
                "learner.lora.rank=8",
                "learner.lora.alpha=16",
                "learner.lora.targets=[q_proj]",
            ],
            id="from the preset",
        ),
    ],
)
def test_adapters_are_asked_for(default, overrides):
    assert load(OmegaConf.create(default)).learner.lora is None
    lora = load(composed(*overrides)).learner.lora
    assert lora == LoraConfig(rank=8, alpha=16.0, targets=("q_proj",))


def test_adapters_that_do_not_fit_are_refused_before_the_start():
    with pytest.raises(ValueError, match=r"learner.lora.targets names 'w_q'.*It has q_proj"):
        describe(load(composed("learner=lora", "learner.lora.targets=[w_q]")))


def test_the_command_line_reaches_the_typed_config():
    config = load(
        composed(
            "objective.beta1=0.25", "objective.clip_high=null", "tracking.tags=[a,b]", "resume=auto"
        )
    )

    assert config.objective.beta1 == 0.25
    assert config.objective.clip_high is None
    assert config.tracking.tags == ("a", "b")
    assert config.resume.mode == "auto"


@pytest.mark.parametrize("method", choices("method"))
def test_every_method_loads(method):
    load(composed(f"method={method}"))


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_loads_on_a_cluster(experiment):
    cfg = composed(f"experiment={experiment}", "cluster.address=auto")
    if OmegaConf.is_missing(cfg.task, "path"):  # the user's own data
        cfg.task.path = "problems.jsonl"

    assert load(cfg).run.name == experiment


@pytest.mark.parametrize("slot", sorted(set(SLOTS) - {"task"}))
def test_every_choice_of_a_slot_names_an_entry(slot):
    for choice in choices(slot):
        assert OmegaConf.load(CONF / slot / f"{choice}.yaml").name in SLOTS[slot], (
            f"conf/{slot}/{choice}.yaml"
        )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        pytest.param(
            "learner.lr", "abc", r"learner\.lr must be a number, got 'abc'", id="wrong type"
        ),
        pytest.param(
            "learner.num_ranks",
            1.5,
            r"learner\.num_ranks must be a whole number, got 1\.5",
            id="not whole",
        ),
        pytest.param(
            "learner.num_ranks",
            None,
            r"learner\.num_ranks must be a whole number, got None",
            id="null",
        ),
        pytest.param(
            "learner.lr", float("nan"), r"learner\.lr must be a finite number, got nan", id="nan"
        ),
        pytest.param(
            "learner.lr",
            "inf",
            r"learner\.lr must be a finite number, got inf",
            id="spelled infinity",
        ),
        pytest.param(
            "learner.lrr", 1, r"'learner\.lrr'.*Did you mean 'learner\.lr'", id="unknown key"
        ),
        pytest.param(
            "objective.beta3",
            1,
            r"'objective\.beta3'.*Did you mean 'objective\.beta",
            id="unknown in a slot",
        ),
        pytest.param(
            "terms.kll", {"coef": 1}, r"'terms\.kll'.*Did you mean 'terms\.kl'", id="unknown term"
        ),
        pytest.param("learnr", {}, r"'learnr'.*Did you mean 'learner'", id="unknown section"),
        pytest.param("learner.lr", "???", r"learner\.lr has no value", id="missing"),
        pytest.param(
            "run",
            "foo",
            r"run is a section of keys, got the value 'foo'",
            id="a value for a section",
        ),
        pytest.param(
            "objective.name",
            "ce_gpo",
            r"objective\.name.*Did you mean 'ce_gppo'",
            id="unknown entry",
        ),
        pytest.param(
            "papo.alpha", 0.1, r"papo\.\* would do nothing", id="a preset's key that nothing reads"
        ),
        pytest.param(
            "accounting.ledger",
            None,
            r"accounting\.ledger is a section of keys, got the value null\. It has every, contexts: "
            r"accounting\.ledger\.every=25",
            id="null for a section",
        ),
        pytest.param(
            "task.levels",
            "5x1",
            r"must be a list.*: 'task\.levels=\[5x1\]'",
            id="a text for a list",
        ),
        pytest.param("seed", -1, r"seed must be >= 0, got -1", id="seed"),
        pytest.param("run.name", "../x", r"run\.name must be", id="a name that leaves the folder"),
        pytest.param(
            "task.levels",
            [[]],
            r"task\.levels must be a list of single values, got \[\]",
            id="nested list",
        ),
        pytest.param(
            "objective.clip_low",
            1.2,
            r"objective\.clip_low must be > 0 and < 1, got 1\.2",
            id="clip_low",
        ),
    ],
)
def test_refused(default, key, value, message):
    with pytest.raises(ValueError, match=message):
        load(changed(default, key, value))


def test_a_term_that_is_absent_is_off_as_one_that_is_null(default):
    """Run folders of earlier versions have a null for each term that is off."""
    nulls = {"name": "none", "kl": None, "entropy_bonus": None, "nll": None}
    assert load(changed(default, "terms", nulls)).terms == load(OmegaConf.create(default)).terms
    bonus = {"coef": None, "adaptive": {"target": 0.2, "step_size": 1e-4, "max": 5e-3, "start": 0}}
    old = load(changed(default, "terms", nulls | {"entropy_bonus": bonus})).terms
    assert old.entropy_bonus == load(composed("terms=adaptive_entropy")).terms.entropy_bonus


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=math"], r"task\.path has no value\. Give one: .*\.jsonl, .*owner/name of the Hub"),
        (["task=own"], r"'task=\{file: my_task\.py, class: MyTask\}'"),
        (["objective=own"], r"'objective=\{file: my_objective\.py, name: my_function\}'"),
        (
            ["task=math", "task.path=p.csv", "task.reward=pay.py"],
            r"'task\.reward=\{file: pay\.py, function: grade\}'",
        ),
    ],
)
def test_what_only_the_user_knows_is_asked_for_by_an_example(overrides, message):
    with pytest.raises(ValueError, match=message):
        load(composed(*overrides))


@pytest.mark.parametrize("choice", choices("terms"))
def test_every_preset_of_terms_sets_what_it_is_called_after(choice):
    terms = load(composed(f"terms={choice}")).terms
    expected = {"none": [], "adaptive_entropy": ["entropy_bonus"]}
    of_a_method = {"kl_grpo": ["kl"], "kl_uec": ["kl"], "entropy_bonus_steered": ["entropy_bonus"]}
    assert list(terms.on()) == (expected | of_a_method).get(choice, [choice])


def test_a_term_is_added_on_the_command_line():
    terms = load(composed("terms=nll", "+terms.kl={estimator: k3, coef: 0.001}")).terms
    assert terms.at(1) == {"kl": 0.001, "nll": 0.1}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("base.name", "klip", r"objective\.base\.name must be one of .*Did you mean 'clip'"),
        (
            "base.clip_hihg",
            1,
            r"'objective\.base\.clip_hihg'.*Did you mean 'objective\.base\.clip_high'",
        ),
        ("base", {"name": "clip", "ratio": "token"}, r"objective\.base\.clip_low has no value"),
        ("base", None, r"objective\.base must be chosen from its group"),
        ("base.ratio", "sequence", r"objective\.ratio=token with objective\.base\.ratio=sequence"),
        ("base.clip_low", 2, r"objective\.clip_low must be > 0 and < 1, got 2"),
    ],
)
@pytest.mark.parametrize("objective", ["erc", "shaped_offline"])
def test_a_base_is_checked_as_an_objective(objective, key, value, message):
    cfg = composed(f"objective={objective}")
    assert load(cfg).objective.base.name == "clip"
    OmegaConf.update(cfg, f"objective.{key}", value, merge=False, force_add=True)
    with pytest.raises(ValueError, match=message):
        load(cfg)


def test_a_secret_of_the_environment_is_not_read(default, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "canary")

    with pytest.raises(ValueError, match="WANDB_API_KEY") as refusal:
        load(changed(default, "tracking.project", "${oc.env:WANDB_API_KEY}"))
    assert "canary" not in str(refusal.value)


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int


@dataclass(frozen=True, kw_only=True)
class Outer:
    rate: float
    inner: Inner | None
    names: tuple[str, ...]
    anything: Any


@settings(deadline=None)  # the machine may be shared
@given(
    rate=st.floats(allow_nan=False, allow_infinity=False),
    inner=st.none() | st.builds(dict, size=st.integers(-(2**31), 2**31)),
    names=st.lists(st.text("ab_", min_size=1)),
)
def test_values_go_through_unchanged(rate, inner, names):
    built = typed(
        "outer",
        Outer,
        {"rate": rate, "inner": inner, "names": names, "anything": {"kind": "switch"}},
    )

    expected = None if inner is None else Inner(**inner)
    assert built == Outer(
        rate=rate, inner=expected, names=tuple(names), anything={"kind": "switch"}
    )


def test_a_nested_section_is_checked_too():
    with pytest.raises(
        ValueError, match=r"'outer\.inner\.sise'.*Did you mean 'outer\.inner\.size'"
    ):
        typed("outer", Outer, {"rate": 1, "inner": {"sise": 1}, "names": [], "anything": None})


def test_the_demo_is_described():
    text, problems = describe(load(composed("experiment=ce_gppo_tiny")))

    assert problems == []

    assert "tiny (embedded): 0.4 M parameters" in text
    assert "64 prompts x 8 samples" in text
    assert "2 learner ranks" in text
