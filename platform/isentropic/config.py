"""The typed config of a run. Values live in conf/; each is checked once, before anything starts.

A slot's config (objective, filter, advantage, ...) stands beside the function that reads it; this
file holds what belongs to no single function. `experiments.settings.load.load` turns Hydra's dict
into a `Config`.
"""

import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from isentropic.checks import check_choice, check_day, check_path, check_range

LABEL_LENGTH = 80
# vLLM raises a lower temperature to this one without an error. Above the highest, text is noise.
TEMPERATURES = (0.01, 2)
# Ray refuses less than 75 MiB; below 0.075 GiB the run would stop only when Ray starts.
OBJECT_STORE_GIB = 0.075

# Old key -> its name of today. The command line refuses the old one and names the new one; a
# recorded config is translated when it is read, so runs made before the change still resume,
# replay, branch and export.
RENAMED = {
    "learner.beta1": "learner.adam_beta1",
    "learner.beta2": "learner.adam_beta2",
    "learner.eps": "learner.adam_eps",
}

# Keys that came after the first runs, and the value that the runs before had without saying so.
CAME_LATER: dict[str, Any] = {
    "rollout.engine": "vllm",
    "run.date": None,
    "run.preset": None,
    "tracking.tensorboard": False,
    "tracking.csv": False,
    "tracking.wandb_view": "never",
    "steering": {"name": "none"},
    "accounting.ledger": {"every": 0, "contexts": 0.125},
    "learner.unsharded_gradient_gib": 4.0,
    "learner.balance": "tokens",
    "learner.collective_timeout_s": 600.0,
    "cluster.learner_label": None,
    "cluster.rollout_label": None,
    "learner.replicas": 1,
    "learner.context_parallel": 1,
    "learner.head": "torch",
    "weights": {"transport": "objects"},
    "learner.lora": None,
    "learner.deterministic": False,
    "model.shape": None,
    "cluster.assume": None,
    "rewards.network": False,
    "rewards.accept_gaps": False,
    "rewards.nodes": "driver",
    "rollout.segment_tokens": None,
    "rollout.prompts_in_flight": None,
    "rollout.max_lag": 4,
}
# The same of the tasks' own keys, by task.
TASK_KEYS_CAME_LATER: dict[str, dict[str, Any]] = {
    "math": {"truncated_answer": "any", "reward": None},
    "reasoning_gym": {"truncated_answer": "any", "reward": None},
}
# Of the controllers' own keys, by controller.
STEERING_KEYS_CAME_LATER: dict[str, dict[str, Any]] = {
    "flexec": {"start_raising": False},
    "steered": {"observer_gain": 1.0},
}
# And of the objectives' own keys, by objective, wherever one stands: in its slot, as a base, in a panel.
OBJECTIVE_KEYS_CAME_LATER: dict[str, dict[str, Any]] = {
    "steer": {"microbatch": None},
}

# Keys that compute nothing: runs that differ in them alone are of one setting, and a resume may change them.
COMPUTES_NOTHING = (
    "model.shape",
    "tracking",
    "cluster",
    "weights",
    "learner.collective_timeout_s",
    "rewards.workers",
    "rewards.nodes",
    "rewards.accept_gaps",
    "rollout.probe_tolerance",
    "accounting.ledger",
    "alarms",
)

