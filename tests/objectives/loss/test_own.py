"""An objective from a user's file: its slopes, its coefficients, and what is refused before a run."""

import pickle

import pytest
import torch

from isentropic.objectives.loss.leaves import leaf_gradients
from isentropic.objectives.loss.needs import required_fields
from isentropic.objectives.loss.own import OwnObjectiveConfig

TEMPERED = """
from isentropic.objectives import TokenLoss

def tempered(log_ratio, advantage, *, power, old_entropy, cap=None, label="x"):
    \"\"\"loss = -A r**power / power, so that d loss / d log_ratio = -A r**power.\"\"\"
    return TokenLoss(-advantage * (power * log_ratio).exp() / power, {"ratio": log_ratio.exp()})
"""


def config(folder, text=TEMPERED, name="tempered", **settings):
    (folder / "mine.py").write_text(text)
    return OwnObjectiveConfig(
        name="own", ratio="token", file=str(folder / "mine.py"), function_name=name,
        settings=settings,
    )  # fmt: skip


def test_slopes_and_fields_are_the_function_s(tmp_path):
    """-A r**power at A = 3, r = 4, power 1/2: -6; a learner's rank gets it as a pickle."""
    own = pickle.loads(pickle.dumps(config(tmp_path, power=0.5)))
    logprob = torch.tensor([4.0, 1.0], dtype=torch.float64).log()
    fields = {
        "logprob": logprob,
        "old_logprob": torch.zeros_like(logprob),
        "old_entropy": torch.ones_like(logprob),
        "advantage": torch.tensor([3.0, -1.0], dtype=torch.float64),
        "loss_weight": torch.ones(2, dtype=torch.float64),
    }
    result = leaf_gradients(own, own.at(1), fields)
    torch.testing.assert_close(result.d_logprob, torch.tensor([-6.0, 1.0], dtype=torch.float64))
    assert "old_entropy" in required_fields(own)
    assert own.coefficients == ("power", "cap")


def test_a_coefficient_may_follow_a_schedule_and_has_its_default(tmp_path):
    own = config(tmp_path, power={"kind": "switch", "step": 3, "before": 1.0, "after": 0.5})
    assert (own.at(2), own.at(3)) == ({"power": 1.0, "cap": None}, {"power": 0.5, "cap": None})


def test_a_loss_of_the_logprob_itself_has_its_gradient(tmp_path):
    own = config(tmp_path, "def tempered(r, a, *, logprob):\n    return -a * logprob, {}\n")
    assert own.token_fields == {"logprob"}


def test_statistics_over_a_minibatch_are_asked_for_on_the_function(tmp_path):
    assert not config(tmp_path, power=1.0).needs_minibatch
    assert config(
        tmp_path, f"{TEMPERED}tempered.needs_minibatch = True\n", power=1.0
    ).needs_minibatch


@pytest.mark.parametrize(
    ("text", "settings", "says"),
    [
        pytest.param(TEMPERED, {}, "mine.py:4: tempered needs a value of power", id="no value"),
        pytest.param(TEMPERED, {"powr": 1}, "no coefficient.*Did you mean 'power'", id="unknown"),
        pytest.param(TEMPERED, {"power": "high"}, "settings.power must be a number", id="a text"),
        pytest.param("tempered = 3\n", {}, "is int, not a function", id="no function"),
        pytest.param(
            "def tempered(log_ratio, advantage):\n    return missing\n", {},
            "mine.py:2: tempered fails on two tokens: NameError", id="a fault",
        ),
        pytest.param(
            "def tempered(r, a):\n    return (r * a).mean(), {}\n", {},
            r"gives loss \[\] for two tokens.*unreduced", id="reduced",
        ),
        pytest.param(
            "def tempered(r, a):\n    return -a * r.detach(), {}\n", {},
            "mine.py:1: tempered gives a loss without a gradient", id="detached",
        ),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_file_and_line(tmp_path, text, settings, says):
    with pytest.raises(ValueError, match=says):
        config(tmp_path, text, **settings)
