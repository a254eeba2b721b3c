"""The live engine: tokens depend on the request and the weights alone, and both are what they are said to be."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from isentropic.records import Completion
from isentropic.weights.buckets import checksum, fill_buckets

pytestmark = pytest.mark.engine


@pytest.fixture
def model(tiny_model_path, engine):
    """The torch model behind the engine; whatever a test does to the engine, it ends with these weights."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
    yield model
    original = AutoModelForCausalLM.from_pretrained(tiny_model_path, dtype=torch.float32)
    engine.load_weights(0, buckets_of(original))


def buckets_of(model) -> list:
    return list(fill_buckets(model.named_parameters(), torch.float32, limit=100_000))


def answers(engine, requests) -> dict:
    return {each.key: each for batch in engine.generate(requests) for each in batch}


@torch.no_grad()
def torch_logprob(model, request, completion) -> np.ndarray:
    """[N] logprobs of a completion's tokens by a plain forward pass at the request's temperature."""
    ids = torch.tensor(np.concatenate([request.token_ids, completion.token_ids]))[None]
    logits = model(input_ids=ids).logits[0, len(request.token_ids) - 1 : -1] / request.temperature
    return logits.log_softmax(-1).gather(-1, ids[0, len(request.token_ids) :, None])[:, 0].numpy()


def test_tokens_do_not_depend_on_batch_or_order(engine, rollouts):
    requests = rollouts.requests(4, 4)
    together = answers(engine, requests)
    backwards = answers(engine, requests[::-1])
    alone = {
        key: each for request in requests[::5] for key, each in answers(engine, [request]).items()
    }

    assert len(together) == len(requests)
    for other in (backwards, alone):
        for key, each in other.items():
            np.testing.assert_array_equal(each.token_ids, together[key].token_ids)
            np.testing.assert_allclose(each.logprob, together[key].logprob, atol=1e-5)
    siblings = [together[request.key].token_ids.tolist() for request in requests[:4]]
    assert len({tuple(tokens) for tokens in siblings}) == 4, (
        "samples of one prompt have seeds of their own"
    )


def test_two_calls_share_the_engine(engine, rollouts):
    requests = rollouts.requests(4, 4)
    together, found = answers(engine, requests), {}
    halves = [
        threading.Thread(target=lambda i=i: found.update(answers(engine, requests[i::2])))
        for i in (0, 1)
    ]
    for half in halves:
        half.start()
    for half in halves:
        half.join(30)
    assert found.keys() == together.keys()
    for key, each in found.items():
        np.testing.assert_array_equal(each.token_ids, together[key].token_ids)


def test_an_answer_is_waited_for_until_it_is_there(engine, rollouts, monkeypatch):
    """Another call's thread may be writing it down: a call that saw itself done before that would lose it."""
    still_waited_for = []

    def watched(**fields):
        waited = {
            each.key
            for call in list(engine._calls.values())
            for each in list(call.waiting.values())
        }
        still_waited_for.append(fields["key"] in waited)
        return Completion(**fields)

    monkeypatch.setattr("isentropic.rollout.vllm_engine.Completion", watched)
    assert len(answers(engine, rollouts.requests(4, 4))) == 16
    assert still_waited_for == [True] * 16


def test_stops_at_end_of_sequence_and_at_max_tokens(engine, rollouts):
    answered = answers(engine, rollouts.requests(8, 8, max_tokens=64))
    assert {each.finish_reason for each in answered.values()} == {"stop", "length"}
    for each in answered.values():
        ended = each.token_ids[-1] == 2  # <|im_end|>
        assert ended == (each.finish_reason == "stop")
        assert not (each.token_ids[:-1] == 2).any()
        assert len(each.token_ids) == len(each.logprob) <= 64
        assert each.finish_reason == "stop" or len(each.token_ids) == 64


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_logprob_is_the_models_after_two_loads(engine, rollouts, model, temperature):
    requests = rollouts.requests(4, 2, temperature=temperature)
    answers(engine, requests)  # fills the prefix cache under the old weights
    for version in (1, 2):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 0.2 * torch.randn_like(parameter))
        engine.load_weights(version, buckets_of(model))
        for request in requests:
            [completion] = [each for batch in engine.generate([request]) for each in batch]
            assert completion.policy_version == version
            gap = np.abs(completion.logprob - torch_logprob(model, request, completion)).max()
            assert gap < 1e-4


