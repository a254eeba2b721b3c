"""Episodes of several turns: spans, limits, and that only the policy's tokens carry loss."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from isentropic import batching
from isentropic.controller.sampler import DrawnFrom, Sampler
from isentropic.controller.step import Clock
from isentropic.controller.storage.ledger import Batch, read_batch, write_batch
from isentropic.methods.papo.polarity import Polarity, PolarityConfig
from isentropic.methods.slots import Wave
from isentropic.models.tiny import build_tokenizer
from isentropic.records import Completion, Group, Sample, TokenScores
from isentropic.tasks.calculator import CalculatorConfig, CalculatorTask
from isentropic.tasks.chat import Chat
from isentropic.tasks.own.environment import EnvironmentConfig, EnvironmentTask

TASK = CalculatorTask(
    CalculatorConfig(
        name="calculator", levels=("3x1",), train_size=50, eval_size=10, seed=0, max_turns=3
    )
)
CHAT = Chat(build_tokenizer())


class ScriptedPool:
    """Writes the same turns in every episode; token n of turn t gets logprob -(t + n / 100)."""

    num_actors = 1

    def __init__(self, *turns):
        self.turns, self.requests = turns, []

    async def generate(self, requests):
        for request in requests:
            self.requests.append(request)
            ids = CHAT.tokenizer.encode(
                self.turns[request.turn] + "<|end|>", add_special_tokens=False
            )
            cut = ids[: request.max_tokens]
            yield [
                Completion(
                    key=request.key,
                    turn=request.turn,
                    token_ids=np.array(cut, dtype=np.int64),
                    logprob=-(request.turn + np.arange(len(cut)) / 100).astype(np.float32),
                    finish_reason="stop" if len(cut) == len(ids) else "length",
                    policy_version=0,
                )
            ]


class Grader:
    async def grade(self, rollouts):
        return [TASK.grade(rollout.prompt, CHAT.turn_texts(rollout)) for rollout in rollouts]


def draw(pool, *, task=TASK, window=128, max_tokens=16, grader=None, samples=1):
    sampler = Sampler(
        task=task,
        chat=getattr(pool, "chat", CHAT),
        pool=pool,
        grader=grader or Grader(),
        config=SimpleNamespace(max_response_tokens=max_tokens),
        seed=0,
        window=window,
    )
    wave = Wave(group_size=samples, temperature=1.0)
    origin = DrawnFrom(step=1, source_step=0, policy_version=0)
    groups: dict[int, Group] = {0: Group(draw=0, prompt=sampler.prompt("train", 0), rollouts=())}
    asyncio.run(sampler._draw_wave(groups, (0,), wave, origin, Clock()))
    return groups[0]


def written(rollout):
    return CHAT.tokenizer.decode(rollout.token_ids[rollout.response_mask])


def question(group):
    return group.prompt.messages[0]["content"]


def test_spans_hold_only_the_policy_s_tokens():
    pool = ScriptedPool("1+2=", "3+4=", "#7")
    group = draw(pool)
    (rollout,) = group.rollouts
    assert CHAT.tokenizer.decode(rollout.token_ids) == (
        f"<|user|>{question(group)}<|end|><|assistant|>1+2=<|end|>"
        "<|user|>3<|end|><|assistant|>3+4=<|end|>"
        "<|user|>7<|end|><|assistant|>#7<|end|>"
    )
    assert written(rollout) == "1+2=<|end|>3+4=<|end|>#7<|end|>"
    assert [written_end - start for start, written_end in rollout.turns] == [5, 5, 3]
    np.testing.assert_allclose(
        rollout.rollout_logprob[[0, 5, 10, 12]], [0, -1, -2, -2.02], atol=1e-6
    )
    assert (rollout.finish_reason, rollout.num_response_tokens) == ("stop", 13)
    assert rollout.reward == float(group.prompt.answer == "7")
    assert len({request.seed for request in pool.requests}) == 3  # a seed of its own for every turn
    for request, (start, _) in zip(pool.requests, rollout.turns, strict=True):
        np.testing.assert_array_equal(request.token_ids, rollout.token_ids[:start])


def test_the_limit_of_turns_ends_an_episode_without_an_answer():
    (rollout,) = draw(ScriptedPool("1+1=", "1+1=", "1+1=")).rollouts
    assert (rollout.finish_reason, len(rollout.turns), rollout.reward) == ("turns", 3, 0.0)
    assert rollout.token_ids[-1] == CHAT.eos_token_id  # no reply after the last turn


def test_the_window_ends_an_episode():
    pool = ScriptedPool("1+1=", "1+1=", "#2")
    prompt = len(CHAT.prompt_ids(TASK.prompt("train", 0)))
    (rollout,) = draw(
        pool, window=prompt + 5 + 4
    ).rollouts  # a turn of 5 and no room after the reply of 4
    assert (rollout.finish_reason, len(rollout.turns)) == ("turns", 1)
    (rollout,) = draw(
        pool, window=prompt + 5 + 4 + 2
    ).rollouts  # room for 2 tokens of the second turn
    assert (rollout.finish_reason, len(rollout.turns)) == ("length", 2)
    assert pool.requests[-1].max_tokens == 2 and len(rollout.token_ids) == prompt + 11


def test_a_turn_that_is_cut_ends_the_episode():
    (rollout,) = draw(ScriptedPool("1+1=", "1+1="), max_tokens=3).rollouts
    assert (rollout.finish_reason, written(rollout)) == ("length", "1+1")


def test_only_the_policy_s_tokens_carry_loss_and_polarity():
    (rollout,) = draw(ScriptedPool("1+2=", "3+4=", "#7")).rollouts
    (batch,) = batching.score_batches([rollout], 1, 4096)[0]
    np.testing.assert_array_equal(batch.target, rollout.token_ids[rollout.response_mask])
    np.testing.assert_array_equal(batch.token_ids[batch.predict + 1], batch.target)

    tokens = rollout.num_response_tokens
    sensitivity = np.where(np.arange(tokens) % 2, 0.1, -0.1).astype(
        np.float32
    )  # T = -S: expanding, contracting, ...
    flat = np.full(tokens, 0.5, dtype=np.float32)
    scores = TokenScores(logprob=flat, entropy=flat, sensitivity=sensitivity, sum_p2=flat)
    sample = Sample(
        rollout=rollout, old=scores, advantage=np.ones(tokens, np.float32), token_weight=flat
    )
    papo = PolarityConfig(
        name="polarity", alpha=0.2, delta=0.0, weight="branch", renorm=False,
        signal="two_phase", h_ref=1.0, tau=0.25, beta=0.9,
    )  # fmt: skip
    (weighed,), metrics = Polarity(papo).weigh(
        [sample], entropy_mean=0.5
    )  # below the reference: u = 1
    np.testing.assert_allclose(
        weighed.advantage, np.where(np.arange(tokens) % 2, 0.8, 1.2), rtol=1e-6
    )
    assert metrics["papo/expand_frac"] == pytest.approx(7 / 13)
    plan = batching.plan_updates([weighed], 1)
    reduction = SimpleNamespace(
        weights=lambda lengths, **_: np.full(len(lengths), 1 / lengths.sum())
    )
    (step,), _ = batching.step_batches(
        step=1, samples=[weighed], plan=plan, num_ranks=1, microbatch_tokens=4096,
        reduction=reduction, max_response_tokens=16, coefficients={},
    )  # fmt: skip
    fields = step.updates[0][0].fields
    assert fields["loss_weight"].sum() == pytest.approx(1.0)
    assert {len(field) for field in fields.values()} == {13}


class Echo:
    """Answers every turn; nobody wins."""

    isolated, max_turns = False, 3

    def size(self, split):
        return 4

    def prompt(self, split, index):
        return TASK.prompt(split, index)

    def grade(self, prompt, turns):
        return float(len(turns))

    def reply(self, prompt, turns):
        return turns[-1][:5]


class EchoGrader:
    async def grade(self, rollouts):
        return [float(len(rollout.turns)) for rollout in rollouts]


class EnginePool:
    num_actors = 1

    def __init__(self, engine, chat):
        self._engine, self.chat = engine, chat

    async def generate(self, requests):
        for completions in self._engine.generate(requests):
            yield completions


@pytest.mark.engine
def test_engine_and_model_agree_on_every_turn(engine, tiny_model_path):
    """The engine reuses cached blocks across turns; its logprobs are those of one forward pass."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    chat = Chat(AutoTokenizer.from_pretrained(tiny_model_path))
    pool = EnginePool(engine, chat)
    group = draw(pool, task=Echo(), window=96, max_tokens=24, grader=EchoGrader(), samples=192)
    several = [rollout for rollout in group.rollouts if len(rollout.turns) > 1]
    assert len(several) >= 3
    model = AutoModelForCausalLM.from_pretrained(tiny_model_path)
    for rollout in several:
        with torch.no_grad():
            logprobs = model(torch.tensor(rollout.token_ids)[None]).logits[0].log_softmax(-1)
        where = np.flatnonzero(rollout.response_mask)
        expected = logprobs[where - 1, rollout.token_ids[where]].numpy()
        np.testing.assert_allclose(rollout.rollout_logprob, expected, atol=1e-4)