# What `resume.allow_changes` calls the rows of a task's data, which no key of the config holds.
DATA_KEY = "task.data"


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What the run is called, how long it is, where it writes."""

    name: str
    steps: int
    dir: str  # default runs/<name>
    dry: bool  # check everything, start nothing
    label: str | None  # what reports call its setting; null: the keys that tell it from the others
    # The method and objective presets that were chosen, such as dapo; null: filled in at the start.
    preset: str | None
    # YYYY-MM-DD that chat templates read as today; null: the day of the first start.
    date: str | None

    def __post_init__(self) -> None:
        check_name("run.name", self.name)
        check_path("run.dir", self.dir)
        if self.date is not None:
            check_day("run.date", self.date)
        check_range("run.steps", self.steps, at_least=1)
        if self.label is not None and not (self.label.strip() and len(self.label) <= LABEL_LENGTH):
            raise ValueError(
                f"run.label must be 1 to {LABEL_LENGTH} characters, or null; got {self.label!r}."
            )

    @property
    def today(self) -> datetime.date | None:
        """The date that a chat template may write."""
        return None if self.date is None else datetime.date.fromisoformat(self.date)


@dataclass(frozen=True, kw_only=True)
class ResumeConfig:
    """What to do with a folder that has a run already."""

    # never: refuse it | auto: go on from its last whole checkpoint, or start if there is none
    mode: str
    # keys that may differ from the run that is resumed, such as run.steps; task.data: the rows
    allow_changes: tuple[str, ...]

    def __post_init__(self) -> None:
        check_choice("resume", self.mode, ("never", "auto"))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which causal LM, and what goes with it."""

    name: str
    # a folder, a Hub name, or "embedded" for the tiny model that is warm-started on the spot
    path: str
    revision: str | None
    max_length: int  # tokens, prompt and response together: the window that is used of the model
    trust_remote_code: bool
    warm_start: dict[str, Any] | None  # of the embedded model: sizes and stopping rule
    # [least, most] pixels: an image is scaled to lie between; None: as the model's own files say.
    image_pixels: tuple[int, int] | None
    # What config.json says of its sizes: a dry run plans with it if the model's files are not here.
    shape: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_range("model.max_length", self.max_length, at_least=2)
        if self.image_pixels is not None and not (
            len(self.image_pixels) == 2 and 0 < self.image_pixels[0] <= self.image_pixels[1]
        ):
            raise ValueError(
                "model.image_pixels must be [least, most] pixels of an image, got "
                f"{list(self.image_pixels)}. Write null for the limits of the model's own "
                "preprocessor_config.json."
            )


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """Engines, and what is drawn from them in a step."""

    engine: str  # a name in `rollout.ENGINES`
    num_actors: int
    tensor_parallel: int
    prompts_per_step: int
    group_size: int
    temperature: float
    top_p: float
    top_k: int
    max_prompt_tokens: int
    max_response_tokens: int
    max_staleness: int
    max_num_seqs: int  # requests an engine runs at once
    kv_cache_gib: float
    dtype: str
    # nats: a larger gap between engine and learner after a sync stops the run; in float32 that of
    # any token, else the mean of the probe
    probe_tolerance: float
    # Deadline for one round of requests: a turn, or a segment, of all rollouts that are written. A
    # step makes a round per wave, turn and segment.
    timeout_s: float
    # Tokens that a rollout writes at a time before it may be carried to the next step; null: each
    # step's rollouts are written to their end.
    segment_tokens: int | None = None
    # Prompts that are being written or wait to be trained on; null: twice prompts_per_step. Only
    # with segments, and so is max_lag.
    prompts_in_flight: int | None = None
    max_lag: int = (
        4  # steps from the one that begins a prompt to the one that trains on it, at most
    )

    @property
    def in_flight(self) -> int:
        """Prompts in flight, the default filled in."""
        return self.prompts_in_flight or 2 * self.prompts_per_step

    def __post_init__(self) -> None:
        for key in (
            "num_actors",
            "tensor_parallel",
            "prompts_per_step",
            "max_prompt_tokens",
            "max_response_tokens",
            "max_num_seqs",
        ):
            check_range(f"rollout.{key}", getattr(self, key), at_least=1)
        check_range("rollout.group_size", self.group_size, at_least=1)
        check_temperature("rollout.temperature", self.temperature)
        check_range("rollout.top_p", self.top_p, above=0, at_most=1)
        check_range("rollout.top_k", self.top_k, at_least=-1)
        if self.top_k == 0:
            raise ValueError("rollout.top_k must be -1 (off) or >= 1, got 0. Write -1 for off.")
        check_range("rollout.max_staleness", self.max_staleness, at_least=0)
        check_range("rollout.kv_cache_gib", self.kv_cache_gib, above=0)
        check_range("rollout.probe_tolerance", self.probe_tolerance, above=0)
        check_range("rollout.timeout_s", self.timeout_s, at_least=1)
        check_choice("rollout.dtype", self.dtype, ("float32", "bfloat16"))
        check_range("rollout.max_lag", self.max_lag, at_least=0)
        if self.segment_tokens is not None:
            hint = "Write null to write every rollout to its end in its own step."
            check_range("rollout.segment_tokens", self.segment_tokens, at_least=1, hint=hint)
        if self.prompts_in_flight is not None:
            check_range("rollout.prompts_in_flight", self.prompts_in_flight, at_least=1)


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters, trained in place of the model's weights (LoRA, arXiv:2106.09685)."""

    rank: int
    alpha: float  # what an adapter adds is scaled by alpha / rank
    # linear layers of the decoder by the ends of their names, such as q_proj; [all] is all of them
    targets: tuple[str, ...]

    def __post_init__(self) -> None:
        check_range("learner.lora.rank", self.rank, at_least=1)
        check_range("learner.lora.alpha", self.alpha, above=0)
        if not self.targets or ("all" in self.targets and len(self.targets) > 1):
            raise ValueError(
                "learner.lora.targets must be a list of layers' names or [all], got "
                f"{list(self.targets)}. To train all weights instead: learner.lora=null."
            )


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """FSDP2 ranks and the optimizer."""

    num_ranks: int
    # K: the step's prompts are split into K minibatches, one optimizer step each
    updates_per_rollout: int
    # packed tokens of one forward pass, at most (a longer sequence goes alone)
    microbatch_tokens: int
    dtype: str  # of the forward and backward; weights and optimizer are float32
    lr: float
    lr_schedule: str
    warmup_updates: int
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_eps: float
    max_grad_norm: float
    max_skipped_updates: int  # in a row; more stop the run
    gradient_checkpointing: bool
    compile: bool
    vocab_chunk: int  # columns of the output layer per tile of the token statistics
    # What works on those tiles: torch | compiled | triton | auto, which is triton on a GPU and
    # torch elsewhere.
    head: str
    # GiB: summed over an update's microbatches, a rank's gradients stand unsharded in float32 up to
    # this size. Above it they are reduced over the ranks in each microbatch, and only shards stand.
    unsharded_gradient_gib: float
    # What a microbatch's sequences are balanced by: tokens | work, which counts attention too.
    balance: str
    timeout_s: float  # deadline for one call
    collective_timeout_s: float  # how long a rank waits for the others inside a call
    # Copies of weights and optimizer, each sharded over num_ranks / replicas ranks in a row.
    replicas: int
    # Ranks in a row that share the tokens of a microbatch, for sequences too long for one of them.
    context_parallel: int
    lora: LoraConfig | None = None  # only adapters are trained; null: all weights
    # On a GPU: kernels that add in a fixed order; slower. On a CPU they always do.
    deterministic: bool = False

    def on_one_rank(self) -> "LearnerConfig":
        """Returns the settings of a learner in this process alone."""
        return replace(self, num_ranks=1, replicas=1, context_parallel=1)

    def __post_init__(self) -> None:
        for key in ("num_ranks", "updates_per_rollout", "microbatch_tokens", "vocab_chunk"):
            check_range(f"learner.{key}", getattr(self, key), at_least=1)
        for key in ("replicas", "context_parallel"):
            check_range(f"learner.{key}", getattr(self, key), at_least=1)
        if self.num_ranks % (self.replicas * self.context_parallel):
            raise ValueError(
                f"learner.num_ranks={self.num_ranks} cannot be split into learner.replicas="
                f"{self.replicas} equal parts of groups of learner.context_parallel="
                f"{self.context_parallel} ranks. Use a multiple of "
                f"{self.replicas * self.context_parallel} ranks."
            )
        for key in ("lr", "warmup_updates", "weight_decay", "max_skipped_updates"):
            check_range(f"learner.{key}", getattr(self, key), at_least=0)
        for key in ("adam_beta1", "adam_beta2"):
            check_range(f"learner.{key}", getattr(self, key), at_least=0, below=1)
        for key in ("adam_eps", "max_grad_norm"):
            check_range(f"learner.{key}", getattr(self, key), above=0)
        check_range("learner.unsharded_gradient_gib", self.unsharded_gradient_gib, at_least=0)
        check_choice("learner.head", self.head, ("auto", "torch", "compiled", "triton"))
        check_choice("learner.balance", self.balance, ("tokens", "work"))
        for key in ("timeout_s", "collective_timeout_s"):
            check_range(f"learner.{key}", getattr(self, key), at_least=1)
        check_choice("learner.dtype", self.dtype, ("float32", "bfloat16"))
        check_choice("learner.lr_schedule", self.lr_schedule, ("constant", "linear", "cosine"))


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Held-out prompts, every n steps and at both ends of the run."""

    every: int  # steps; 0 is never
    prompts: int
    samples: int  # k of avg@k and pass@k
    temperature: float
    top_p: float

    def __post_init__(self) -> None:
        check_range("evaluation.every", self.every, at_least=0)
        check_range("evaluation.prompts", self.prompts, at_least=1)
        check_range("evaluation.samples", self.samples, at_least=1)
        check_temperature("evaluation.temperature", self.temperature, greedy=True)
        check_range("evaluation.top_p", self.top_p, above=0, at_most=1)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    every: int  # steps; 0 is only at the end
    keep_last: int
    keep_best: int
    stop_within_s: float  # after SIGTERM or Ctrl-C; a step that takes longer is given up

    def __post_init__(self) -> None:
        check_range("checkpoint.every", self.every, at_least=0)
        check_range("checkpoint.keep_last", self.keep_last, at_least=1)
        check_range("checkpoint.keep_best", self.keep_best, at_least=0)
        check_range("checkpoint.stop_within_s", self.stop_within_s, at_least=1)


@dataclass(frozen=True, kw_only=True)
class AssumeConfig:
    """A machine that is not there, for a dry run to plan for."""

    nodes: int
    gpus: int  # of each node
    gpu_gib: float  # memory of each GPU
    host_gib: float  # memory of each node
    shm_gib: float | None = None  # /dev/shm of each node; null: half of its memory
    disk_gib: float | None = None  # free for runs; null: enough
    # A part of the GPU's name, such as A100, for the time estimate; null: 4090 up to 24 GiB, else H100.
    gpu: str | None = None

    def __post_init__(self) -> None:
        check_range("cluster.assume.nodes", self.nodes, at_least=1)
        check_range("cluster.assume.gpus", self.gpus, at_least=0)
        for key in ("gpu_gib", "host_gib"):
            check_range(f"cluster.assume.{key}", getattr(self, key), above=0)
        for key in ("shm_gib", "disk_gib"):
            if getattr(self, key) is not None:
                check_range(f"cluster.assume.{key}", getattr(self, key), above=0)


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where the actors go."""

    address: str | None  # null: RAY_ADDRESS where set, else a Ray of our own
    # apart | shared: learner and engines on the same GPUs, engines asleep while it works
    placement: str
    gpus_per_engine: float
    gpus_per_rank: float
    cpus_per_engine: float
    cpus_per_rank: float
    strategy: str  # of the engines' placement group; ranks are packed
    learner_label: str | None  # name:value, a label of the nodes that may hold ranks; null: any
    rollout_label: str | None  # same of engines
    startup_timeout_s: float
    object_store_gib: float | None
    health_timeout_s: float  # an engine that makes no step with work to do for so long is restarted
    max_restarts: int  # of all engines together; one more stops the run
    # Of all ranks together, from the last checkpoint; one more stops the run.
    max_learner_restarts: int
    assume: AssumeConfig | None = None  # a dry run plans for it instead of this machine

    @property
    def engine_device(self) -> str:
        """The device of an engine, "cuda" or "cpu"."""
        return "cuda" if self.gpus_per_engine else "cpu"

    def __post_init__(self) -> None:
        check_choice("cluster.placement", self.placement, ("apart", "shared"))
        check_choice(
            "cluster.strategy", self.strategy, ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
        )
        for key in ("learner_label", "rollout_label"):
            check_label(f"cluster.{key}", getattr(self, key))
        for key in ("gpus_per_engine", "gpus_per_rank"):
            check_range(f"cluster.{key}", getattr(self, key), at_least=0)
        for key in ("cpus_per_engine", "cpus_per_rank"):
            check_range(f"cluster.{key}", getattr(self, key), above=0)
        for key in ("startup_timeout_s", "health_timeout_s"):
            check_range(f"cluster.{key}", getattr(self, key), at_least=1)
        if self.object_store_gib is not None:
            check_range(
                "cluster.object_store_gib",
                self.object_store_gib,
                at_least=OBJECT_STORE_GIB,
                hint="Write null for Ray's choice.",
            )
        for key in ("max_restarts", "max_learner_restarts"):
            check_range(f"cluster.{key}", getattr(self, key), at_least=0)


@dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """How weights get from the learner to the engines."""

    transport: str  # objects: through Ray's object store | broadcast: from the ranks, in one round

    def __post_init__(self) -> None:
        check_choice("weights.transport", self.transport, ("objects", "broadcast"))


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    wandb: str  # auto | online | offline | disabled
    wandb_view: str  # auto | never
    project: str
    entity: str | None
    group: str | None
    tags: tuple[str, ...]
    tensorboard: bool  # event files under tensorboard/ in the run folder
    csv: bool  # metrics.csv in the run folder

    def __post_init__(self) -> None:
        check_choice("tracking.wandb", self.wandb, ("auto", "online", "offline", "disabled"))
        check_choice("tracking.wandb_view", self.wandb_view, ("auto", "never"))


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run. The slots hold an instance of the config class that their `name` pairs with."""

    seed: int
    run: RunConfig
    resume: ResumeConfig
    model: ModelConfig
    rollout: RolloutConfig
    learner: LearnerConfig
    cluster: ClusterConfig
    weights: WeightsConfig
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    tracking: TrackingConfig
    accounting: Any
    alarms: Any
    task: Any
    rewards: Any  # workers that check answers
    sampling: Any
    shaping: Any
    filter: Any
    advantage: Any
    reweight: Any
    token_weight: Any
    objective: Any
    steering: Any
    terms: Any
    reduction: Any
    reuse: Any

    def __post_init__(self) -> None:
        check_range("seed", self.seed, at_least=0)
        check_range("seed", self.seed, at_most=2**63 - 1)


def check_temperature(key: str, value: float, *, greedy: bool = False) -> None:
    """Raise ValueError unless an engine samples at this temperature, or greedily if that is meant.

    Args:
        greedy: 0 is allowed. What is trained on must be sampled.
    """
    low, high = TEMPERATURES
    if not greedy:
        hint = "Greedy sampling has no policy gradient."
        check_range(key, value, at_least=low, at_most=high, hint=hint)
        return
    check_range(key, value, at_least=0, at_most=high)
    if 0 < value < low:
        raise ValueError(
            f"{key} must be 0 (greedy) or >= {low}, got {value}: engines cannot sample at less. "
            "Write 0 for greedy answers."
        )


def check_name(key: str, name: str) -> None:
    """Raise ValueError unless `name` can name a folder of a run or sweep, or a job."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ValueError(
            f"{key} must be 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or "
            f"digit; got {name!r}. It names a folder: choose a plain name such as 'ce_gppo_1'."
        )


