"""Ranks that share a microbatch's tokens learn what one rank with all of them learns."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3Config

from isentropic import batching
from isentropic.learner.context_parallel import check_heads, cut, cut_images, enough_heads
from isentropic.learner.images import ImageInputs

FOLDER = Path(__file__).parent
CLOSE = {"rtol": 2e-4, "atol": 2e-6}  # float32, a few hundred terms per sum


@pytest.fixture(scope="module")
def scripts():
    """The modules `ranks` and `context_ranks`, which import each other as scripts do."""
    sys.path.insert(0, str(FOLDER))
    import context_ranks
    import ranks

    yield context_ranks, ranks
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, scripts):
    folder = tmp_path_factory.mktemp("context")
    scripts[1].make_model(folder / "model")
    return folder


@pytest.fixture(scope="module")
def found(folder):
    """What each rank found, by how many there were: real processes on gloo."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(FOLDER.parents[1] / "platform"),
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        [sys.executable, FOLDER / "context_ranks.py", folder],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return {
        world: [
            pickle.loads((folder / f"found {rank} of {world}.pickle").read_bytes())
            for rank in range(world)
        ]
        for world in (2, 4)
    }


def rows_of_all(ranks_found):
    """Joins what the ranks say of their own samples; those that share a sample say the same."""
    joined = []
    for said in zip(*(found["rows"] for found in ranks_found), strict=True):
        said = [row for row in said if row]
        for row in said[1:]:
            assert all(np.array_equal(*pair) for pair in zip(row, said[0], strict=True))
        joined.append(said[0])
    return joined


@pytest.mark.parametrize(
    ("world", "name"),
    [
        (2, "one pack"),
        (2, "small packs"),
        (4, "more ranks than key heads"),
        (4, "pairs"),
        (4, "replicas"),
    ],
)
def test_ranks_that_share_learn_what_one_rank_learns(folder, scripts, found, world, name):
    context_ranks, ranks = scripts
    case = context_ranks.CASES[world][name]
    learner = ranks.make_learner(folder / "model", objective=case.objective)
    before = ranks.weights_of(learner)
    scored = ranks.with_own_scores(learner, ranks.make_samples())
    batch = ranks.step_batches(scored, 1, 10_000, objective=case.objective)[0]
    expected = context_ranks.outcome(learner, batch, scored, case.objective)
    learner.close()
    moved = [expected["weights"][key] - before[key] for key in before]
    assert max(each.abs().max() for each in moved) > 0.01, "else this test shows nothing"

    every = [one[name] for one in found[world]]

    for one in every:
        assert one["norms"] == pytest.approx(expected["norms"], rel=1e-4)
        for score, alone in zip(one["scores"], expected["scores"], strict=True):
            np.testing.assert_allclose(score, alone, rtol=1e-4, atol=2e-5)
        for key, weight in expected["weights"].items():
            torch.testing.assert_close(one["weights"][key], weight, **CLOSE)
    for row, alone in zip(rows_of_all(every), expected["rows"], strict=True):
        for column, other in zip(row, alone, strict=True):
            np.testing.assert_allclose(column, other, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("world", [2, 4])
def test_books_count_each_token_once(folder, scripts, found, world):
    _, ranks = scripts
    learner = ranks.make_learner(folder / "model", **ranks.BOOKS)
    expected = ranks.books_of(learner, 0, 1)
    learner.close()
    for one in found[world]:
        for update, alone in zip(one["books"]["books"], expected, strict=True):
            owned, owned_alone = update.pop("owned"), dict(alone)["owned"]
            largest = max(map(abs, owned_alone.values()))
            assert owned == pytest.approx(owned_alone, rel=1e-3, abs=1e-3 * largest)
            for key, value in update.items():
                assert value == pytest.approx(alone[key], rel=1e-4, abs=1e-8), key


@pytest.mark.parametrize("world", [2, 4])
def test_a_state_of_pairs_comes_back(found, world):
    for one in found[world]:
        state = one["books"]
        assert all(torch.equal(state["saved"][key], again) for key, again in state["again"].items())
        assert any(not torch.equal(state["saved"][key], at) for key, at in state["moved"].items())


@pytest.mark.parametrize("size", [2, 3, 4, 50])
def test_parts_are_the_whole(scripts, size):
    """Every token once, and every response token with the state that predicts it."""
    rollouts = [sample.rollout for sample in scripts[1].make_samples()]
    [[batch]] = batching.score_batches(rollouts, 1, 10_000)
    parts = [cut(batch, index, size) for index in range(size)]
    bounds = {len(part.token_ids) * index for index, (part, _) in enumerate(parts)}
    assert bounds - set(batch.cu_seqlens.tolist()), "no sequence is cut: this shows nothing"
    total = len(batch.token_ids)
    assert len({len(part.token_ids) for part, _ in parts}) == 1
    for name in ("token_ids", "position_ids"):
        joined = np.concatenate([getattr(part, name) for part, _ in parts])
        assert joined[:total].tolist() == getattr(batch, name).tolist()
        assert joined[total:].tolist() == (
            [0] * (len(joined) - total) if name == "token_ids" else [*range(len(joined) - total)]
        )
    assert np.concatenate([chosen for _, chosen in parts]).tolist() == [*range(len(batch.target))]
    for part, chosen in parts:
        assert part.target.tolist() == batch.target[chosen].tolist()
        states = batch.token_ids[batch.predict[chosen]]
        assert part.token_ids[part.predict].tolist() == states.tolist()
        assert part.cu_seqlens[-1] == len(joined)
        assert part.cu_seqlens[: len(batch.cu_seqlens)].tolist() == batch.cu_seqlens.tolist()


def test_image_tokens_go_where_their_tokens_go():
    """An image of three tokens, cut after its first; the second part is filled up."""
    images = ImageInputs(
        pixels=torch.zeros(12, 3),
        grid=torch.tensor([[1, 2, 6]]),
        position_ids=torch.arange(15).reshape(3, 5),
        place=torch.tensor([2, 3, 4]),
        feature=torch.tensor([0, 1, 2]),
    )
    first, second = (cut_images(images, index, 2) for index in (0, 1))
    assert (first.place.tolist(), first.feature.tolist()) == ([2], [0])
    assert (second.place.tolist(), second.feature.tolist()) == ([0, 1], [1, 2])
    assert first.position_ids.tolist() == [[0, 1, 2], [5, 6, 7], [10, 11, 12]]
    assert second.position_ids.tolist() == [[3, 4, 0], [8, 9, 0], [13, 14, 0]]
    assert first.pixels is second.pixels is images.pixels


@pytest.mark.parametrize(
    ("size", "order"),
    [(1, [0, 1]), (2, [0, 1]), (4, [0, 0, 1, 1]), (3, [0, 0, 0, 1, 1, 1])],
)
def test_key_heads_stay_with_their_queries(size, order):
    heads = torch.tensor([0, 1])[:, None, None]
    assert enough_heads(heads, size).flatten().tolist() == order


def test_heads_that_cannot_be_dealt_out_are_refused():
    config = Qwen3Config(num_attention_heads=14, num_key_value_heads=2)
    for size in (1, 2, 7, 14):
        check_heads(config, size)
    with pytest.raises(ValueError, match=r"context_parallel=4: the model's 14 attention heads"):
        check_heads(config, 4)
