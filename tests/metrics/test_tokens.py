"""Two responses laid end to end."""

import numpy as np

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
        samples, loss_weight=np.full(5, 0.2), logprob=np.full(5, -0.25), entropy=np.arange(5.0)
    )
    assert table.sequence_id.tolist() == [0, 0, 1, 1, 1]
    assert table.position.tolist() == [0, 1, 0, 1, 2]
    assert table.response_length.tolist() == [2, 2, 3, 3, 3]
    assert table.advantage.tolist() == [2, 2, -1, -1, -1]
    assert table.old_entropy.tolist() == [0.5, 0.5, 0.25, 0.25, 0.25]
    assert table.reward.tolist() == [1, 1, 0, 0, 0]
    assert table.is_teacher.tolist() == [False, False, True, True, True]
    assert table.log_ratio.tolist() == [0.25] * 5
    assert table.rows(table.is_teacher).entropy.tolist() == [2, 3, 4]


def test_no_samples_is_an_empty_table():
    assert (
        len(token_table([], loss_weight=np.zeros(0), logprob=np.zeros(0), entropy=np.zeros(0))) == 0
    )
