"""The typed config of a run. Values live in conf/; each is checked once, here, before anything starts.

A slot's config (objective, filter, advantage, ...) stands beside the function that reads it; this file holds
what belongs to no single function. `experiments.config_load.load` turns Hydra's dict into a `Config`.
"""

import re
from dataclasses import dataclass
from typing import Any

from isentropic.checks import check_choice, check_range

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LABEL_LENGTH = 80


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What the run is called, how long it is, where it writes."""

    name: str
    steps: int
    dir: str  # default runs/<name>
    dry: bool  # check everything, start nothing
    label: str | None  # what reports call its setting; null: the keys that tell it from the others

    def __post_init__(self) -> None:
        if not RUN_NAME.fullmatch(self.name):
            raise ValueError(
                f"run.name must be 1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit; "
                f"got {self.name!r}. It names a folder: choose a plain name such as 'ce_gppo_1'."
            )
        check_range("run.steps", self.steps, at_least=1)
        if self.label is not None and not (self.label.strip() and len(self.label) <= LABEL_LENGTH):
            raise ValueError(
                f"run.label must be 1 to {LABEL_LENGTH} characters, or null; got {self.label!r}."
            )


@dataclass(frozen=True, kw_only=True)
class ResumeConfig:
    """What to do with a folder that has a run already."""

    mode: str  # never: refuse it | auto: go on from its last whole checkpoint, or start if there is none
    allow_changes: tuple[
        str, ...
    ]  # keys that may differ from the run that is resumed, such as run.steps

    def __post_init__(self) -> None:
        check_choice("resume", self.mode, ("never", "auto"))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which causal LM, and what goes with it."""

    name: str
    path: str  # a folder, a Hub name, or "embedded" for the tiny model that is warm-started on the spot
    revision: str | None
    max_length: int  # tokens, prompt and response together: the window that is used of the model
    trust_remote_code: bool
    warm_start: dict[str, Any] | None  # of the embedded model: sizes and stopping rule
    image_pixels: tuple[int, int] | None = (
        None  # an image is scaled to lie between; None: as the model's own files say
    )

    def __post_init__(self) -> None:
        check_range("model.max_length", self.max_length, at_least=2)
        if self.image_pixels is not None and not (
            len(self.image_pixels) == 2 and 0 < self.image_pixels[0] <= self.image_pixels[1]
        ):
            raise ValueError(
                f"model.image_pixels must be [least, most] pixels of an image, got {list(self.image_pixels)}. "
                "Write null for the limits of the model's own preprocessor_config.json."
            )


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """Engines, and what is drawn from them in a step."""

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
    probe_tolerance: (
        float  # nats: a larger gap between engine and learner after a sync stops the run
    )
    timeout_s: float  # deadline for one step's rollouts

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
        check_range(
            "rollout.temperature",
            self.temperature,
            above=0,
            hint="Greedy sampling has no policy gradient.",
        )
        check_range("rollout.top_p", self.top_p, above=0, at_most=1)
        check_range("rollout.max_staleness", self.max_staleness, at_least=0)
        check_range("rollout.kv_cache_gib", self.kv_cache_gib, above=0)
        check_range("rollout.probe_tolerance", self.probe_tolerance, above=0)
        check_range("rollout.timeout_s", self.timeout_s, above=0)
        check_choice("rollout.dtype", self.dtype, ("float32", "bfloat16"))


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """FSDP2 ranks and the optimizer."""

    num_ranks: int
    updates_per_rollout: (
        int  # K: the step's prompts are split into K minibatches, one optimizer step each
    )
    microbatch_tokens: (
        int  # packed tokens of one forward pass, at most (a longer sequence goes alone)
    )
    dtype: str  # of the forward and backward; weights and optimizer are float32
    lr: float
    lr_schedule: str
    warmup_updates: int
    weight_decay: float
    beta1: float
    beta2: float
    eps: float
    max_grad_norm: float
    max_skipped_updates: int  # in a row; more stop the run
    gradient_checkpointing: bool
    compile: bool
    vocab_chunk: int  # columns of the output layer per tile of the token statistics
    timeout_s: float  # deadline for one call, and for the ranks among themselves

    def __post_init__(self) -> None:
        for key in ("num_ranks", "updates_per_rollout", "microbatch_tokens", "vocab_chunk"):
            check_range(f"learner.{key}", getattr(self, key), at_least=1)
        for key in ("lr", "warmup_updates", "weight_decay", "max_skipped_updates"):
            check_range(f"learner.{key}", getattr(self, key), at_least=0)
        for key in ("beta1", "beta2"):
            check_range(f"learner.{key}", getattr(self, key), at_least=0, below=1)
        for key in ("eps", "max_grad_norm", "timeout_s"):
            check_range(f"learner.{key}", getattr(self, key), above=0)
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
        check_range("evaluation.temperature", self.temperature, at_least=0)
        check_range("evaluation.top_p", self.top_p, above=0, at_most=1)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    every: int  # steps; 0 is only at the end
    keep_last: int
    keep_best: int
    stop_within_s: float = 90.0  # after SIGTERM or Ctrl-C; a step that takes longer is given up

    def __post_init__(self) -> None:
        check_range("checkpoint.every", self.every, at_least=0)
        check_range("checkpoint.keep_last", self.keep_last, at_least=1)
        check_range("checkpoint.keep_best", self.keep_best, at_least=0)
        check_range("checkpoint.stop_within_s", self.stop_within_s, above=0)


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where the actors go."""

    address: str | None  # null: RAY_ADDRESS where set, else a Ray of our own
    placement: (
        str  # apart | shared: learner and engines on the same GPUs, engines asleep while it works
    )
    gpus_per_engine: float
    gpus_per_rank: float
    cpus_per_engine: float
    cpus_per_rank: float
    strategy: str  # of the placement group
    startup_timeout_s: float
    object_store_gib: float | None
    health_timeout_s: float = (
        120.0  # an engine that makes no step with work to do for so long is restarted
    )
    max_restarts: int = 20  # of engines, in a run; one more stops it
    max_learner_restarts: int = (
        5  # of all ranks together, from the last checkpoint; one more stops the run
    )

    def __post_init__(self) -> None:
        check_choice("cluster.placement", self.placement, ("apart", "shared"))
        check_choice(
            "cluster.strategy", self.strategy, ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")
        )
        for key in ("gpus_per_engine", "gpus_per_rank"):
            check_range(f"cluster.{key}", getattr(self, key), at_least=0)
        for key in ("cpus_per_engine", "cpus_per_rank", "startup_timeout_s", "health_timeout_s"):
            check_range(f"cluster.{key}", getattr(self, key), above=0)
        for key in ("max_restarts", "max_learner_restarts"):
            check_range(f"cluster.{key}", getattr(self, key), at_least=0)


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    wandb: str  # auto | online | offline | disabled
    project: str
    entity: str | None
    group: str | None
    tags: tuple[str, ...]

    def __post_init__(self) -> None:
        check_choice("tracking.wandb", self.wandb, ("auto", "online", "offline", "disabled"))


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