def check_label(key: str, label: str | None) -> None:
    """Raise ValueError unless `label` is null, or the name and the value of a label of nodes."""
    part = r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?"
    if label is not None and not re.fullmatch(f"{part}:{part}", label):
        raise ValueError(
            f"{key} must be name:value, such as role:learner, or null; got {label!r}. Nodes get "
            "labels from ray start --labels=role=learner."
        )


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested values: {'objective': {'beta1': 0.5}} -> {'objective.beta1': 0.5}."""
    items: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        items |= flat(value, f"{key}.") if isinstance(value, Mapping) else {key: value}
    return items


def method_name(values: Mapping[str, Any]) -> str:
    """Return what to call the method of a config: its presets, or the objective of an older run.

    A preset says more than the objective: `dapo`, `grpo` and `dr_grpo` all have the objective clip.

    Args:
        values: the config, nested, as a run folder records it; "" if it names neither.
    """
    settings = flat(values)
    return str(settings.get("run.preset") or settings.get("objective.name") or "")


def is_under(key: str, parents: Iterable[str]) -> bool:
    """Return True if `key` is one of `parents` or stands below one."""
    return any(key == parent or key.startswith(f"{parent}.") for parent in parents)


def keys_that_came_later(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted key -> what runs did before there was that key, for the choices of a config."""
    found = flat(CAME_LATER)
    for slot, later in (
        ("task", TASK_KEYS_CAME_LATER),
        ("steering", STEERING_KEYS_CAME_LATER),
        ("objective", OBJECTIVE_KEYS_CAME_LATER),
    ):
        chosen = values.get(slot)
        name = chosen.get("name") if isinstance(chosen, Mapping) else None
        found |= flat(later.get(name, {}), f"{slot}.")
    return found


