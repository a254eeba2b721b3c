"""What an episode asks for: in one piece, cut into segments, over several turns, with images."""

import numpy as np
import pytest

from isentropic.controller.drawing.episode import DrawnFrom, Episodes
from isentropic.methods.slots import Wave
from isentropic.records import Completion, Prompt, RolloutKey
from isentropic.seeds import rollout_seed

KEY = RolloutKey("train", 3, 0, 1)
PROMPT = Prompt(prompt_id="p", messages=(), answer="", media=("a.png",))
WAVE = Wave(group_size=2, temperature=0.5, top_p=0.9, top_k=5)
END, REPLY = 9, [7, 7]


class Chat:
    def prompt_ids(self, prompt):
        return np.array([1, 2, 3])

    def decode(self, turns):
        return ["".join(map(str, turn)) for turn in turns]

    def reply_ids(self, prompt, reply, reason):
        return np.array(REPLY)


class CountingChat(Chat):
    def __init__(self):
        self.decoded = 0

    def decode(self, turns):
        self.decoded += len(turns)
        return super().decode(turns)


class Task:
    """Answers every turn, up to the last."""

    def __init__(self, max_turns):
        self.max_turns = max_turns

    def reply(self, prompt, turns):
        return "yes"


def origin(step):
    return DrawnFrom(step=step, source_step=step - 1, policy_version=10 * step)


def write(script, *, budget, max_turns=1, max_tokens=8, window=40, chat=None):
    """(requests, rollout) of an episode whose turns are those of `script`, a phase after a phase.

    The engine stops at END, as the protocol says: also if it is the last token that it may write.
    """
    episodes = Episodes(task=Task(max_turns), chat=chat or Chat(), seed=0, window=window)
    (episode,) = episodes.begin([KEY], PROMPT, WAVE, max_tokens).values()
    requests, step, rollout = [], 1, None
    while True:
        episode.budget = budget
        request = episodes.request(episode)
        while request is not None:
            requests.append(request)
            turn = script[request.turn]
            done = len(request.token_ids) - start_of(turn, request, episode)
            tokens = turn[done : done + request.max_tokens]
            reason = "stop" if tokens[-1] == END else "length"
            completion = Completion(
                key=KEY, turn=request.turn, token_ids=np.array(tokens),
                logprob=-np.array(tokens, dtype=np.float32), finish_reason=reason, policy_version=0,
            )  # fmt: skip
            request = episodes.advance(episode, completion, origin(step))
        rollout = episodes.rollout(episode, origin(step))
        if rollout.is_finished:
            return requests, rollout
        step += 1
        episode = episodes.go_on(rollout, WAVE, max_tokens)


def start_of(turn, request, episode):
    """Where the turn of a request begins."""
    return episode.turns[-1][0] if episode.is_open else len(request.token_ids)


ANSWER = [4, 5, 6, 4, 5, END]


def test_without_a_budget_a_turn_is_one_request():
    requests, rollout = write([ANSWER], budget=None)
    assert [(request.turn, request.max_tokens) for request in requests] == [(0, 8)]
    assert requests[0].seed == rollout.seed == rollout_seed(0, *seeded(turn=0))
    assert (rollout.segments, rollout.finish_reason) == ((), "stop")
    assert rollout.writers == [(6, 0)]


def seeded(turn, segment=0):
    """What `rollout_seed` hashes of KEY."""
    return (KEY.split, KEY.draw, KEY.sample, KEY.wave, turn, segment)


def test_a_budget_cuts_a_turn():
    """The first request is the one that it would be in one piece; the others have other seeds."""
    requests, rollout = write([ANSWER], budget=2)
    whole, in_one_piece = write([ANSWER], budget=None)
    assert [request.max_tokens for request in requests] == [2, 2, 2]
    assert [list(request.token_ids[3:]) for request in requests] == [[], [4, 5], [4, 5, 6, 4]]
    assert [each.seed for each in requests] == [rollout_seed(0, *seeded(0, k)) for k in range(3)]
    assert requests[0].seed == whole[0].seed
    assert {request.media for request in requests} == {("a.png",)}
    assert {(each.temperature, each.top_p, each.top_k) for each in requests} == {(0.5, 0.9, 5)}
    for name in ("token_ids", "turns", "rollout_logprob", "finish_reason", "seed"):
        np.testing.assert_array_equal(getattr(rollout, name), getattr(in_one_piece, name))


def test_segments_say_who_wrote_what():
    requests, rollout = write([ANSWER], budget=4)
    assert [segment[:4] for segment in rollout.segments] == [(0, 1, 0, 10), (4, 2, 1, 20)]
    assert [segment.seed for segment in rollout.segments] == [request.seed for request in requests]
    assert (rollout.step, rollout.source_step, rollout.policy_version) == (2, 1, 20)
    assert rollout.writers == [(4, 0), (2, 1)]
    assert list(rollout.source_steps) == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("budget", "limits"),
    [
        pytest.param(3, [3, 2], id="the rest of the limit is less than the budget"),
        pytest.param(5, [5], id="a limit that the budget reaches is no cut"),
        pytest.param(8, [5], id="a budget above the limit"),
    ],
)
def test_the_limit_of_a_response_ends_it(budget, limits):
    requests, rollout = write([[4] * 20], budget=budget, max_tokens=5)
    assert [request.max_tokens for request in requests] == limits
    assert (rollout.finish_reason, rollout.num_response_tokens) == ("length", 5)


