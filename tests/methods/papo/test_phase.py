"""A.11-5: the controller of PAPO's phase signal."""

import json
import math

import pytest

from isentropic.methods.papo.phase import Phase, PhaseConfig


def make(**changes) -> Phase:
    return Phase(
        PhaseConfig(**({"signal": "level", "h_ref": 0.3, "tau": 0.25, "beta": 0.9} | changes))
    )


def drive(phase, entropies, expand=0.0, contract=0.0):
    return [phase.advance(entropy, expand, contract) for entropy in entropies]


def test_a11_5_constant_entropy_at_the_reference_gives_no_signal():
    assert drive(make(), [0.3] * 4) == pytest.approx([0.0] * 4)


def test_a11_5_entropy_to_zero_gives_tanh_of_one_over_tau():
    assert drive(make(beta=0.0), [1e-12])[-1] == pytest.approx(math.tanh(4.0))
    assert drive(make(), [0.3] + [0.0] * 400)[-1] == pytest.approx(math.tanh(4.0))


def test_a11_5_resume_reproduces_the_signal():
    for signal in ("level", "trend", "two_phase", "balance"):
        for h_ref in (0.3, "auto"):
            entropies = [0.8, 0.7, 0.55, 0.4, 0.3, 0.25, 0.2, 0.1]
            whole = make(signal=signal, h_ref=h_ref)
            expected = drive(whole, entropies, 1.0, 2.0)
            first, second = make(signal=signal, h_ref=h_ref), make(signal=signal, h_ref=h_ref)
            drive(first, entropies[:4], 1.0, 2.0)
            second.load_state_dict(json.loads(json.dumps(first.state_dict())))
            assert drive(second, entropies[4:], 1.0, 2.0) == expected[4:]


def test_averages_are_those_of_the_formula():
    phase = make(beta=0.5)
    drive(phase, [1.0, 0.0])
    assert phase.smoothed == 0.5  # 0.5 * 1 + 0.5 * 0
    assert phase.slow == pytest.approx(0.98)


def test_trend_favours_expansion_while_entropy_falls():
    falling = drive(make(signal="trend", beta=0.5), [1.0, 0.5])
    assert falling[0] == 0.0
    assert falling[1] == pytest.approx(math.tanh((0.99 - 0.75) / (0.25 * 0.99)))


def test_two_phase_is_a_sign():
    assert drive(make(signal="two_phase", beta=0.0), [0.2, 0.3, 0.4]) == [1.0, -1.0, -1.0]


def test_balance_is_the_closed_form_of_the_batch():
    assert make(signal="balance").advance(0.5, expand=1.0, contract=3.0) == 0.5
    assert make(signal="balance").advance(0.5, expand=0.0, contract=0.0) == 0.0


def test_auto_reference_is_half_of_the_first_five():
    phase = make(h_ref="auto", beta=0.0)
    assert drive(phase, [0.2, 0.4, 0.6, 0.8]) == [0.0] * 4  # not known yet: the base method
    drive(phase, [1.0])
    assert phase.h_ref == pytest.approx(0.3)
    drive(phase, [9.0])
    assert phase.h_ref == pytest.approx(0.3)


def test_a_step_without_rollouts_changes_nothing():
    phase = make()
    drive(phase, [0.5])
    before = phase.state_dict()
    phase.advance(float("nan"), 0.0, 0.0)
    assert phase.state_dict() == before


@pytest.mark.parametrize(
    ("key", "value"),
    [("signal", "levle"), ("h_ref", "atuo"), ("h_ref", 0.0), ("tau", 0.0), ("beta", 1.0)],
)
def test_bad_values_are_refused_by_name(key, value):
    with pytest.raises(ValueError, match=rf"papo\.{key}"):
        make(**{key: value})
