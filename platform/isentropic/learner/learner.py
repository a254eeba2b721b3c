"""One learner rank: the old-policy pass, K updates on packed microbatches, their state."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from isentropic.config import LearnerConfig, ModelConfig
from isentropic.durable import FileEntry
from isentropic.images import load_images
from isentropic.learner import sharding
from isentropic.learner.books import Books, Owners, clip_scale
from isentropic.learner.books.shards import Shards, local_gradients
from isentropic.learner.context_parallel import ContextGroup
from isentropic.learner.estimate import flops_per_token, peak_flops
from isentropic.learner.export import write_folder
from isentropic.learner.images import ImageReader
from isentropic.learner.minibatch import minibatch_gradients
from isentropic.learner.model import PackedModel
from isentropic.learner.optimizer import (
    build_optimizer,
    learning_rate,
    set_learning_rate,
    trained_parameters,
)
from isentropic.learner.state import begin_save, copy_state, load_state, put_back, same_state
from isentropic.models.adapters import Adapter, adapters_off, merge, weights_and_adapters
from isentropic.models.routers import find_routers
from isentropic.objectives.loss.leaves import leaf_gradients, step_loss
from isentropic.objectives.loss.needs import required_fields
from isentropic.objectives.loss.objective import ObjectiveConfig
from isentropic.objectives.terms import TermsConfig
from isentropic.objectives.tokens.statistics import TokenStatistics
from isentropic.records import (
    Floats,
    MicroBatch,
    RouterUse,
    StepBatch,
    StepResult,
    TokenScores,
    UpdateResult,
)
from isentropic.seeds import hash_seed
from isentropic.shared_gpu.offload import Offload, state_tensors
from isentropic.weights.gathering import TOGETHER_BYTES, full, gather
from isentropic.weights.groups import in_groups

FROM_MODEL = ("logprob", "entropy")


class Learner:
    """Owns weights, optimizer and `policy_version`.

    Every method is collective: all ranks call it together.

    Args:
        config, model: the run's; `model.path` is a folder or a Hub name.
        objective, terms: what `objectives.loss.leaves.step_loss` is called with.
        temperature: the first wave's; logprobs, entropy and loss are at this temperature.
        total_updates: optimizer steps of the whole run, for the schedule.
        reference: keep a frozen copy of the initial model, sharded too. With adapters it is the
            trained model itself, with its adapters off.
        rank, world_size, init_method: as in `sharding.join`.
    """

    def __init__(
        self,
        *,
        config: LearnerConfig,
        model: ModelConfig,
        objective: ObjectiveConfig,
        terms: TermsConfig | None = None,
        temperature: float,
        total_updates: int,
        reference: bool = False,
        rank: int = 0,
        world_size: int = 1,
        init_method: str | None = None,
        seed: int = 0,
    ) -> None:
        self.policy_version = 0
        self._config = config
        self._model_config = model
        self._rank = rank
        self._remembered: dict[str, Tensor] = {}
        self._offload = Offload()
        self._own_group = not dist.is_initialized()
        self._mesh = sharding.join(
            rank=rank,
            world_size=world_size,
            init_method=init_method,
            timeout_s=config.collective_timeout_s,
            replicas=config.replicas,
            deterministic=config.deterministic,
        )
        self._context: ContextGroup | None = None
        if config.context_parallel > 1:
            self._context = ContextGroup(config.context_parallel, config.collective_timeout_s)
        self._gloo = sharding.host_group(config.timeout_s)
        self._device = torch.device(self._mesh.device_type)
        torch.manual_seed(hash_seed("learner", seed, rank))
        build = partial(
            sharding.build,
            model,
            config,
            self._mesh,
            temperature=temperature,
            context=self._context,
        )
        self._model, self._keep_gathered = build(trained=True)
        # Compiled layers would be cut into pieces where a router is watched.
        self._routers = None if config.compile else find_routers(self._model.lm, self._device)
        self._trained = list(trained_parameters(self._model).values())
        size = sum(each.numel() for each in self._trained)
        self._reduce_each_microbatch = not sharding.may_stand_unsharded(size, config)
        self._with_reference = reference
        copied = reference and config.lora is None
        self._reference = build(trained=False)[0] if copied else None
        self._images = _image_reader(self._model, model)
        self.configure(config=config, objective=objective, terms=terms, total_updates=total_updates)

    def configure(
        self,
        *,
        config: LearnerConfig,
        objective: ObjectiveConfig,
        terms: TermsConfig | None,
        total_updates: int,
    ) -> None:
        """Sets objective and hyper-parameters; the weights stay, AdamW starts afresh.

        The model stays as it was built: `config` must agree with it in dtype, compile, vocab_chunk
        and the like.
        """
        self._config = config
        self._objective = objective
        self._terms = terms
        self._total_updates = total_updates
        self._fields = required_fields(objective, terms) - set(FROM_MODEL) | {"token_weight"}
        self._needs_minibatch = objective.needs_minibatch
        self._optimizer = build_optimizer(self._model, config)
        self._owners: Owners | None = None

    def remember(self) -> None:
        """Copies weights, optimizer and policy version in memory, replacing an earlier copy."""
        self._remembered = copy_state(self._model.lm, self._optimizer, self.policy_version)

    def recall(self) -> None:
        """Restores what `remember` kept, bit for bit, also under another configuration."""
        self.policy_version = put_back(self._remembered, self._model.lm, self._optimizer)

    def is_remembered(self) -> bool:
        """Returns whether this rank's state is what `remember` kept, to the bit.

        The state is weights, optimizer and policy version.
        """
        return same_state(
            self._remembered, copy_state(self._model.lm, self._optimizer, self.policy_version)
        )

    def score(
        self, microbatches: Sequence[MicroBatch], reference: bool = False
    ) -> list[TokenScores]:
        """Computes each microbatch's token statistics under the current weights.

        With `reference` also `ref_logprob`, under the frozen initial model.
        """
        if reference and not self._with_reference:
            raise ValueError(
                "reference scores were requested, but the learner has no reference model. "
                "Build it with reference=True."
            )
        scores = [self._host(part) for part in self._statistics(self._model, microbatches)]
        if not reference:
            return [TokenScores(**score) for score in scores]
        frozen = [self._host(part) for part in self._reference_statistics(microbatches)]
        return [
            TokenScores(**score, ref_logprob=other["logprob"])
            for score, other in zip(scores, frozen, strict=True)
        ]

    def update(self, batch: StepBatch) -> StepResult:
        """One optimizer step for each minibatch of the batch, in order; there may be none."""
        books = self._open_books(batch) if batch.contexts and batch.updates else None
        updates = tuple(self._update(batch, index, books) for index in range(len(batch.updates)))
        return StepResult(
            updates=updates, policy_version=self.policy_version, mfu=self._mfu(batch, updates)
        )

    def named_weights(self, dtype: torch.dtype = torch.float32) -> Iterator[tuple[str, Tensor]]:
        """Yields (Hugging Face name, full tensor on the device) per weight, tied ones once.

        Adapters are merged in `dtype`: in that of the forward pass, to the bits of the learner's.
        Tensors are gathered when the iterator reaches them, small ones together: every rank must go
        through to the end. On a single rank a tensor may share memory with the weight itself; copy
        what must outlive the next update. While the state is on the host, only what the next
        tensors need comes to the device, and leaves it as the iterator goes on.
        """

        def size(entry: tuple[str, Tensor, Adapter | None]) -> int:
            return sum(tensor.numel() * dtype.itemsize for tensor in _read_for(entry))

        for group in in_groups(weights_and_adapters(self._model.lm), size, TOGETHER_BYTES):
            read = [tensor for entry in group for tensor in _read_for(entry)]
            with self._offload.visit(read):
                gathered = gather(read, dtype)
                for name, _, adapter in group:
                    weight = gathered.pop(0)  # kept here, a merged one would be held twice
                    if adapter is not None:
                        down, up = gathered.pop(0), gathered.pop(0)
                        weight = merge(weight, Adapter(down, up, adapter.scale))
                    yield name, weight

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns what `named_weights` will yield; nothing is gathered."""
        return {
            name: tuple(parameter.shape)
            for name, parameter, _ in weights_and_adapters(self._model.lm)
        }

    def offload(self) -> None:
        """Moves the state to host memory and frees the GPU.

        Only `restore` may come next, or `named_weights`.

        Does nothing on a CPU: there the state is in host memory already.
        """
        if self._device.type == "cpu":
            return
        models = [model for model in (self._model, self._reference) if model is not None]
        self._offload.leave(state_tensors(models, self._optimizer))

    def restore(self) -> None:
        """Moves the state back, bit for bit."""
        self._offload.come_back()

    def save(self, folder: Path) -> dict[str, FileEntry]:
        """Writes model, optimizer, policy version and random state; durable when it returns."""
        self.begin_save(folder)
        return self.end_save()

    def begin_save(self, folder: Path) -> None:
        """Copies the state and starts to write the copy; other calls may come before `end_save`."""
        self._saved = begin_save(
            folder, self._model.lm, self._optimizer, self.policy_version, self._rank, self._gloo
        )

    def end_save(self) -> dict[str, FileEntry]:
        """Waits until what `begin_save` copied is durable; raises OSError if there is no room.

        Returns the files that this rank wrote, by name.
        """
        return self._saved()

    def load(self, folder: Path) -> None:
        """Restores what `save` wrote, bit for bit, on this or another number of ranks."""
        self.policy_version = load_state(folder, self._model.lm, self._optimizer, self._rank)
        self._owners = None

    def export(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes weights, config and tokenizer as a folder that transformers and vLLM load.

        Rank 0 writes; the others return as soon as the weights are gathered. They would else wait
        for its disk in a collective, with that one's deadline.
        """
        weights = {
            name: tensor.cpu() for name, tensor in self.named_weights(dtype) if self._rank == 0
        }
        if self._rank == 0:
            write_folder(folder, self._model.lm, weights, self._model_config)

    def close(self) -> None:
        """Leaves the process group, or only its own gloo group if another owner made the first."""
        dist.destroy_process_group(None if self._own_group else self._gloo)

    def _forward(self, model: PackedModel, batch: MicroBatch) -> TokenStatistics:
        def to(array, dtype=torch.int64):
            return torch.tensor(array, dtype=dtype).to(self._device, non_blocking=True)

        images = self._images.inputs(batch) if self._images else None
        count = len(batch.target)
        if self._context:
            batch, chosen = self._context.part(batch)
            images = images and self._context.image_part(images)
        routers = self._routers
        predict = to(batch.predict)
        with routers.over(predict) if routers else nullcontext():
            statistics = model(
                to(batch.token_ids),
                to(batch.position_ids),
                to(batch.cu_seqlens, torch.int32),
                predict,
                to(batch.target),
                max_length=int(np.diff(batch.cu_seqlens).max()),
                images=images and images.to(self._device),
            )
        return self._context.join(statistics, chosen, count) if self._context else statistics

    def _sum_over_batches(self, tensor: Tensor) -> None:
        """Adds up, in place, what each rank knows of its own microbatches.

        Ranks that share their microbatches know the same, which counts once.
        """
        if self._mesh.size() > 1:
            dist.all_reduce(tensor, group=self._context and self._context.counterparts)

    @torch.no_grad()
    def _statistics(
        self, model: PackedModel, microbatches: Sequence[MicroBatch]
    ) -> list[TokenStatistics]:
        statistics = [self._forward(model, batch) for batch in microbatches]
        sharding.release(model)
        return statistics

    def _reference_statistics(self, microbatches: Sequence[MicroBatch]) -> list[TokenStatistics]:
        """Computes what the initial model gives."""
        if self._reference is not None:
            return self._statistics(self._reference, microbatches)
        with adapters_off(self._model):
            return self._statistics(self._model, microbatches)

    def _open_books(self, batch: StepBatch) -> Books:
        """Books whose entropy is measured over the batch's contexts. Collective.

        What they take differences of, at weights that are nearly the same, is computed in float32.
        """
        contexts = batch.contexts
        count = torch.tensor(sum(len(batch.target) for batch in contexts), device=self._device)
        self._sum_over_batches(count)

        def score(microbatches: Sequence[MicroBatch]) -> tuple[Tensor, Tensor]:
            with sharding.in_float32(self._model):
                seen = self._statistics(self._model, microbatches)
            return tuple(torch.cat([getattr(one, name) for one in seen]) for name in FROM_MODEL)

        def measure() -> float:
            exact = None if self._config.dtype == "float32" else score(contexts)[1].double().sum()
            total, _, _ = self._backward(contexts, lambda _, seen: seen.entropy.sum() / count)
            total = total if exact is None else exact / count
            self._sum_over_batches(total)
            return float(total)

        return Books(self._optimizer, measure, score)

    def _update(self, batch: StepBatch, index: int, books: Books | None) -> UpdateResult:
        """Gradients of one minibatch, and an optimizer step unless they are not finite."""
        start = time.perf_counter()
        microbatches = batch.updates[index]
        rate = learning_rate(self._config, self.policy_version, self._total_updates)
        set_learning_rate(self._optimizer, rate)
        self._optimizer.zero_grad(set_to_none=True)
        losses = self._losses(batch, index)
        if self._routers:
            self._routers.restart(self._device)
        loss, logprob, entropy = self._backward(microbatches, losses)
        routers = self._router_use()
        grad_norm = torch.nn.utils.clip_grad_norm_(self._trained, self._config.max_grad_norm)
        grad_norm = float(full(grad_norm))
        self._sum_over_batches(loss)
        skipped = not (math.isfinite(grad_norm) and math.isfinite(loss))
        if books and not skipped:
            books.before(grad_norm, self._config.max_grad_norm)
        if batch.classes and not skipped:
            self._follow_owners(batch, index, clip_scale(grad_norm, self._config.max_grad_norm))
        if not skipped:
            self._optimizer.step()
            self.policy_version += 1
        self._optimizer.zero_grad(set_to_none=True)
        closed = None
        if books:
            owners = self._owners if batch.classes else None
            closed = books.skipped(len(logprob)) if skipped else books.after(microbatches, owners)
        return UpdateResult(
            logprob=logprob,
            entropy=entropy,
            grad_norm=grad_norm,
            skipped=skipped,
            learning_rate=rate,
            seconds=time.perf_counter() - start,
            books=closed,
            routers=routers,
        )

    def _router_use(self) -> RouterUse | None:
        """Adds up what the routers of all ranks did; None if they are not watched. Collective."""
        if self._routers is None:
            return None
        if self._mesh.size() > 1:
            dist.all_reduce(self._routers.sums)  # each rank saw tokens of its own
        return self._routers.use()

    def _follow_owners(self, batch: StepBatch, index: int, scale: float) -> None:
        """Adds the gradients of the update's classes of tokens to the momentum that is theirs.

        The gradients that the optimizer is about to use stay as they are.
        """
        if self._owners is None:
            self._owners = Owners(self._optimizer, self.policy_version)
        assert self._owners.policy_version == self.policy_version, (
            f"the owners of the momentum were followed to version {self._owners.policy_version}, "
            f"the weights are of version {self.policy_version}"
        )
        kept = [parameter.grad for parameter in self._trained]
        self._owners.decay()
        for owner, gradients in self._gradients_by_class(batch, index):
            self._owners.add(owner, gradients, scale)
        for parameter, gradient in zip(self._trained, kept, strict=True):
            parameter.grad = gradient

    def _gradients_by_class(self, batch: StepBatch, index: int) -> Iterator[tuple[str, Shards]]:
        """Yields (way/class, gradient of its part of the loss), one backward pass each. Collective.

        The loss is a function of each token's logprob and entropy: a class's part of its gradient
        is what flows back through the tokens of the class.
        """
        microbatches = batch.updates[index]
        leaves = self._leaf_loss(batch, index)
        for way, names in batch.classes.items():
            members = [
                torch.as_tensor(microbatch.fields[f"class/{way}"], device=self._device)
                for microbatch in microbatches
            ]
            counts = torch.bincount(torch.cat(members), minlength=len(names))
            # A class without tokens on any rank has no gradient: all ranks leave its pass out.
            self._sum_over_batches(counts)
            for number in counts.nonzero()[:, 0].tolist():
                self._optimizer.zero_grad(set_to_none=True)
                self._backward(microbatches, leaves.only([one == number for one in members]))
                yield f"{way}/{names[number]}", local_gradients(self._trained)

    def _mfu(self, batch: StepBatch, updates: Sequence[UpdateResult]) -> float | None:
        """Computes model operations per second over the device's peak.

        None on a CPU, on an unknown device or without updates.
        """
        if self._device.type != "cuda":
            return None
        peak = peak_flops(torch.cuda.get_device_name(self._device))
        packed = [microbatch for part in batch.updates for microbatch in part]
        if peak is None or not packed:
            return None
        tokens = sum(len(microbatch.token_ids) for microbatch in packed)
        sequences = sum(len(microbatch.rows) for microbatch in packed)
        frozen = self._config.lora is not None
        work = flops_per_token(self._model.lm.config, tokens / sequences, frozen=frozen) * tokens
        ranks = self._context.size if self._context else 1
        return work / ranks / sum(update.seconds for update in updates) / peak

    def _losses(self, batch: StepBatch, index: int) -> "_StepLoss | _LeafLoss":
        """Makes what turns the statistics of the n-th microbatch into its share of the loss."""
        if self._needs_minibatch:
            return self._leaf_loss(batch, index)
        fields = [self._batch_fields(microbatch) for microbatch in batch.updates[index]]
        arguments = self._loss_arguments(batch, index)
        return _StepLoss(
            partial(step_loss, self._objective, batch.coefficients, **arguments), fields
        )

    def _loss_arguments(self, batch: StepBatch, index: int) -> dict[str, Any]:
        return {
            "terms": self._terms,
            "term_coefficients": batch.term_coefficients,
            "seed": batch.seeds[index] if batch.seeds else 0,
        }

    def _leaf_loss(self, batch: StepBatch, index: int) -> "_LeafLoss":
        """Computes the loss's derivatives by all statistics of the minibatch. Collective."""
        microbatches = batch.updates[index]
        fields = [self._batch_fields(microbatch) for microbatch in microbatches]
        arguments = self._loss_arguments(batch, index)
        current = self._statistics(self._model, microbatches)
        known = [
            {**columns, "logprob": statistics.logprob, "entropy": statistics.entropy}
            for columns, statistics in zip(fields, current, strict=True)
        ]
        leaves = partial(leaf_gradients, self._objective, batch.coefficients, **arguments)
        group = self._context and self._context.counterparts
        return _LeafLoss(*minibatch_gradients(microbatches, known, leaves, group))

    def _backward(
        self, microbatches: Sequence[MicroBatch], losses: Callable[[int, TokenStatistics], Tensor]
    ) -> tuple[Tensor, Floats, Floats]:
        """Sums the gradients over microbatches, then over ranks.

        Returns this rank's loss, logprobs and entropies.
        """
        total = torch.zeros((), dtype=torch.float64, device=self._device)
        seen: list[TokenStatistics] = []
        for number, microbatch in enumerate(microbatches):
            sharding.begin_microbatch(
                self._model,
                last=number == len(microbatches) - 1,
                reduce=self._reduce_each_microbatch,
                keep_gathered=self._keep_gathered,
            )
            statistics = self._forward(self._model, microbatch)
            loss = losses(number, statistics)
            loss.backward()
            total += loss.detach()
            seen.append(TokenStatistics(*(column.detach() for column in statistics)))
        logprob, entropy = (
            torch.cat([getattr(part, name) for part in seen]).float().cpu().numpy()
            for name in FROM_MODEL
        )
        return total, logprob, entropy

    def _batch_fields(self, batch: MicroBatch) -> dict[str, Tensor]:
        """Moves the fields that the objective reads to the device."""
        columns = {**batch.fields, "sequence_id": batch.sequence_id}
        absent = sorted(self._fields - columns.keys())
        assert not absent, f"objective {self._objective.name} needs {absent}, which the batch lacks"
        return {
            name: torch.tensor(columns[name]).to(self._device, non_blocking=True)
            for name in self._fields
        }

    @staticmethod
    def _host(statistics: TokenStatistics) -> dict[str, Floats]:
        return {name: column.float().cpu().numpy() for name, column in statistics._asdict().items()}


def _image_reader(packed: PackedModel, model: ModelConfig) -> ImageReader | None:
    """Makes the reader of the microbatches' images; None for a text-only model."""
    config = packed.lm.config
    images = load_images(model.path, config, model.image_pixels, model.revision)
    merge = config.vision_config.spatial_merge_size if images else 1
    return ImageReader(images, packed.lm.model.get_rope_index, merge) if images else None


def _read_for(entry: tuple[str, Tensor, Adapter | None]) -> tuple[Tensor, ...]:
    """Returns what one published weight is made of."""
    _, parameter, adapter = entry
    return (parameter,) if adapter is None else (parameter, adapter.down, adapter.up)


class _StepLoss:
    """The loss of each microbatch, straight from the objective."""

    def __init__(self, step_loss: partial, fields: Sequence[dict[str, Tensor]]) -> None:
        self._step_loss = step_loss
        self._fields = fields

    def __call__(self, number: int, statistics: TokenStatistics) -> Tensor:
        live = {"logprob": statistics.logprob, "entropy": statistics.entropy}
        return self._step_loss({**self._fields[number], **live}).loss.sum()


class _LeafLoss:
    """A linear function of the statistics whose gradient is that of the loss.

    For objectives that need the whole minibatch: their gradients were computed before this pass.
    """

    def __init__(self, gradients: Sequence[tuple[Tensor, Tensor | None]], loss: Tensor) -> None:
        self._gradients = gradients
        self._loss = loss

    def __call__(self, number: int, statistics: TokenStatistics) -> Tensor:
        d_logprob, d_entropy = self._gradients[number]
        # Only its gradient matters; it is non-finite whenever the loss is.
        total = (d_logprob * statistics.logprob).sum() + 0.0 * self._loss
        return total if d_entropy is None else total + (d_entropy * statistics.entropy).sum()

    def only(self, chosen: Sequence[Tensor]) -> "_LeafLoss":
        """Returns the part that flows back through some tokens; one mask [N] per microbatch."""
        parts = [
            tuple(None if one is None else one * mask for one in gradients)
            for gradients, mask in zip(self._gradients, chosen, strict=True)
        ]
        return _LeafLoss(parts, self._loss)
