from hypothesis import given
from hypothesis import strategies as st

from masam.training.budget import Budget


def run(seconds, total, pace, before=0.0):
    """Play a run whose step takes ``pace(step)`` seconds; returns its steps, its time and its forecasts."""
    budget, step, spent, totals = Budget(float(seconds)), 0, before, [total]
    while step < totals[-1]:
        step += 1
        spent += pace(step)
        totals.append(budget.affordable_steps(step, totals[-1], spent))
    return step, spent, totals


def test_a_run_that_fits_keeps_its_steps():
    assert run(1000, 500, lambda step: 1.0) == (500, 500, [500] * 501)


def test_a_run_that_does_not_fit_is_shortened_early_and_once():
    steps, spent, totals = run(1000, 5000, lambda step: 1.0)
    assert sorted(set(totals), reverse=True) == [5000, steps]
    assert totals.index(steps) == 20
    assert 0.95 * 1000 <= spent <= 1000


def test_slow_validations_are_noticed_by_later_forecasts():
    # Validations of 100 s every 200 steps, which the first forecast knows nothing of.
    _, spent, totals = run(1000, 5000, lambda step: 1.0 + 100 * (step % 200 == 0))
    assert 0.9 * 1000 <= spent <= 1000
    assert totals == sorted(totals, reverse=True)


def test_time_of_earlier_processes_counts():
    steps, _, _ = run(1000, 5000, lambda step: 1.0, before=600.0)
    assert 340 <= steps <= 400
    assert run(1000, 5000, lambda step: 1.0, before=1000.0)[0] == 1


@given(st.floats(50, 1e5), st.integers(1, 3000), st.floats(0.01, 10), st.floats(0, 1))
def test_the_run_ends_in_time_and_is_never_extended(seconds, total, pace, noise):
    steps, spent, totals = run(seconds, total, lambda step: pace * (1 + noise * (step % 7) / 7))
    assert totals == sorted(totals, reverse=True)
    assert steps <= total
    # No more than the step that was under way, or those that the first forecast takes.
    assert spent <= seconds + 2 * pace
    if steps < total:
        assert spent >= 0.8 * seconds - 25 * 2 * pace


def test_completed_steps_are_kept_when_time_is_over():
    assert Budget(10.0).affordable_steps(7, 100, 10.0) == 7
