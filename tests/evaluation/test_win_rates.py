"""Win rates against closed forms, scipy and pandas-free arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mallowspo.errors import InputError
from mallowspo.evaluation.win_rates import both_orders, check_orders, win_rate, win_rate_by_tercile

VERDICTS = st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40)


def test_the_standard_error_is_scipys(rng):
    y = rng.choice([0.0, 0.5, 1.0], size=200)
    found = win_rate(y)
    assert found.win_rate == pytest.approx(100 * y.mean())
    assert found.standard_error == pytest.approx(100 * stats.sem(y), rel=1e-12)
    assert (found.wins, found.ties, found.losses, found.prompts) == (*np.bincount((2 * y).astype(int))[::-1], 200)


def test_the_interval_is_near_the_binomial_one_and_seeded():
    y = [1.0] * 120 + [0.0] * 80
    found = win_rate(y, resamples=8000)
    # Percentiles of Binomial(200, 0.6)/200; 0.5 points are one success in 200.
    low, high = stats.binom.ppf([0.025, 0.975], 200, 0.6) / 2
    assert found.low == pytest.approx(low, abs=0.75) and found.high == pytest.approx(high, abs=0.75)
    assert win_rate(y, seed=3) == win_rate(y, seed=3)


@given(VERDICTS)
def test_the_model_and_the_baseline_share_what_there_is(y):
    here, there = win_rate(y, resamples=10), win_rate(1 - np.asarray(y), resamples=10)
    assert here.win_rate + there.win_rate == pytest.approx(100)
    assert (here.wins, here.ties) == (there.losses, there.ties)
    assert here.low <= here.win_rate <= here.high


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=1))
def test_disagreeing_orders_are_a_tie_and_agreeing_ones_stand(pairs):
    first, second = map(list, zip(*pairs, strict=True))
    joined = both_orders(first, second)
    for a, b, y in zip(first, second, joined, strict=True):
        assert y == (a if a == b else 0.5)
    assert check_orders(first, second).consistent == np.mean([a == b for a, b in pairs])


def test_a_judge_that_always_names_the_first_answer_is_seen_through():
    found = check_orders([1.0] * 6, [0.0] * 6)
    assert found.first_preferred == 1.0 and found.consistent == 0.0
    assert (found.win_rate_shown_first, found.win_rate_shown_second) == (100.0, 0.0)
    assert win_rate(both_orders([1.0] * 6, [0.0] * 6)).win_rate == 50.0


def test_terciles_weigh_back_to_the_whole(rng):
    y, d = rng.choice([0.0, 1.0], size=91), rng.normal(size=91)
    groups = win_rate_by_tercile(y, d)
    assert sum(g.prompts for g in groups) == 91
    assert sum(g.win_rate * g.prompts for g in groups) / 91 == pytest.approx(100 * y.mean())
    lowest = y[np.argsort(d)[: groups[0].prompts]]
    assert groups[0].win_rate == pytest.approx(100 * lowest.mean())


@pytest.mark.parametrize("bad", [[], [1.5], [-0.1, 1], [[0.5]], [float("nan")]])
def test_what_is_no_preference_is_refused(bad):
    with pytest.raises(InputError, match="preference"):
        win_rate(bad)


def test_dispersion_must_fit_the_prompts():
    with pytest.raises(InputError, match="2 values for 3 prompts"):
        win_rate_by_tercile([1, 0, 1], [0.1, 0.2])
    with pytest.raises(InputError, match="finite"):
        win_rate_by_tercile([1, 0, 1], [0.1, 0.2, np.nan])
    with pytest.raises(InputError, match="as many"):
        both_orders([1], [1, 0])
