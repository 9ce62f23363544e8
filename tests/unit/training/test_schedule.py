from itertools import pairwise

import pytest

from masam.training.schedule import WarmupPolynomial

PAPER = WarmupPolynomial(base=8e-4, warmup_steps=250, decay_steps=400 * 126, power=7.0)


@pytest.mark.parametrize(("epoch", "rate"), [(20, "5.8e-04"), (160, "2.4e-05"), (260, "5.7e-07")])
def test_published_points(epoch, rate):
    assert f"{PAPER.rate(epoch * 126):.1e}" == rate


def test_warm_up_is_linear_from_the_first_step_to_the_peak():
    assert [PAPER.rate(step) for step in (0, 124, 249)] == pytest.approx([8e-4 / 250, 4e-4, 8e-4])
    assert PAPER.rate(250) == 8e-4
    assert max(map(PAPER.rate, range(60_000))) == 8e-4


def test_the_decay_is_monotone_and_ends_at_zero():
    rates = [PAPER.rate(step) for step in range(250, 60_000, 50)]
    assert all(a >= b for a, b in pairwise(rates))
    assert PAPER.rate(250 + 400 * 126) == 0
    assert PAPER.rate(10**9) == 0


def test_no_warm_up_and_no_decay():
    assert WarmupPolynomial(1e-3, 0, 10, 1.0).rate(0) == 1e-3
    assert WarmupPolynomial(1e-3, 0, 10, 1.0).rate(5) == pytest.approx(5e-4)
    assert WarmupPolynomial(1e-3, 0, 0, 1.0).rate(1) == 0
