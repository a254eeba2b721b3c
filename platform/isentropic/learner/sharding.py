"""One process group for the ranks, and FSDP2 around a packed model."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from isentropic.config import LearnerConfig, ModelConfig
from isentropic.learner.context_parallel import ContextGroup, subgroup
from isentropic.learner.model import PackedModel, empty_model, load_model
from isentropic.models.adapters import add_adapters, fill_adapters
from isentropic.models.slices import find_places, read_slices
from isentropic.objectives.tokens.heads import choose_head

log = logging.getLogger(__name__)

# Below this size the gathered layers stay between forward, backward and microbatches: it costs
# little memory, and an update needs one all-gather instead of two per microbatch.
KEEP_GATHERED_BYTES = 1 << 30
# Below this one all layers are gathered and reduced in one go: there is no traffic to hide behind
# their arithmetic, and each collective costs more than what it carries.
ONE_UNIT_BYTES = 16 << 20
GIB = 1 << 30


def join(
    *,
    rank: int,
    world_size: int,
    init_method: str | None,
    timeout_s: float,
    replicas: int = 1,
    deterministic: bool = False,
) -> DeviceMesh:
    """Joins the ranks, one device each: NCCL on GPUs (gloo for host tensors), gloo on CPUs.

    Args:
        init_method: tcp://host:port of rank 0; None for a single rank, which needs no port and
            shares the group that its process belongs to already.
        timeout_s: for any collective; then the process group aborts. It must be longer than the
            ranks' microbatches differ, and on a GPU longer than the work that was queued before the
            collective: NCCL counts from its start on the host.
        replicas: copies of the sharded state, each over equally many ranks in a row.
        deterministic: on a GPU, only kernels that add in a fixed order; an operation without one
            raises RuntimeError. It holds for the whole process.

    Returns:
        The mesh that the model is sharded over: ("ranks",), or ("replicas", "shards").
    """
    if init_method is None and world_size > 1:
        raise ValueError(
            f"{world_size} learner ranks need an init_method, tcp://host:port of rank 0; got None."
        )
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(rank % torch.cuda.device_count())
        if deterministic:
            # Attention's backward pass adds in a fixed order only where others would be refused.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
            torch.utils.deterministic.fill_uninitialized_memory = False
    else:
        # Free on a CPU, except that it would also fill all new memory, which is not: off.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
    # A single rank beside an engine or another learner: a process can have only one default group.
    if init_method is None and dist.is_initialized():
        return _mesh(cuda, world_size, replicas, timeout_s)
    meeting = {"store": dist.HashStore()} if init_method is None else {"init_method": init_method}
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_s),
        **meeting,
    )
    return _mesh(cuda, world_size, replicas, timeout_s)


def host_group(timeout_s: float) -> dist.ProcessGroup:
    """Makes a second group of all ranks, over gloo, for collectives of a background thread."""
    return dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))


def _mesh(cuda: bool, world_size: int, replicas: int, timeout_s: float) -> DeviceMesh:
    assert dist.get_world_size() == world_size, (
        f"the process belongs to a group of {dist.get_world_size()} ranks"
    )
    device = "cuda" if cuda else "cpu"
    if replicas == 1:
        return init_device_mesh(device, (world_size,), mesh_dim_names=("ranks",))
    ranks = torch.arange(world_size).view(replicas, -1)
    groups = [subgroup(ranks.T, timeout_s), subgroup(ranks, timeout_s)]
    return DeviceMesh.from_group(groups, device, mesh=ranks, mesh_dim_names=("replicas", "shards"))


def build(
    model: ModelConfig,
    config: LearnerConfig,
    mesh: DeviceMesh,
    *,
    temperature: float,
    trained: bool,
    context: ContextGroup | None = None,
) -> tuple[PackedModel, bool]:
    """Builds a sharded model on this rank's device; the bool: its layers stay gathered.

    The model is made without memory, sharded, and then each rank reads its own slices: no rank
    holds more on its host than one tensor. A model whose files cannot be read so is loaded whole
    first, by every rank.
    """
    lm = empty_model(model)
    places = find_places(model, lm)
    if places is None:
        log.warning(
            "model %s: its files hold its weights under other names or in another form than the "
            "model does, so every learner rank loads all of them on its host first. Saving it "
            "anew with save_pretrained(<folder>) may help.",
            model.path,
        )
        lm = load_model(model)
    choose_head(config.head, mesh.device_type)  # refuses what cannot run here
    packed = PackedModel(
        lm, temperature=temperature, vocab_chunk=config.vocab_chunk, head=config.head
    )
    packed.requires_grad_(trained)
    if context:
        context.mark(packed.layers)
    adapted = trained and config.lora is not None
    if adapted:
        add_adapters(lm, config.lora)
    if trained and config.gradient_checkpointing:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
        # In eval mode transformers silently checkpoints nothing. Every dropout is 0 already.
        packed.train()
    dtype = getattr(torch, config.dtype)
    keep = shard(packed, mesh, dtype=dtype, compile_layers=config.compile)
    if places is not None:
        packed.to_empty(device=mesh.device_type)
    if adapted:
        fill_adapters(lm)
    if places is not None:
        read_slices(lm, places)
    return packed, keep


def shard(
    model: PackedModel, mesh: DeviceMesh, *, dtype: torch.dtype, compile_layers: bool
) -> bool:
    """Shards the model in place: each layer, then the rest; a small model as a whole.

    A model on meta stays there. One on the host moves to the mesh's device layer by layer, so that
    the device never holds it whole. Weights stay in float32; forward and backward use `dtype`.
    Gradients are summed over ranks, not averaged, in float32.
    Returns whether the layers stay gathered (small models).
    """
    policy = MixedPrecisionPolicy()
    if dtype != torch.float32:
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    size = sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize
    keep = size <= KEEP_GATHERED_BYTES
    for layer in model.layers:
        if compile_layers:
            # The forward and not the call: FSDP's hooks, which gather and free the weights, belong
            # to the call, and compiled they would cut it into pieces.
            layer.forward = torch.compile(layer.forward, dynamic=True)
    layers = [] if size <= ONE_UNIT_BYTES else [*model.layers, *model.vision_layers]
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=not keep)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    for module in fsdp_modules(model):
        # FSDP averages by default. Loss weights come from global counts: the ranks' gradients add
        # up to that of the loss.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
    return keep


def may_stand_unsharded(parameters: int, config: LearnerConfig) -> bool:
    """Returns whether a rank may sum the gradients of a model of this size unsharded, in float32.

    More ranks do not make them smaller. Above the budget each microbatch's gradients are reduced
    over the ranks: more traffic, and the same sum in another order.
    """
    return 4 * parameters <= config.unsharded_gradient_gib * GIB


def begin_microbatch(model: FSDPModule, *, last: bool, reduce: bool, keep_gathered: bool) -> None:
    """Says what the next backward pass leaves behind; before each of an update's forward passes.

    Args:
        last: of the update: its gradients are reduced over the ranks.
        reduce: those of the others are too, so that only shards are summed.
        keep_gathered: the layers stay gathered until the last.
    """
    model.set_requires_gradient_sync(last or reduce)
    model.set_is_last_backward(last)
    model.set_reshard_after_backward(last or not keep_gathered)


def fsdp_modules(model: torch.nn.Module) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def release(model: torch.nn.Module) -> None:
    """Frees gathered weights: a pass without a backward leaves them in place of the shards."""
    for module in fsdp_modules(model):
        module.reshard()


@contextmanager
def in_float32(model: torch.nn.Module) -> Iterator[None]:
    """Lets forward passes inside compute in float32, as the weights are; they have no backward.

    Whatever `dtype` the model was sharded with: bfloat16 does not see a small move of the weights.
    """
    modules = fsdp_modules(model)
    policies = [module._get_fsdp_state()._mp_policy for module in modules]
    if all(policy.param_dtype is None for policy in policies):
        yield
        return
    for module in modules:
        _cast_as(module, MixedPrecisionPolicy())
    try:
        yield
    finally:
        for module, policy in zip(modules, policies, strict=True):
            _cast_as(module, policy)


def _cast_as(module: FSDPModule, policy: MixedPrecisionPolicy) -> None:
    """Sets the types of a module that is sharded already; torch has no public way to."""
    module.reshard()
    state = module._get_fsdp_state()
    state._mp_policy = policy
    for group in state._fsdp_param_groups:
        group.mp_policy = policy
        for parameter in group.fsdp_params:
            parameter.mp_policy = policy
            parameter.init_dtype_attrs(policy)
            # Of the other type; without them the next gathering makes its own.
            parameter.all_gather_outputs = []
            vars(parameter).pop("_unsharded_param", None)