def test_a_game_of_another_package_is_in_the_ledger_and_paid_again_from_it(tmp_path):
    """Its state is nowhere else: the prompt and the turns that were read back play it again."""
    pytest.importorskip("textarena", reason="the extra `environment` is not installed")
    values = dict(
        name="environment", game="GuessTheNumber-v0", params={"max_number": 3}, train_size=20,
        eval_size=5, seed=0, max_turns=4, reward_right=1.0, system_prompt=None,
        on_long_prompt="refuse",
    )  # fmt: skip
    game = EnvironmentTask(EnvironmentConfig(**values))

    class GameGrader:
        async def grade(self, rollouts):
            return [game.grade(each.prompt, CHAT.turn_texts(each)) for each in rollouts]

    pool = ScriptedPool("2", "[1]", "3")
    group = draw(pool, task=game, window=4000, grader=GameGrader(), samples=2)
    batch = Batch(
        step=1, groups=(group,), next_draw=1, source_step=0, policy_version=0, reward_errors=0
    )
    write_batch(tmp_path, batch, {})
    again = read_batch(tmp_path, 1).rollouts
    assert {rollout.reward for rollout in again} == {1.0}, "of three numbers three guesses hit one"
    assert [len(rollout.turns) for rollout in again] == [len(pool.requests) // 2] * 2
    other = EnvironmentTask(EnvironmentConfig(**values | {"seed": 5}))
    assert all(other.grade(each.prompt, CHAT.turn_texts(each)) == each.reward for each in again)
