"""What a run draws, trains on and writes: answers, tokens, disk, and hours as an estimate."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from transformers import PretrainedConfig

from isentropic.config import Config
from isentropic.controller.drawing.flight import Rules
from isentropic.experiments.dry.phases import go_through
from isentropic.learner.estimate import (
    count_trained,
    flops_per_token,
    memory_speed,
    peak_flops,
)
from isentropic.learner.model import count_parameters

# Assumed for the time estimate. A run's own metrics say what they are.
ANSWER_SHARE = 0.4  # a mean answer's part of rollout.max_response_tokens
SPREAD = 0.7  # of the logarithm of an answer's length
PROMPT_SHARE = 0.25  # same of prompts
# Measured on an H100 at 1.5 B: 0.28; 0.22 with gradient checkpointing, 0.39 with learner.compile.
MFU = 0.25  # of the learner
DECODE_SHARE = 0.6  # of the memory's speed that decoding reaches
DECODE_MFU = 0.4  # of the peak, with many answers at once
STEP_S = 0.005  # of an engine's step, whatever it computes
# Weights from the ranks to all engines. Measured on an H100 with 0.7 GB: 0.6e9 through Ray's object
# store, 2e9 lent on the same GPU; a broadcast between GPUs is assumed to be no slower than that.
SYNC_BYTES_PER_SECOND = {"objects": 0.5e9, "broadcast": 2e9}

# What phases of a run in segments are estimated from.
PHASES = 12
PHASE_PROMPTS = 32  # of a step, at most
PHASE_SEGMENTS = 64  # of the longest answer, at most

EVALUATION_SHARE = 0.25  # of all answers; more is warned of

LEDGER_BYTES = 5.6  # per token, compressed; measured
CHECKPOINT_BYTES = 12  # per parameter: weights and two moments in float32


@dataclass(frozen=True, kw_only=True)
class Work:
    """Of one step, and of one evaluation."""

    prompts: int  # drawn at most
    answers: int  # same
    answers_in_flight: int  # written at once if there is room; with segments more than a step takes
    trained: int  # answers trained on
    prompt_tokens: float  # of a mean prompt
    answer_tokens: float  # of a mean answer
    most_answer_tokens: int
    most_prompt_tokens: int
    evaluation_answers: int
    evaluations: int  # in the whole run
    start_answers: int  # once, for the entropy of the start

    @property
    def drawn_tokens(self) -> float:
        """Of a step's answers, as estimated."""
        return self.answers * self.answer_tokens

    @property
    def most_tokens(self) -> int:
        """Of a step's answers and prompts if each is as long as it may be."""
        return self.answers * (self.most_answer_tokens + self.most_prompt_tokens)


