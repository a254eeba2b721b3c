"""Prints the peak of an update as FSDP's own memory tracker sees it: python tracked.py '{"shape": ..., ...}'

No process group, GPU or memory is needed: the ranks are a fake group, the tensors fake ones that
take the way of a GPU. A model of 2 and one of 4 layers are tracked; those of more layers lie on the
line through both. A process of its own, because the fake group is the process's default one.
"""

import json
import sys
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig, AutoModelForCausalLM

from isentropic.learner import attention, sharding
from isentropic.learner.model import PackedModel
from isentropic.learner.optimizer import build_optimizer
from isentropic.objectives.tokens import statistics

MICROBATCHES = 2


def main(case):
    dist.init_process_group("fake", rank=0, world_size=case["ranks"], store=FakeStore())
    take_the_gpu_s_way(case["tile"])
    layers = case["shape"]["num_hidden_layers"]
    if not case.get("extrapolate", True):
        print(json.dumps(peak(case, layers)))
        return
    two, four = peak(case, 2), peak(case, 4)
    total = two["Total"] + (four["Total"] - two["Total"]) * (layers - 2) / 2
    print(json.dumps({"total": total, "two": two, "four": four}))


def take_the_gpu_s_way(tile):
    """Flash attention and products with float32 results, which only a GPU has, by their shapes."""

    def packed(module, query, key, value, mask, *, cu_seq_lens_q, max_length_q, **_):
        heads_last = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        bounds, longest = (cu_seq_lens_q,) * 2, (max_length_q,) * 2
        out = attention.varlen_attn(*heads_last, *bounds, *longest, enable_gqa=True)
        return out[None], None

    attention.packed_attention = packed
    statistics._matmul = lambda left, right: torch.mm(left, right, out_dtype=torch.float32)
    statistics.MAX_TILE = tile  # few of them, as each operation takes a fake tensor's time
    statistics.CPU_BLOCK = tile  # a GPU takes a tile at once


def peak(case, layers):
    """Bytes by kind at the peak of the second of two updates, which has the moments' state."""
    attention.register()
    learner = SimpleNamespace(**case["learner"])
    config = AutoConfig.for_model(**(case["shape"] | {"num_hidden_layers": layers}))
    mesh = init_device_mesh("cpu", (case["ranks"],))
    with FakeTensorMode(allow_non_fake_inputs=True):
        lm = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=attention.NAME
        )
        model = PackedModel(lm.eval(), temperature=1.0, vocab_chunk=learner.vocab_chunk)
        if learner.gradient_checkpointing:
            lm.gradient_checkpointing_enable({"use_reentrant": False})
            model.train()
        sharding.KEEP_GATHERED_BYTES = sharding.ONE_UNIT_BYTES = 0
        keep = sharding.shard(model, mesh, dtype=torch.bfloat16, compile_layers=False)
        optimizer = build_optimizer(model, learner)
        reduce = case["reduce"]
        tracker = FSDPMemTracker(model, optimizer)
        tokens = learner.microbatch_tokens
        with tracker:
            for number in range(MICROBATCHES):
                sharding.begin_microbatch(
                    model, last=number == MICROBATCHES - 1, reduce=reduce, keep_gathered=keep
                )
                seen = model(
                    torch.zeros(tokens, dtype=torch.int64),
                    torch.zeros(tokens, dtype=torch.int64),
                    torch.tensor([0, tokens], dtype=torch.int32),
                    torch.zeros(tokens, dtype=torch.int64),
                    torch.zeros(tokens, dtype=torch.int64),
                    max_length=tokens,
                )
                (seen.logprob.sum() + seen.entropy.sum()).backward()
                del seen
                tracker.reset_mod_stats()
    (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    return {str(kind): size for kind, size in snapshot.items()}


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