def drop_one(named):
    return named[:-1]


def one_too_many(named):
    return [*named, ("lm_head.weight", named[0][1])]


def wrong_shape(named):
    return [
        (name, tensor.detach()[:-1] if i == 3 else tensor) for i, (name, tensor) in enumerate(named)
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(drop_one, "missing: model.norm.weight", id="a missing key"),
        pytest.param(
            one_too_many, "unknown: lm_head.weight", id="a key that the model does not have"
        ),
        pytest.param(wrong_shape, "the engine's model has", id="a wrong shape"),
    ],
)
def test_weights_that_do_not_fit_are_refused(engine, rollouts, model, change, message):
    requests = rollouts.requests(2, 2)
    before = answers(engine, requests)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    wrong = list(fill_buckets(change(list(model.named_parameters())), torch.float32, limit=100_000))

    with pytest.raises(ValueError, match=message):
        engine.load_weights(9, wrong)

    after = answers(engine, requests)
    assert engine.policy_version == 0
    for key, each in after.items():
        np.testing.assert_array_equal(each.logprob, before[key].logprob)


def test_weights_that_are_not_finite_are_refused(engine, model):
    *_, last = buckets = buckets_of(model)
    list(last.tensors())[-1][1][0] = float(
        "nan"
    )  # the learner published NaN, and the bytes arrived as they left
    buckets[-1] = replace(
        last, metas=(*last.metas[:-1], replace(last.metas[-1], checksum=checksum(last.data[-1])))
    )
    with pytest.raises(ValueError, match=r"weight model.norm.weight is not finite"):
        engine.load_weights(1, buckets)
    assert engine.policy_version == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"max_tokens": 95}, "exceed the window of 96", id="too long"),
        pytest.param({"token_ids": np.array([], dtype=np.int64)}, "prompt is empty", id="empty"),
        pytest.param(
            {"token_ids": np.array([5, 999_999])},
            "token ids run from 5 to 999999",
            id="foreign token",
        ),
        pytest.param(
            {"seed": 2**64}, r"seed must be in \[0, 2\^62\)", id="a seed that vLLM would choke on"
        ),
        pytest.param({"max_tokens": 0}, "max_tokens must be >= 1", id="nothing asked for"),
        pytest.param({"top_p": 2.0}, "top_p", id="what only vLLM knows"),
    ],
)
def test_refused_request_is_named_and_nothing_is_left(engine, rollouts, change, message):
    good = rollouts.requests(1, 2)
    with pytest.raises(ValueError, match=message):
        list(engine.generate([*good, replace(good[0], **change)]))
    assert engine.num_running == 0
    assert not engine._core.has_unfinished_requests()
    assert len(answers(engine, good)) == 2


def test_a_caller_that_stops_reading_leaves_nothing_behind(engine, rollouts):
    stream = engine.generate([*rollouts.requests(16, 4, max_tokens=64)])
    next(stream)
    stream.close()
    assert engine.num_running == 0
    assert not engine._core.has_unfinished_requests()


def test_usage_says_how_full_the_engine_was(engine, rollouts):
    requests = rollouts.requests(16, 6)  # of 96, 64 run at once
    engine.take_usage()
    before = engine.steps
    answers(engine, requests)
    usage = engine.take_usage()

    assert usage.steps == engine.steps - before
    assert 0 < usage.cache_use / usage.steps <= usage.cache_use_max <= 1
    assert 0 < usage.waiting_max <= 32 and usage.waiting >= usage.waiting_max
    assert usage.preemptions == 0
    assert engine.take_usage().steps == 0


def test_preemptions_are_counted(engine, rollouts):
    """Requests that lose their cache in the middle are answered all the same, with the same tokens."""
    requests = rollouts.requests(4, 2)
    wanted = answers(engine, requests)
    engine.take_usage()
    asked = []

    def preempts():  # asked between steps
        asked.append(1)
        if len(asked) == 5:
            engine.llm.reset_prefix_cache(reset_running_requests=True)
        return False

    found = [each for part in engine.generate(requests, cancelled=preempts) for each in part]

    assert 0 < engine.take_usage().preemptions <= len(requests)
    for each in found:
        np.testing.assert_array_equal(each.token_ids, wanted[each.key].token_ids)
