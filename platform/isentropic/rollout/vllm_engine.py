"""Runs one vLLM engine: Requests in, Completions out as they finish, new weights in between.

On a CPU the engine runs in this process and leaves it with one torch thread. An engine over several
devices has a process for each, and ends this one when it loses one of them.
"""

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch

from isentropic.config import RolloutConfig
from isentropic.images import BANNED, KINDS, Images, banned_tokens, load_images, same_tokens
from isentropic.records import Completion, Request, Usage
from isentropic.rollout import torchvision_cpu
from isentropic.rollout.checks import check_logprob, check_request, describe
from isentropic.rollout.gpu_memory import GpuMemory
from isentropic.rollout.head_sizes import unsupported_head_size
from isentropic.rollout.options import (
    engine_options,
    image_options,
    memory_share,
    parameter_shapes,
)
from isentropic.rollout.processes import Processes
from isentropic.rollout.usage import UsageCounter
from isentropic.rollout.vllm_packages import missing_package
from isentropic.weights.buckets import Bucket, check_buckets
from isentropic.weights.channel import Round, RoundBroken
from isentropic.weights.inbox import expected_layout
from isentropic.weights.shared import in_shared_memory

UNFINISHED = -1  # policy version of an engine whose last load ended in the middle
YIELD_EVERY_S = 0.2  # while requests run, finished ones are handed over in batches