def find_work(config: Config, *, held_out: int | None) -> Work:
    """Counts what the config asks for.

    Args:
        held_out: prompts that the task has to evaluate on; None if it could not be read.
    """
    rollout, sampling, evaluation = config.rollout, config.sampling, config.evaluation
    prompts = getattr(sampling, "draw_prompts", rollout.prompts_per_step) * getattr(
        sampling, "max_draws", 1
    )
    answers = prompts * (rollout.group_size + getattr(sampling, "explore_size", 0))
    in_flight = answers
    if rollout.segment_tokens is not None:
        in_flight = rollout.in_flight * rollout.group_size
    of_a_set = evaluation.prompts if held_out is None else min(evaluation.prompts, held_out)
    evaluations = 0
    if evaluation.every and of_a_set:
        # At the start, every n steps, and at the end.
        evaluations = 1 + -(-config.run.steps // evaluation.every)
    return Work(
        prompts=prompts,
        answers=answers,
        answers_in_flight=in_flight,
        trained=min(prompts, rollout.prompts_per_step) * rollout.group_size,
        prompt_tokens=PROMPT_SHARE * rollout.max_prompt_tokens,
        answer_tokens=ANSWER_SHARE * rollout.max_response_tokens,
        most_answer_tokens=rollout.max_response_tokens,
        most_prompt_tokens=rollout.max_prompt_tokens,
        evaluation_answers=of_a_set * evaluation.samples if evaluations else 0,
        evaluations=evaluations,
        start_answers=of_a_set,
    )


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes at the end of the run."""

    ledger: float
    checkpoints: int

    @property
    def total(self) -> float:
        return self.ledger + self.checkpoints


def find_disk(config: Config, model: PretrainedConfig, work: Work) -> Disk:
    """What the run folder grows to; the ledger is never pruned, nor are answers of evaluations."""
    # What each step leaves in flight is written too: so answers_in_flight, and not answers.
    held_out = work.evaluations * work.evaluation_answers + work.start_answers
    tokens = work.answer_tokens + work.prompt_tokens
    lora = config.learner.lora
    trained = count_parameters(model) if lora is None else count_trained(model, lora)
    # One more while it is written.
    kept = config.checkpoint.keep_last + config.checkpoint.keep_best + 1
    return Disk(
        ledger=LEDGER_BYTES * tokens * (work.answers_in_flight * config.run.steps + held_out),
        checkpoints=kept * CHECKPOINT_BYTES * trained,
    )


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds, estimated."""

    rollout: float
    learner: float
    sync: float
    evaluation: float
    step: float
    run: float


def estimate_times(
    config: Config, model: PretrainedConfig, work: Work, *, gpu: str | None, cache: int | None
) -> Times | None:
    """Seconds of a step and of the run; None on CPUs and on GPUs that are not in the tables.

    The learner is bound by arithmetic. An engine reads its weights and the cache of all answers for
    each token of each; a step lasts at least as long as the longest answer. With
    `rollout.segment_tokens` it lasts as long as its phase (`phases.py`): a step still draws as many
    tokens as it takes, because what is carried is written later.

    Args:
        gpu: its name.
        cache: bytes of a token in an engine's cache, on each device.
    """
    peak, speed = (find(gpu or "") for find in (peak_flops, memory_speed))
    if peak is None or speed is None or cache is None or not config.cluster.gpus_per_rank:
        return None
    length = work.prompt_tokens + work.answer_tokens
    # The old-policy pass over all that was drawn; an update, whose layers may run forward twice.
    forward = flops_per_token(model, length, backward=False)
    passes = 4 if config.learner.gradient_checkpointing else 3
    flops = forward * length * (work.answers + passes * work.trained)
    learner = flops / (config.learner.num_ranks * peak * MFU)

    engines = Engines.of(config, model, work, peak=peak, speed=speed, cache=cache)
    sync = count_parameters(model) * getattr(torch, config.rollout.dtype).itemsize
    sync /= SYNC_BYTES_PER_SECOND[config.weights.transport]
    if config.rollout.segment_tokens is None:
        rollout = engines.draw(work.answers)
    else:
        rollout = engines.draw_phase(config, work.answers_in_flight)
    overlapped = config.rollout.max_staleness > 0
    step = (max(rollout, learner) if overlapped else rollout + learner) + sync
    evaluation = 0.0
    if work.evaluation_answers:
        # Drawn whole, with segments too.
        evaluation = engines.draw(work.evaluation_answers)
    return Times(
        rollout=rollout,
        learner=learner,
        sync=sync,
        evaluation=evaluation,
        step=step,
        run=config.run.steps * step + work.evaluations * evaluation,
    )


@dataclass(frozen=True, kw_only=True)
class Engines:
    """What bounds an engine while it writes, and how many there are."""

    count: int
    most: int  # answers that one writes at once
    answer_tokens: float
    longest: int
    weight_bytes: float  # per device
    cache_bytes: float  # of an answer on its way
    token_flops: float  # per device
    speed: float
    peak: float

    @classmethod
    def of(
        cls,
        config: Config,
        model: PretrainedConfig,
        work: Work,
        *,
        peak: float,
        speed: float,
        cache: int,
    ) -> "Engines":
        rollout = config.rollout
        parameters = count_parameters(model)
        context = (work.prompt_tokens + work.answer_tokens / 2) * cache
        room = max(1, int(rollout.kv_cache_gib * 2**30 / context))
        return cls(
            count=rollout.num_actors,
            most=min(rollout.max_num_seqs, room),
            answer_tokens=work.answer_tokens,
            longest=work.most_answer_tokens,
            weight_bytes=parameters
            * getattr(torch, rollout.dtype).itemsize
            / rollout.tensor_parallel,
            cache_bytes=context,
            token_flops=2 * parameters / rollout.tensor_parallel,
            speed=speed,
            peak=peak,
        )

    def draw(self, answers: int) -> float:
        """Seconds until so many whole answers are there."""
        per_engine = -(-answers // self.count)
        at_once = max(1, min(per_engine, self.most))
        tokens = per_engine * self.answer_tokens
        return max(tokens / at_once * self._step(at_once), self.longest * self._step(1))

    def draw_phase(self, config: Config, in_flight: int) -> float:
        """Seconds of a phase, as they are on average once a run is under way."""
        rollout = config.rollout
        # Of many prompts a share behaves as they do together, and so do the longer segments.
        share = min(1.0, PHASE_PROMPTS / rollout.prompts_per_step)
        per_step = round(share * rollout.prompts_per_step)
        slots = max(1, self.count * min(-(-in_flight // self.count), self.most))
        held = max(per_step, round(share * rollout.in_flight))
        drawn = go_through(
            _lengths(self.answer_tokens, self.longest),
            replace(Rules.of(rollout), per_step=per_step, in_flight=held),
            group_size=rollout.group_size,
            segment=max(rollout.segment_tokens, self.longest // PHASE_SEGMENTS),
            slots=max(1, round(share * slots)),
            steps=PHASES + PHASES // 2,
            skipped=PHASES // 2,
        )
        busy = drawn.tokens / drawn.lasted / share / self.count
        return drawn.lasted / PHASES * self._step(busy)

    def _step(self, answers: float) -> float:
        """Seconds in which each of so many answers gets a token."""
        memory = (self.weight_bytes + answers * self.cache_bytes) / (self.speed * DECODE_SHARE)
        arithmetic = self.token_flops * answers / (self.peak * DECODE_MFU)
        return max(memory, arithmetic) + STEP_S


def _lengths(mean: float, longest: int) -> Iterator[int]:
    """Lengths of answers that are log-normal around `mean`; the same ones each time."""
    rng = np.random.default_rng(0)
    while True:
        drawn = rng.lognormal(np.log(mean) - SPREAD**2 / 2, SPREAD, size=1024)
        yield from np.clip(drawn, 1, longest).astype(int)
