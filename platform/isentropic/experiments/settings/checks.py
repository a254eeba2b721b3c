"""Checks of values that are each allowed but do not go together."""

import os

from isentropic.checks import check_choice
from isentropic.config import Config, RolloutConfig
from isentropic.controller.drawing.flight import fewest_steps
from isentropic.folders import variable
from isentropic.methods.combinations import check_combinations
from isentropic.rollout import ENGINES
from isentropic.tasks.own.task import OwnTaskConfig


def check_together(config: Config) -> None:
    """Raise ValueError for the combinations that cannot work, all at once."""
    problems = []
    for check in (
        _engine,
        _lengths,
        _batch,
        _segments,
        _advantage,
        _placement,
        _head,
        _weights,
        _devices,
        _truncation,
        check_evaluation,
        _rewards,
        check_combinations,
    ):
        try:
            check(config)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))


def remarks(config: Config) -> list[str]:
    """Return what a user must know of values that are allowed."""
    return [
        *_kl_remark(config),
        *_schedule_remark(config),
        *_age_remark(config),
        *_first_step_remark(config),
    ]


def _kl_remark(config: Config) -> list[str]:
    kl = config.terms.kl
    if kl is None or kl.estimator != "k1":
        return []
    return [
        "terms.kl.estimator=k1 holds the policy near the reference no better than no term at all: "
        "in the loss its gradient is 0 on average, because E[grad logprob] = 0 (k1 belongs into "
        "the reward). The gradient of k2 is the KL's, that of k3 nearly so while the two are "
        "close: terms.kl.estimator=k2."
    ]


def _schedule_remark(config: Config) -> list[str]:
    """How many updates a queue and a buffer give, nobody knows before the run."""
    learner, reuse, steps = config.learner, config.reuse, config.run.steps
    as_planned = not (getattr(reuse, "queue", False) or getattr(reuse, "replay_every", None))
    if learner.lr_schedule == "constant" or as_planned:
        return []
    per_step = learner.updates_per_rollout
    return [
        f"learner.lr_schedule={learner.lr_schedule} reaches 0 after {steps} * {per_step} = "
        f"{steps * per_step} updates (run.steps * learner.updates_per_rollout), but reuse="
        f"{reuse.name} makes more or fewer, as queue and buffer give: the rate may be 0 long before "
        "the last step, or end above 0. learner.lr_schedule=constant does not depend on their "
        "number."
    ]


def _age_remark(config: Config) -> list[str]:
    """Importance weights against the step's start do not see which weights drew a token."""
    rollout = config.rollout
    age = rollout.max_staleness + (rollout.max_lag if _carries(rollout) else 0)
    if age == 0 or config.token_weight.name != "none":
        return []
    causes = [f"rollout.max_staleness={rollout.max_staleness}"] if rollout.max_staleness else []
    if _carries(rollout):
        causes.append(f"rollout.segment_tokens={rollout.segment_tokens}")
    return [
        f"{' and '.join(causes)} with token_weight=none: a step trains on tokens of weights up to "
        f"{age} step{'s' if age > 1 else ''} old as if those that it begins with had drawn them. "
        "token_weight=tis or token_weight=icepop corrects each token for its age."
    ]


def _first_step_remark(config: Config) -> list[str]:
    """With segments the answers that step 1 trains on are the first to be finished."""
    steering = config.steering
    reads = steering.name == "repo_r" or getattr(steering, "schedule", None) == "od"
    if not (reads and steering.start_entropy is None and _carries(config.rollout)):
        return []
    return [
        f"steering={steering.name} with rollout.segment_tokens={config.rollout.segment_tokens}: it "
        "takes the entropy of the start from step 1, whose answers are the shortest of those in "
        "flight. Give it with steering.start_entropy; eval/entropy on line 0 of metrics.jsonl is that "
        "of whole answers."
    ]


def _carries(rollout: RolloutConfig) -> bool:
    """Returns True if rollouts are carried from step to step."""
    return rollout.segment_tokens is not None and rollout.in_flight > rollout.prompts_per_step


def _engine(config: Config) -> None:
    check_choice("rollout.engine", config.rollout.engine, ENGINES)