# Read by vLLM when it is imported.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
CPU_ENVIRONMENT = {
    # Else the sampler compiles for up to 15 s at the first request.
    "TORCHDYNAMO_DISABLE": "1",
    # Else an engine of several processes wants a NUMA node for each.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
# Chosen outside the run's config, by who knows vLLM: an actor does not inherit the driver's.
PASSED_ON = ("VLLM_BATCH_INVARIANT",)


@dataclass
class _Call:
    """One `generate` in flight: what it still waits for, and what finished since its last yield."""

    waiting: dict[str, Request] = field(default_factory=dict)
    # Another thread may be adding to it.
    done: deque[Completion] = field(default_factory=deque)
    error: BaseException | None = None

    def take(self) -> list[Completion]:
        return [self.done.popleft() for _ in range(len(self.done))]


class VllmEngine:
    """`rollout.Engine` by vLLM. Threads that call `generate` at once share the engine's steps."""

    def __init__(
        self,
        model_path: str,
        config: RolloutConfig,
        *,
        max_length: int,
        device: str,
        seed: int = 0,
        revision: str | None = None,
        trust_remote_code: bool = False,
        sleep_mode: bool = False,
        image_pixels: tuple[int, int] | None = None,
    ) -> None:
        """Loads the model folder. Raises ValueError if the model reads images and vLLM cannot."""
        for key, value in self.environment(device).items():
            os.environ.setdefault(key, value)
        from transformers import AutoConfig, PretrainedConfig

        source = {"revision": revision, "trust_remote_code": trust_remote_code}
        # Before the model's own modules are imported: they ask once whether there is a torchvision.
        if PretrainedConfig.get_config_dict(model_path, **source)[0].get("model_type") in KINDS:
            torchvision_cpu.add()
        hf_config = AutoConfig.from_pretrained(model_path, **source)
        self._images = load_images(model_path, hf_config, image_pixels, revision)
        self._banned = dict.fromkeys(banned_tokens(hf_config), BANNED) or None
        self._dtype = getattr(torch, config.dtype)
        self._parameters = parameter_shapes(hf_config, trust_remote_code)
        options = engine_options(config, max_length, device) | image_options(self._images)
        # Takes seconds, and reads the environment that was set above.
        from vllm import LLM
        from vllm.platforms import current_platform

        if device == "cuda":
            weights = sum(map(math.prod, self._parameters.values())) * self._dtype.itemsize
            device_bytes = current_platform.get_device_total_memory()
            options["gpu_memory_utilization"] = memory_share(config, weights, device_bytes)
        self.policy_version = 0
        self.max_length = max_length
        shared = sleep_mode and device == "cuda"
        self.llm = LLM(
            model=model_path,
            **source,
            seed=seed,
            disable_log_stats=False,
            enable_sleep_mode=shared,
            worker_extension_cls="isentropic.rollout.worker.extension.WorkerExtension",
            weight_transfer_config={"backend": "isentropic"},
            **options,
        )
        self._core = self.llm.llm_engine
        self._memory = GpuMemory(self.llm, shared=shared)
        self._usage = UsageCounter()
        self._core.logger_manager.stat_loggers = [self._usage]
        self._several_processes = config.tensor_parallel > 1
        self._processes = Processes(self._core.model_executor if self._several_processes else None)
        self._vocab_size = self._core.model_config.get_vocab_size()
        self.steps = 0
        self.tokens = 0
        self._next_id = 0
        self._calls: dict[str, _Call] = {}  # by request id
        # Guards the engine's queue and `_calls`.
        self._admitting = threading.Lock()
        # Held by the one call that steps the engine for all.
        self._stepping = threading.Lock()

    @property
    def num_running(self) -> int:
        """Requests not answered yet."""
        return len(self._calls)

    def generate(
        self, requests: Iterable[Request], *, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[list[Completion]]:
        """Samples one completion per request; yields finished ones a few times per second.

        As `Engine.generate`; a request of temperature 0 is greedy, its logprobs are at temperature
        1. `cancelled` is asked between steps.
        """
        call = self._admit(list(requests))
        yielded = time.monotonic()
        try:
            while call.waiting and not cancelled():
                self._advance(call)
                if call.error is not None:
                    raise RuntimeError(
                        "the engine failed while another call was stepping it"
                    ) from call.error
                if call.done and time.monotonic() - yielded >= YIELD_EVERY_S:
                    yield call.take()
                    yielded = time.monotonic()
            if call.done:
                yield call.take()
        finally:
            self._abandon(call)

    def load_weights(self, policy_version: int, buckets: Iterable[Bucket]) -> dict[str, float]:
        """Loads, resets the prefix cache and sets the version: one call, so that none is left out.

        `buckets` is read twice: all is checked (names, shapes, dtype, finite values, checksums)
        before the first tensor is written, so a refused load leaves the engine as it was. Raises
        ValueError if the weights do not fit, RuntimeError if a request is running. Returns the
        seconds of both passes; the first waits for buckets that come from another machine.
        """
        start = time.perf_counter()
        check_buckets(buckets, self._parameters, self._dtype)
        checked = time.perf_counter()
        with self._new_weights(policy_version):
            self._write(buckets)
        return {"check_s": checked - start, "load_s": time.perf_counter() - checked}

    def receive_weights(self, meeting: Round, first_rank: int) -> dict[str, float]:
        """As `Engine.receive_weights`, in each of the engine's processes at once."""
        layout = expected_layout(meeting, self._parameters, self._dtype)
        join = {"meeting": meeting, "first_rank": first_rank}
        with self._new_weights(meeting.policy_version):
            try:
                self.llm.collective_rpc("init_weight_transfer_engine", args=(join,))
                seconds = self.llm.collective_rpc("isentropic_receive", args=(len(layout.parcels),))
            except RuntimeError as error:
                # vLLM passes on no more of another process's error than its text.
                if self._several_processes:
                    raise RoundBroken(str(error)) from error
                raise
        return {phase: max(each[phase] for each in seconds) for phase in seconds[0]}

    def sleep(self) -> None:
        with self._processes.needed():
            self._memory.give_up()

    def take_usage(self) -> Usage:
        return self._usage.take()

    def close(self) -> None:
        """Ends the engine and the processes it started."""
        self._core.engine_core.shutdown()

    @staticmethod
    def environment(device: str) -> dict[str, str]:
        chosen = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
        return chosen | ENVIRONMENT | (CPU_ENVIRONMENT if device == "cpu" else {})

    @staticmethod
    def missing(device: str, *, images: bool) -> str:
        return missing_package(device) or (torchvision_cpu.missing() if images else "")

    @staticmethod
    def unsupported(head_size: int | None, device: str) -> str:
        return unsupported_head_size(head_size, device)

    @contextmanager
    def _new_weights(self, policy_version: int) -> Iterator[None]:
        """All of the weights are written inside; then drops what was cached under the old ones.

        If they are not, the engine has no version that anyone asks for.
        """
        if self.num_running:
            raise RuntimeError(
                f"{self.num_running} requests are running; weights are loaded between requests."
            )
        with self._stepping, self._admitting, self._processes.needed():
            self.policy_version = UNFINISHED
            with self._memory.taken_back():
                yield
            # With stale key-value blocks logprobs are wrong by several nats.
            if not self.llm.reset_prefix_cache():
                raise RuntimeError(
                    "vLLM did not reset its prefix cache: it still holds blocks of running "
                    "requests."
                )
            # It holds what the old vision tower saw.
            if self._images:
                self._core.reset_encoder_cache()
            self.policy_version = policy_version

    def _write(self, buckets: Iterable[Bucket]) -> None:
        """Writes the weights into the live model, in each of the engine's processes."""
        self.llm.collective_rpc("isentropic_begin_load")
        for bucket in buckets:
            if self._several_processes:
                # vLLM's queue would copy it through a socket, once for each process.
                with in_shared_memory(bucket) as shared:
                    self.llm.collective_rpc("isentropic_load", args=(shared,))
            else:
                self.llm.collective_rpc("isentropic_load", args=(bucket,))
        self.llm.collective_rpc("isentropic_end_load")

    def _admit(self, requests: list[Request]) -> _Call:
        """Puts all requests into the engine's queue, or none."""
        assert not self._memory.asleep, "an engine that sleeps has no weights: load some first"
        for request in requests:
            check_request(
                request,
                max_length=self.max_length,
                vocab_size=self._vocab_size,
                reads_images=self._images is not None,
            )
        prepared = [vllm_inputs(request, self._images, self._banned) for request in requests]
        call = _Call()
        with self._admitting:
            try:
                for request, (prompt, sampling) in zip(requests, prepared, strict=True):
                    name = str(self._next_id)
                    self._next_id += 1
                    call.waiting[name] = request
                    self._calls[name] = call
                    self._core.add_request(name, prompt, sampling)
            except BaseException:
                self._remove(call)
                raise
        return call

    def _advance(self, call: _Call) -> None:
        """Makes one step of the engine, or waits a little while another thread steps it."""
        if not self._stepping.acquire(blocking=False):
            time.sleep(0.01)
            return
        try:
            # Another thread may have answered it while this one was on its way.
            if not call.waiting:
                return
            with self._admitting, self._processes.needed():
                for output in self._core.step():
                    self._deliver(output)
            self.steps += 1
        except BaseException as error:
            for other in list(self._calls.values()):
                other.error = error
            raise
        finally:
            self._stepping.release()

    def _deliver(self, output) -> None:
        """Hands a finished vLLM output to its call, before that call stops waiting for it."""
        call = self._calls[output.request_id]
        request = call.waiting[output.request_id]
        if request.media and not same_tokens(output.prompt_token_ids, request.token_ids):
            raise RuntimeError(
                f"{describe(request)}: vLLM made {len(output.prompt_token_ids)} tokens of a prompt "
                f"with images, the learner would read {len(request.token_ids)}. Its image "
                "processor does not follow model.image_pixels."
            )
        sampled = output.outputs[0]
        token_ids = np.asarray(sampled.token_ids, dtype=np.int64)
        assert sampled.finish_reason in ("stop", "length"), (
            f"vLLM finished by {sampled.finish_reason!r}"
        )
        logprob = np.asarray(sampled.logprobs.logprobs, dtype=np.float32)
        assert len(logprob) == len(token_ids), "one logprob per token"
        check_logprob(request, logprob)
        self.tokens += len(token_ids)
        call.done.append(
            Completion(
                key=request.key,
                turn=request.turn,
                token_ids=token_ids,
                logprob=logprob,
                finish_reason=sampled.finish_reason,
                policy_version=self.policy_version,
            )
        )
        del self._calls[output.request_id], call.waiting[output.request_id]

    def _abandon(self, call: _Call) -> None:
        if call.waiting:
            with self._stepping, self._admitting:
                self._remove(call)

    def _remove(self, call: _Call) -> None:
        """Aborts what `call` still waits for. vLLM ignores names that it does not know."""
        names = list(call.waiting)
        for name in names:
            self._calls.pop(name, None)
        call.waiting.clear()
        self._core.abort_request(names)


def vllm_inputs(
    request: Request, images: Images | None = None, banned: dict[int, float] | None = None
) -> tuple:
    """Returns vLLM's prompt and sampling parameters.

    Raises ValueError, naming the request, if vLLM refuses a value.
    """
    from vllm import SamplingParams, TokensPrompt
    from vllm.exceptions import VLLMValidationError
    from vllm.sampling_params import RequestOutputKind

    try:
        sampling = SamplingParams(
            temperature=request.temperature,
            top_p=request.top_p,
            top_k=request.top_k,
            seed=request.seed,
            max_tokens=request.max_tokens,
            logprobs=0,  # only the sampled token's
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,
            logit_bias=banned,
        )
    except VLLMValidationError as error:
        raise ValueError(f"{describe(request)}: {error}") from error
    if not request.media:
        return TokensPrompt(prompt_token_ids=request.token_ids.tolist()), sampling
    pixels = {"image": [images.read(reference) for reference in request.media]}
    # vLLM puts in as many image tokens as its processor makes; they must not be there twice.
    token_ids = images.collapse(request.token_ids).tolist()
    return TokensPrompt(prompt_token_ids=token_ids, multi_modal_data=pixels), sampling
