"""Ranks that share their tokens, and replicas; run as a script by `test_context_parallel.py`.

python context_ranks.py FOLDER

Two ranks, then four, are forked from one process: their imports take longer than their work.
"""

import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import ranks
import torch

from isentropic import batching
from isentropic.learner import sharding
from isentropic.objectives.covariance.clip_cov import ClipCovConfig


class Case(NamedTuple):
    share: int  # ranks that share a microbatch
    replicas: int
    budget: int  # tokens of a microbatch
    objective: Any = ranks.OBJECTIVE
    settings: tuple = ()  # (name, value) pairs


SEQUENCES = replace(ranks.OBJECTIVE, ratio="sequence")
# It draws tokens by their places in the minibatch: one that counted twice would move the others.
WHOLE = ClipCovConfig(
    name="clip_cov",
    ratio="token",
    clip_low=None,
    clip_high=None,
    dual_clip=None,
    share=0.1,
    cov_low=-99.0,
    cov_high=99.0,
)
CASES = {
    2: {
        "one pack": Case(2, 1, 10_000),
        "small packs": Case(2, 1, 30, SEQUENCES, (("gradient_checkpointing", True),)),
    },
    4: {
        "more ranks than key heads": Case(4, 1, 10_000),
        "pairs": Case(2, 2, 20, WHOLE, (("unsharded_gradient_gib", 0.0),)),
        "replicas": Case(1, 2, 20),
    },
}


def outcome(learner, batch, scored, objective=ranks.OBJECTIVE):
    """What two updates leave behind, and what this rank says of its tokens, by sample."""
    result = learner.update(batch)
    rows = [
        batching.unpack_columns([microbatches], [(one.logprob, one.entropy)], len(members))
        for microbatches, one, members in zip(
            batch.updates, result.updates, batching.plan_updates(scored, 2), strict=True
        )
    ]
    return {
        "scores": [sample.old.logprob for sample in scored],
        "rows": [row for part in rows for row in part],  # of another rank's microbatches: empty
        "norms": [update.grad_norm for update in result.updates],
        "weights": ranks.weights_of(learner),
    }


def run(folder, name, case, rank, world):
    learner = ranks.make_learner(
        folder / "model",
        rank,
        world,
        folder / f"meet {name}",
        case.objective,
        context_parallel=case.share,
        replicas=case.replicas,
        **dict(case.settings),
    )
    scored = ranks.with_own_scores(learner, ranks.make_samples())
    count = world // case.share
    batches = ranks.step_batches(scored, count, case.budget, objective=case.objective)
    found = outcome(learner, batches[rank // case.share], scored, case.objective)
    learner.close()
    return found


def books_and_state(folder, rank, world):
    """The books of two updates of pairs of ranks; whether a state that was saved comes back."""
    settings = ranks.BOOKS | {"context_parallel": 2, "replicas": world // 2}
    learner = ranks.make_learner(
        folder / "model", rank, world, folder / f"meet books {world}", **settings
    )
    books = ranks.books_of(learner, rank // 2, world // 2)
    learner.save(folder / f"state {world}")
    saved = ranks.weights_of(learner)
    ranks.books_of(learner, rank // 2, world // 2)
    moved = ranks.weights_of(learner)
    learner.load(folder / f"state {world}")
    again = ranks.weights_of(learner)
    learner.close()
    return {"books": books, "saved": saved, "moved": moved, "again": again}


def one_rank(folder, rank, world):
    found = {name: run(folder, name, case, rank, world) for name, case in CASES[world].items()}
    found["books"] = books_and_state(folder, rank, world)
    (folder / f"found {rank} of {world}.pickle").write_bytes(pickle.dumps(found))


def main(folder):
    torch.set_num_threads(1)
    sharding.ONE_UNIT_BYTES = 0  # sharded by layer, as models with long sequences are
    for world in CASES:
        fork_ranks(folder, world)


def fork_ranks(folder, world):
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            try:
                one_rank(folder, rank, world)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert not any(codes), f"exit codes of {world} ranks: {codes}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