def _lengths(config: Config) -> None:
    rollout, window = config.rollout, config.model.max_length
    needed = rollout.max_prompt_tokens + rollout.max_response_tokens
    if needed > window:
        left = window - rollout.max_prompt_tokens
        # A prompt that fills the window leaves no room for any answer: then both have to shrink.
        advice = (
            f"rollout.max_response_tokens={left} or less"
            if left > 0
            else f"both lower, such as {window // 2} each"
        )
        raise ValueError(
            "rollout.max_prompt_tokens + rollout.max_response_tokens is "
            f"{rollout.max_prompt_tokens} + {rollout.max_response_tokens} = {needed}, more than "
            f"model.max_length={window}. Set {advice}, or a longer window: "
            f"model.max_length={needed}, if the model has it."
        )


def _batch(config: Config) -> None:
    prompts, updates = config.rollout.prompts_per_step, config.learner.updates_per_rollout
    if prompts % updates:
        fitting = ", ".join(str(k) for k in range(1, min(prompts, 64) + 1) if prompts % k == 0)
        raise ValueError(
            f"rollout.prompts_per_step={prompts} cannot be split into "
            f"learner.updates_per_rollout={updates} equal minibatches. With {prompts} prompts, "
            f"updates_per_rollout may be {fitting}."
        )


def _segments(config: Config) -> None:
    rollout = config.rollout
    per_step, in_flight = rollout.prompts_per_step, rollout.prompts_in_flight
    if rollout.segment_tokens is None:
        if in_flight is not None:
            raise ValueError(
                f"rollout.prompts_in_flight={in_flight} without rollout.segment_tokens: every "
                "rollout is written to its end in its own step, so no other prompt is in flight. "
                "Set rollout.segment_tokens, or rollout.prompts_in_flight=null."
            )
        # Its default is no null: a recorded config has it, and must go on.
        if rollout.max_lag != RolloutConfig.max_lag:
            raise ValueError(
                f"rollout.max_lag={rollout.max_lag} without rollout.segment_tokens: every rollout is "
                "written to its end in its own step, so no prompt is trained on later. Set "
                "rollout.segment_tokens, or leave rollout.max_lag out; how far the learner may lag "
                "behind whole rollouts is rollout.max_staleness."
            )
        return
    if rollout.segment_tokens > rollout.max_response_tokens:
        raise ValueError(
            f"rollout.segment_tokens={rollout.segment_tokens} is more than "
            f"rollout.max_response_tokens={rollout.max_response_tokens}: no response would ever be "
            "cut. Set it lower, or to null, which writes every response to its end in its own step."
        )
    if rollout.in_flight < per_step:
        raise ValueError(
            f"rollout.prompts_in_flight={in_flight} is less than rollout.prompts_per_step="
            f"{per_step}: no step would ever be full. Set it to {2 * per_step}, say."
        )
    if rollout.max_lag < fewest_steps(rollout):
        raise ValueError(
            f"rollout.max_lag={rollout.max_lag} with {rollout.in_flight} prompts in flight "
            f"(rollout.prompts_in_flight): at rollout.prompts_per_step={per_step} the last of them "
            f"is trained on {fewest_steps(rollout)} steps later. Set rollout.max_lag="
            f"{fewest_steps(rollout)} or more, or rollout.prompts_in_flight="
            f"{per_step * (rollout.max_lag + 1)} or less."
        )
    if config.sampling.name != "one_wave":
        raise ValueError(
            f"rollout.segment_tokens={rollout.segment_tokens} with sampling={config.sampling.name}: "
            "it looks at the rewards of a step's groups and then draws more under the same weights, "
            "but with segments a group is finished in a later step than it is begun in. Set "
            "sampling=one_wave, or rollout.segment_tokens=null."
        )


def _advantage(config: Config) -> None:
    if config.rollout.group_size == 1 and config.advantage.name in (
        "normalised",
        "quantile",
    ):
        raise ValueError(
            f"rollout.group_size=1 with advantage={config.advantage.name}: one reward minus its "
            "own baseline is always 0, so nothing is learned. Set rollout.group_size to 2 or more, or choose "
            "another advantage."
        )


def _placement(config: Config) -> None:
    if config.cluster.placement == "shared" and config.rollout.max_staleness > 0:
        raise ValueError(
            f"rollout.max_staleness={config.rollout.max_staleness} with cluster.placement=shared: "
            "engines sleep while the learner works, so rollouts cannot overlap with it. Set "
            "rollout.max_staleness=0 or cluster.placement=apart."
        )


def _head(config: Config) -> None:
    if config.learner.head == "triton" and config.cluster.gpus_per_rank == 0:
        raise ValueError(
            "learner.head=triton needs a GPU, and cluster.gpus_per_rank is 0. Write "
            "learner.head=auto, which uses Triton on GPUs only, or choose cluster=gpu."
        )


