"""One live vLLM engine: takes Requests, gives Completions as they finish, takes new weights between them.

Nothing but this folder imports vllm. On a CPU the engine runs in this process and leaves it with one torch thread.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from isentropic.config import RolloutConfig
from isentropic.images import BANNED, KINDS, Images, banned_tokens, load_images, same_tokens
from isentropic.records import Completion, Request
from isentropic.rollout import torchvision_cpu
from isentropic.rollout.checks import check_request, describe
from isentropic.rollout.options import engine_options, image_options, parameter_shapes
from isentropic.weights.buckets import Bucket, check_buckets

YIELD_EVERY_S = 0.2  # while requests run, finished ones are handed over in batches

ENGINE_ENV = {  # read by vLLM when it is imported
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
CPU_ENV = {
    "TORCHDYNAMO_DISABLE": "1"
}  # the sampler would compile for up to 15 s at the first request


@dataclass
class _Call:
    """One `generate` in flight: what it still waits for, and what finished since its last yield."""

    waiting: dict[str, Request] = field(default_factory=dict)
    done: deque[Completion] = field(default_factory=deque)  # another thread may be adding to it
    error: BaseException | None = None

    def take(self) -> list[Completion]:
        return [self.done.popleft() for _ in range(len(self.done))]


class Engine:
    """One vLLM engine. `generate` may be called from several threads; they share the engine's steps."""

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
        """Loads the model of `model_path` as policy version 0. `device` is "cpu" or "cuda".

        `image_pixels` as in `ModelConfig`. Raises ValueError where a model reads images and vLLM cannot.
        """
        for key, value in {**ENGINE_ENV, **(CPU_ENV if device == "cpu" else {})}.items():
            os.environ.setdefault(key, value)
        from transformers import AutoConfig, PretrainedConfig

        source = {"revision": revision, "trust_remote_code": trust_remote_code}
        # Before the model's own modules are imported: they ask once whether there is a torchvision.
        if PretrainedConfig.get_config_dict(model_path, **source)[0].get("model_type") in KINDS:
            torchvision_cpu.add()
        about = AutoConfig.from_pretrained(model_path, **source)
        self._images = load_images(model_path, about, image_pixels, revision)
        self._banned = dict.fromkeys(banned_tokens(about), BANNED) or None
        from vllm import LLM  # seconds, and only after the environment is set

        self.policy_version = 0
        self.max_length = max_length
        self._sleeps = sleep_mode and device == "cuda"
        self.llm = LLM(
            model=model_path,
            **source,
            seed=seed,
            disable_log_stats=True,
            enable_sleep_mode=self._sleeps,
            worker_extension_cls="isentropic.rollout.worker.WorkerExtension",
            **engine_options(config, max_length, device),
            **image_options(self._images),
        )
        self._core = self.llm.llm_engine
        self._dtype = getattr(torch, config.dtype)
        self._parameters = parameter_shapes(about, trust_remote_code)
        self._vocab_size = self._core.model_config.get_vocab_size()
        self._calls: dict[str, _Call] = {}  # by request id
        self._admitting = threading.Lock()  # guards the engine's queue and _calls
        self._stepping = threading.Lock()  # held by the one call that steps the engine for all
        self._next_id = 0
        self.steps = 0
        self.tokens = 0

    @property
    def num_running(self) -> int:
        """Requests not answered yet."""
        return len(self._calls)

    def generate(
        self, requests: Iterable[Request], *, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[list[Completion]]:
        """Samples one completion a request; yields those that finished since the last yield, a few times a second.

        Tokens depend on the request alone (prompt, seed, temperature, ...) and the weights, never on what else runs.
        `logprob` is at the request's temperature, after top-p and top-k (temperature 0: greedy, at temperature 1).
        Raises ValueError for a request that does not fit, before any is started. A caller that stops reading, or an
        error, leaves no request of this call in the engine; `cancelled` is asked between steps, and ends it early.
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

    def load_weights(self, policy_version: int, buckets: Iterable[Bucket]) -> None:
        """Loads, resets the prefix cache and sets the version: one call, so that none of them can be left out.

        `buckets` is read twice: all is checked (names, shapes, dtype, finite values, checksums) before the first
        tensor is written, so a refused load leaves the engine as it was. No request may be running.
        Raises ValueError where the weights do not fit.
        """
        if self.num_running:
            raise RuntimeError(
                f"{self.num_running} requests are running; weights are loaded between requests."
            )
        check_buckets(buckets, self._parameters, self._dtype)
        with self._stepping, self._admitting:
            self.llm.collective_rpc("isentropic_begin_load")
            for bucket in buckets:
                self.llm.collective_rpc("isentropic_load", args=(bucket,))
            self.llm.collective_rpc("isentropic_end_load")
            # With stale key-value blocks logprobs are wrong by several nats.
            if not self.llm.reset_prefix_cache():
                raise RuntimeError(
                    "vLLM did not reset its prefix cache: it still holds blocks of running requests."
                )
            if self._images:
                self._core.reset_encoder_cache()  # what the old vision tower saw
            self.policy_version = policy_version

    def sleep(self) -> None:
        """Gives back the GPU's memory, weights kept on the host; nothing where the engine has no sleep mode."""
        if self._sleeps:
            self.llm.sleep(level=1)

    def wake(self) -> None:
        if self._sleeps:
            self.llm.wake_up()

    def close(self) -> None:
        """Ends the engine and the processes it started."""
        self._core.engine_core.shutdown()

    def _admit(self, requests: list[Request]) -> _Call:
        """Puts all requests into the engine's queue, or none."""
        for request in requests:
            check_request(
                request,
                max_length=self.max_length,
                vocab_size=self._vocab_size,
                reads_images=self._images is not None,
            )
        prepared = [prepare(request, self._images, self._banned) for request in requests]
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
        """One step of the engine by this thread, or a short wait while another thread steps it."""
        if not self._stepping.acquire(blocking=False):
            time.sleep(0.01)
            return
        try:
            if not call.waiting:  # answered while this thread was on its way
                return
            with self._admitting:
                for output in self._core.step():
                    self._deliver(output)
            self.steps += 1
        except BaseException as error:
            for other in {id(each): each for each in self._calls.values()}.values():
                other.error = error
            raise
        finally:
            self._stepping.release()

    def _deliver(self, output) -> None:
        """Hands a finished vLLM output to the call that asked for it: there before it is no longer waited for."""
        call = self._calls[output.request_id]
        request = call.waiting[output.request_id]
        if request.media and not same_tokens(output.prompt_token_ids, request.token_ids):
            raise RuntimeError(
                f"{describe(request)}: vLLM made {len(output.prompt_token_ids)} tokens of a prompt with images, the "
                f"learner would read {len(request.token_ids)}. Its image processor does not follow model.image_pixels."
            )
        sampled = output.outputs[0]
        token_ids = np.asarray(sampled.token_ids, dtype=np.int64)
        assert sampled.finish_reason in ("stop", "length"), (
            f"vLLM finished by {sampled.finish_reason!r}"
        )
        assert len(sampled.logprobs.logprobs) == len(token_ids), "one logprob a token"
        self.tokens += len(token_ids)
        call.done.append(
            Completion(
                key=request.key,
                turn=request.turn,
                token_ids=token_ids,
                logprob=np.asarray(sampled.logprobs.logprobs, dtype=np.float32),
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


def prepare(
    request: Request, images: Images | None = None, banned: dict[int, float] | None = None
) -> tuple:
    """vLLM's prompt and sampling parameters; ValueError naming the request where vLLM refuses a value."""
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
            logprobs=0,  # the sampled token's, and no other
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
    token_ids = images.collapse(
        request.token_ids
    ).tolist()  # vLLM puts in as many image tokens as it makes
    return TokensPrompt(prompt_token_ids=token_ids, multi_modal_data=pixels), sampling