def with_current_keys(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded config with the keys of today: renamed ones, and those that came later."""
    result = dict(values)
    for old, new in RENAMED.items():
        section, _, name = old.partition(".")
        if isinstance(result.get(section), Mapping) and name in result[section]:
            value = result[section][name]
            result[section] = {key: inner for key, inner in result[section].items() if key != name}
            result[section].setdefault(new.partition(".")[2], value)
    for key, value in CAME_LATER.items():
        section, _, name = key.partition(".")
        if not name:
            result.setdefault(section, value)
        elif isinstance(result.get(section), Mapping):
            result[section] = {name: value} | dict(result[section])
    rollout = result.get("rollout")
    if isinstance(rollout, Mapping) and rollout.get("segment_tokens") is None:
        # It did nothing there, and another value is refused today: the run must go on.
        result["rollout"] = dict(rollout) | {"max_lag": CAME_LATER["rollout.max_lag"]}
    rewards, task = result.get("rewards"), result.get("task")
    if isinstance(rewards, Mapping) and isinstance(task, Mapping):
        wrong = task.get("reward_wrong") or 0.0
        if wrong < 0 == rewards.get("reward_on_error"):
            # It was 0 whatever a wrong answer got, and is refused today: the run must go on.
            result["rewards"] = dict(rewards) | {"reward_on_error": wrong}
    for slot, later in (("task", TASK_KEYS_CAME_LATER), ("steering", STEERING_KEYS_CAME_LATER)):
        chosen = result.get(slot)
        if isinstance(chosen, Mapping) and isinstance(chosen.get("name"), str):
            result[slot] = later.get(chosen["name"], {}) | dict(chosen)
    if "objective" in result:
        result["objective"] = _with_objective_keys(result["objective"])
    accounting = result.get("accounting")
    if isinstance(accounting, Mapping) and isinstance(accounting.get("counterfactuals"), Mapping):
        panel = accounting["counterfactuals"].items()
        panel = {label: _with_objective_keys(values) for label, values in panel}
        result["accounting"] = {**accounting, "counterfactuals": panel}
    return result


def _with_objective_keys(values: Any) -> Any:
    """Return an objective's recorded values with the keys that came later, those of its base too."""
    if not isinstance(values, Mapping) or not isinstance(values.get("name"), str):
        return values
    result = OBJECTIVE_KEYS_CAME_LATER.get(values["name"], {}) | dict(values)
    return result | ({"base": _with_objective_keys(result["base"])} if "base" in result else {})