def _weights(config: Config) -> None:
    if config.weights.transport == "objects":
        return
    engine = ENGINES[config.rollout.engine]
    if not hasattr(engine, "receive_weights"):
        raise ValueError(
            f"weights.transport=broadcast with rollout.engine={config.rollout.engine}: "
            f"{engine.__name__} has no receive_weights. Set weights.transport=objects."
        )
    engines, ranks = config.rollout.num_actors, config.learner.num_ranks
    on_gpus = config.cluster.gpus_per_engine > 0
    if config.cluster.placement == "shared" and on_gpus and engines > ranks:
        raise ValueError(
            f"weights.transport=broadcast with cluster.placement=shared, rollout.num_actors={engines} "
            f"and learner.num_ranks={ranks}: an engine maps the weights of a rank on its own GPU, and "
            f"{engines - ranks} would have none there. Set rollout.num_actors={ranks}, or "
            "weights.transport=objects."
        )


def _devices(config: Config) -> None:
    # A dry run asks itself, and shows the rest of its plan too.
    if not config.run.dry:
        check_devices(config)


def check_devices(config: Config) -> None:
    """Check what a Ray of our own needs against this machine; a cluster says itself what it has."""
    if (config.cluster.address or variable("RAY_ADDRESS") or "local") != "local":
        return
    ranks = config.learner.num_ranks
    if config.cluster.gpus_per_rank == 0:
        cores = (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
        # Two ranks on one core are slow, but they are the smallest group there is.
        allowed = max(2, cores)
        if ranks > allowed:
            raise ValueError(
                f"learner.num_ranks={ranks} is more than this machine's CPU cores allow ({cores} "
                f"cores, at most {allowed} ranks). Set learner.num_ranks={allowed} or less, or use "
                "a cluster: cluster=existing."
            )
        return
    import torch

    gpus = torch.cuda.device_count()
    needed = gpus_needed(config)
    if needed > gpus:
        share = "" if config.cluster.placement == "shared" else " cluster=shared_gpu"
        fewer = f"Set learner.num_ranks=1 rollout.num_actors=1{share} for one GPU"
        raise ValueError(
            f"the run needs {needed:g} GPUs ({ranks} ranks and {config.rollout.num_actors} "
            f"engines, cluster.placement={config.cluster.placement}), this machine has {gpus}. "
            f"{fewer if gpus else 'Choose cluster=local for CPUs'}, or use a cluster: "
            "cluster=existing."
        )


def gpus_needed(config: Config) -> float:
    """Return the GPUs of all ranks and engines together."""
    cluster, rollout = config.cluster, config.rollout
    engines = rollout.num_actors * rollout.tensor_parallel * cluster.gpus_per_engine
    return config.learner.num_ranks * cluster.gpus_per_rank + engines


def _truncation(config: Config) -> None:
    rollout = config.rollout
    if config.token_weight.name != "none" and (rollout.top_p < 1 or rollout.top_k != -1):
        raise ValueError(
            f"a token_weight (its name is {config.token_weight.name}) with rollout.top_p="
            f"{rollout.top_p}, rollout.top_k={rollout.top_k}: the engine renormalises the logprobs of a truncated "
            "distribution, so their ratio to the learner's says nothing. Set rollout.top_p=1.0 "
            "rollout.top_k=-1, or token_weight=none."
        )


def check_evaluation(config: Config) -> None:
    """Raise ValueError for samples that would all be the same."""
    evaluation = config.evaluation
    if evaluation.temperature == 0 and evaluation.samples > 1:
        raise ValueError(
            f"evaluation.samples={evaluation.samples} with evaluation.temperature=0: greedy "
            "samples are all the same. Set evaluation.samples=1 or a temperature above 0."
        )


def _rewards(config: Config) -> None:
    if isinstance(config.task, OwnTaskConfig):  # only its code knows what a wrong answer gets
        return
    paid, wrong = config.rewards.reward_on_error, getattr(config.task, "reward_wrong", 0.0)
    if paid > wrong:
        key = " (task.reward_wrong)" if hasattr(config.task, "reward_wrong") else ""
        raise ValueError(
            f"rewards.reward_on_error={paid:g} is more than the {wrong:g} that task="
            f"{config.task.name} pays for a wrong answer{key}: answers whose check hangs or crashes "
            f"would pay. Leave it out, or set it to {wrong:g} or less."
        )
