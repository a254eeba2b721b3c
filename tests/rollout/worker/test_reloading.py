"""New weights in vLLM's live model: its CPU kernel finds experts in the layout that it reads."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import silu

pytestmark = pytest.mark.engine  # imports vLLM

EXPERTS = 4
HIDDEN = 32
WIDTH = 64


class Experts(nn.Module):
    """The weights of a layer's experts, with vLLM's own kernel, as its CPU engine builds them."""

    def __init__(self):
        from vllm.model_executor.layers.fused_moe.activation import MoEActivation
        from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts

        super().__init__()
        self.w13_weight = nn.Parameter(torch.zeros(EXPERTS, 2 * WIDTH, HIDDEN), requires_grad=False)
        self.w2_weight = nn.Parameter(torch.zeros(EXPERTS, HIDDEN, WIDTH), requires_grad=False)
        kernel = object.__new__(CPUUnquantizedExperts)
        kernel.moe_config = SimpleNamespace(
            intermediate_size_per_partition=WIDTH, activation=MoEActivation.SILU
        )
        self.quant_method = SimpleNamespace(moe_kernel=SimpleNamespace(fused_experts=kernel))

    def forward(self, x, weights, chosen):
        from vllm._custom_ops import cpu_fused_moe

        out = torch.empty_like(x)
        both = (self.w13_weight, self.w2_weight)
        cpu_fused_moe(out, x, *both, None, None, weights, chosen, "silu", "vec", False)
        return out


class Live(nn.Module):
    """A model that takes weights as vLLM's do."""

    def __init__(self):
        super().__init__()
        self.experts = Experts()
        self.dense = nn.Linear(2, 2, bias=False).requires_grad_(False)

    def load_weights(self, named):
        parameters = dict(self.named_parameters())
        loaded = set()
        for name, tensor in named:
            parameters[name].copy_(tensor)
            loaded.add(name)
        return loaded


def by_hand(x, weights, chosen, w13, w2):
    out = torch.zeros_like(x)
    for row in range(len(x)):
        for weight, expert in zip(weights[row], chosen[row], strict=True):
            gate, up = (w13[expert] @ x[row]).chunk(2)
            out[row] += weight * (w2[expert] @ (silu(gate) * up))
    return out


def test_experts_are_packed_after_each_sync():
    from isentropic.rollout.worker.reloading import Reload

    torch.manual_seed(0)
    live = Live()
    reload = Reload(live, None)
    x, weights = torch.randn(5, HIDDEN), torch.rand(5, 2)
    chosen = torch.stack([torch.randperm(EXPERTS)[:2] for _ in range(5)]).int()
    for _ in range(2):
        new = {name: torch.randn_like(tensor) for name, tensor in live.named_parameters()}
        reload.begin()
        reload.load(new.items())
        reload.end()

        w13, w2 = new["experts.w13_weight"], new["experts.w2_weight"]
        expected = by_hand(x, weights, chosen, w13, w2)
        torch.testing.assert_close(live.experts(x, weights, chosen), expected, rtol=1e-3, atol=1e-3)
        assert torch.equal(live.dense.weight, new["dense.weight"])


def test_a_parameter_that_was_left_out_is_named():
    from isentropic.rollout.worker.reloading import Reload

    live = Live()
    reload = Reload(live, None)
    reload.begin()
    reload.load([("dense.weight", torch.ones(2, 2))])
    with pytest.raises(RuntimeError, match="left 2 parameters unwritten, such as experts"):
        reload.end()