def test_the_window_ends_it_too():
    requests, rollout = write([[4] * 20], budget=3, max_tokens=20, window=3 + 7)
    assert [request.max_tokens for request in requests] == [3, 3, 1]
    assert rollout.finish_reason == "length"


TURNS = [[4, 5, END], [6, 4, 5, 6, END], [5, END]]


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 100])
def test_turns_in_segments_are_the_turns(budget):
    """A budget may end in a turn, between turns, or at a turn's last token."""
    requests, rollout = write(TURNS, budget=budget, max_turns=3)
    _, in_one_piece = write(TURNS, budget=None, max_turns=3)
    for name in ("token_ids", "turns", "rollout_logprob", "finish_reason", "seed"):
        np.testing.assert_array_equal(getattr(rollout, name), getattr(in_one_piece, name))
    assert rollout.finish_reason == "turns"
    assert len({request.seed for request in requests}) == len(requests) == len(rollout.segments)
    # In each phase but the last all of the budget is written, over turns if need be.
    by_step = {}
    ends = [*(segment.start for segment in rollout.segments[1:]), rollout.num_response_tokens]
    for segment, end in zip(rollout.segments, ends, strict=True):
        by_step[segment.step] = by_step.get(segment.step, 0) + end - segment.start
    assert list(by_step) == list(range(1, len(by_step) + 1))
    assert list(by_step.values())[:-1] == [budget] * (len(by_step) - 1)


def test_the_first_request_of_each_turn_has_the_seed_of_that_turn():
    requests, _ = write(TURNS, budget=2, max_turns=3)
    first = {}
    for request in requests:
        first.setdefault(request.turn, request.seed)
    assert first == {turn: rollout_seed(0, *seeded(turn)) for turn in range(3)}


def cut(script, *, budget, max_turns=1):
    """What there is of an episode when its first budget is used up."""
    episodes = Episodes(task=Task(max_turns), chat=Chat(), seed=0, window=40)
    (episode,) = episodes.begin([KEY], PROMPT, WAVE, 20).values()
    episode.budget = budget
    request = episodes.request(episode)
    while request is not None:
        tokens = script[request.turn][: request.max_tokens]
        completion = Completion(
            key=KEY, turn=request.turn, token_ids=np.array(tokens),
            logprob=-np.array(tokens, dtype=np.float32), policy_version=0,
            finish_reason="stop" if tokens[-1] == END else "length",
        )  # fmt: skip
        request = episodes.advance(episode, completion, origin(1))
    return episodes.rollout(episode, origin(1))


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        pytest.param({"max_tokens": 20}, None, id="nothing was lowered"),
        pytest.param({"max_tokens": 5}, None, id="room for one more"),
        pytest.param({"max_tokens": 4}, "length", id="a response may have as many as it has"),
        pytest.param({"max_tokens": 2}, "length", id="or fewer"),
        pytest.param({"max_tokens": 20, "window": 7}, "length", id="the window is full"),
    ],
)
def test_a_cut_turn_that_may_not_go_on_ends(limits, reason):
    """A resume may lower the limits: the engine would be asked for less than one token."""
    rollout = cut([[4] * 20], budget=4)
    ended = full(rollout, **limits)
    assert [each.finish_reason for each in ended] == ([] if reason is None else [reason])
    for each in ended:
        assert each.segments == rollout.segments
        np.testing.assert_array_equal(each.token_ids, rollout.token_ids)


def full(rollout, *, max_turns=1, max_tokens=20, window=40):
    episodes = Episodes(task=Task(max_turns), chat=Chat(), seed=0, window=window)
    return episodes.end_full([rollout], max_tokens)


@pytest.mark.parametrize(
    ("limits", "ends"),
    [
        pytest.param({"max_turns": 3}, False, id="nothing was lowered"),
        pytest.param({"max_turns": 2}, False, id="one more turn"),
        pytest.param({"max_turns": 1}, True, id="no more turn"),
        pytest.param({"max_turns": 3, "window": 8}, True, id="the reply fills the window"),
        pytest.param({"max_turns": 3, "max_tokens": 1}, False, id="a turn of its own length"),
    ],
)
def test_between_turns_it_ends_without_the_reply(limits, ends):
    rollout = cut(TURNS, budget=3, max_turns=3)
    assert list(rollout.token_ids) == [1, 2, 3, 4, 5, END, *REPLY]
    ended = full(rollout, **limits)
    assert [(each.finish_reason, list(each.token_ids)) for each in ended] == (
        [("turns", [1, 2, 3, 4, 5, END])] if ends else []
    )


def test_each_turn_is_decoded_once():
    """Else the last of n turns would decode all n again, in the event loop."""
    chat = CountingChat()
    _, rollout = write(TURNS, budget=None, max_turns=3, chat=chat)
    assert chat.decoded == 3
    assert rollout.texts == ("459", "64569", "59")


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 100])
def test_the_texts_of_a_record_are_those_of_all_turns_or_none(budget):
    _, rollout = write(TURNS, budget=budget, max_turns=3)
    assert rollout.texts == ("459", "64569", "59")
    _, rollout = write([TURNS[0], [4] * 20], budget=budget, max_turns=3)
    assert (rollout.finish_reason, len(rollout.turns), rollout.texts) == ("length", 2, ())
