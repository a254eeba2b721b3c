"""Two responses laid end to end."""

from dataclasses import replace

import numpy as np
import pytest

from isentropic.metrics.tokens import token_table


def test_columns_of_two_samples(make):
    samples = [
        make.sample(make.rollout(0, 0, tokens=2, reward=1.0), advantage=2.0, entropy=0.5),
        make.sample(
            make.rollout(0, 1, tokens=3, reward=0.0, origin="teacher:book"),
            advantage=-1.0,
            entropy=0.25,
        ),
    ]
    table = token_table(
        samples,
        weights={"loss_weight": [0.5, 0.25], "nll_weight": [1.0, 0.0]},
        logprob=np.full(5, -0.25),
        entropy=np.arange(5.0),
    )
    assert table.sequence_id.tolist() == [0, 0, 1, 1, 1]
    assert table.loss_weight.tolist() == [0.5, 0.5, 0.25, 0.25, 0.25]
    assert table.nll_weight.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert table.entropy.tolist() == [0, 1, 2, 3, 4]
    assert table.advantage.tolist() == [2, 2, -1, -1, -1]
    assert table.old_entropy.tolist() == [0.5, 0.5, 0.25, 0.25, 0.25]
    assert table.reward.tolist() == [1, 1, 0, 0, 0]
    assert table.is_teacher.tolist() == [False, False, True, True, True]
    assert table.log_ratio.tolist() == [0.25] * 5
    assert table.weight.tolist() == [0.5, 0.5, 0.25, 0.25, 0.25]
    kinds = {name: column.dtype.kind for name, column in table.columns.items()}
    assert kinds.pop("sequence_id") == "i" and kinds.pop("is_teacher") == "b"
    assert set(kinds.values()) == {"f"} and table.advantage.dtype == np.float64


def test_no_samples_is_an_empty_table():
    nothing = np.zeros(0)
    weights = {"loss_weight": [], "nll_weight": []}
    table = token_table([], weights=weights, logprob=nothing, entropy=nothing)
    assert len(table) == 0 and table.columns.keys() >= {"advantage", "is_teacher", "sequence_id"}


def test_the_reference_is_a_column_if_every_sample_has_it(make):
    def table(*references):
        samples = [
            replace(
                make.sample(make.rollout(0, index, tokens=2)),
                old=make.scores([1.0, 1.0], ref_logprob=reference),
            )
            for index, reference in enumerate(references)
        ]
        count = len(samples)
        return token_table(
            samples,
            weights={"loss_weight": [0.5] * count, "nll_weight": [0.0] * count},
            logprob=np.zeros(2 * count),
            entropy=np.zeros(2 * count),
        )

    assert table(-1.0, -2.0).ref_logprob.tolist() == [-1, -1, -2, -2]
    with pytest.raises(AttributeError, match="no column 'ref_logprob'"):
        _ = table(-1.0, None).ref_logprob
