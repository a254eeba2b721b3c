"""What is seen of the routers is what transformers itself reports of them."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from isentropic.models.routers import SOFTMAX_ROUTERS, find_routers

CPU = torch.device("cpu")
EXPERTS = 6
CHOSEN = 2
SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_experts_per_tok": CHOSEN,
    "num_experts": EXPERTS,
    "num_local_experts": EXPERTS,
    "pad_token_id": None,
    "initializer_range": 0.5,
}


def make_lm(family, **settings):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(SIZES | settings))
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("family", SOFTMAX_ROUTERS)
@torch.no_grad()
def test_sums_over_the_states_asked_for(family):
    lm = make_lm(family)
    tokens, rows = torch.arange(11)[None], torch.tensor([2, 3, 7, 10])
    routers = find_routers(lm, CPU)
    for _ in range(2):
        with routers.over(rows):
            logits = lm(tokens, output_router_logits=True).router_logits
    lm(tokens)  # does not count

    use = routers.use()
    assert use.tokens == 2 * len(rows)
    assert use.load.shape == (3, EXPERTS)
    for layer, found in enumerate(logits):
        p = found[rows].double().softmax(-1)
        chosen = torch.bincount(found[rows].topk(CHOSEN).indices.flatten(), minlength=EXPERTS)
        assert (use.load[layer] == 2 * chosen.numpy()).all()
        assert use.entropy[layer] == pytest.approx(float(-2 * (p * p.log()).sum()), rel=1e-5)

    routers.restart(torch.device("cpu"))
    assert routers.use().tokens == 0


def test_it_counts_where_the_model_runs_from_the_first_pass_on(monkeypatch):
    """A learner scores before its first update; sums that stay on the host cannot take a GPU's."""
    counted = []

    def bincount(chosen, minlength):  # has no shapes to tell on meta
        counted.append(chosen.device)
        return chosen.new_zeros(minlength)

    monkeypatch.setattr(torch, "bincount", bincount)
    with torch.device("meta"):
        config = AutoConfig.for_model("qwen3_moe", **SIZES)
        lm = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        routers = find_routers(lm, torch.device("meta"))
        with routers.over(torch.zeros(4, dtype=torch.int64)):
            lm(torch.zeros(1, 11, dtype=torch.int64))

    assert [device.type for device in counted] == ["meta"] * 3
    assert routers.sums.device.type == "meta"


def test_layers_without_experts_are_left_out():
    routers = find_routers(make_lm("qwen3_moe", mlp_only_layers=[1]), CPU)
    assert routers.use().load.shape == (2, EXPERTS)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        pytest.param("qwen3", {}, id="dense"),
        pytest.param("qwen3_moe", {"mlp_only_layers": [0, 1, 2]}, id="no layer with experts"),
        pytest.param(
            "dots1", {"n_routed_experts": 8, "n_shared_experts": 1}, id="sigmoids and groups"
        ),
    ],
)
def test_others_are_not_watched(family, settings):
    assert find_routers(make_lm(family, **settings), CPU) is None
