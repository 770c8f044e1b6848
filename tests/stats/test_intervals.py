"""Intervals and verdicts against SciPy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mallowspo.errors import InputError
from mallowspo.stats.intervals import Interval, mean_interval, mean_of_known, ratio_interval
from mallowspo.stats.verdicts import holm, verdict


def test_interval_equals_scipy(rng):
    values = rng.normal(size=8)
    interval = mean_interval(values)
    wanted = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((wanted.low, wanted.high))


def test_one_seed_has_no_interval_and_no_verdict():
    interval = mean_interval([0.3, float("nan")])
    assert interval.mean == 0.3
    assert np.isnan([interval.low, interval.high]).all()
    assert verdict(interval) == "open"


@pytest.mark.parametrize(
    ("ends", "word"), [((0.1, 0.3), "better"), ((-0.3, -0.1), "worse"), ((-0.1, 0.1), "open"), ((0.0, 0.2), "open")]
)
def test_a_verdict_needs_an_interval_without_zero(ends, word):
    assert verdict(Interval(sum(ends) / 2, *ends)) == word


@pytest.mark.parametrize(
    ("rows", "seeds", "word"),
    [
        ((1, 2), (1, 2), "better"),
        ((-2, -1), (-3, -1), "worse"),
        ((1, 2), (-1, 4), "open"),
        ((1, 2), (-2, -1), "open"),
        ((1, 2), (float("nan"), float("nan")), "open"),
    ],
)
def test_two_sources_of_chance_must_agree(rows, seeds, word):
    both = [Interval(sum(ends) / 2, *ends) for ends in (rows, seeds)]
    assert verdict(*both) == word
    assert verdict(*both, more_is="worse") == {"better": "worse", "worse": "better"}.get(word, word)
    assert verdict(*both, more_is="more") == {"better": "more", "worse": "less"}.get(word, word)


def test_many_intervals_hold_arms_and_order():
    many = Interval([1.0, 2.0], [0.5, 2.0], [1.25, 4.0])
    np.testing.assert_array_equal(many.arms, [[0.5, 0.0], [0.25, 2.0]])
    np.testing.assert_array_equal(many.take(np.array([1, 0])).high, [4.0, 1.25])
    np.testing.assert_array_equal(many.scaled(-2.0).low, [-2.5, -8.0])


def test_stacked_for_a_figure_no_estimate_lies_outside_its_ends():
    stacked = Interval.stack([[1.0, 1.00001, 2.0], {"mean": 3.0, "low": None, "high": None}, Interval(1.0, 0.0, 2.0)])
    assert stacked.low.tolist() == [1.0, 3.0, 0.0] and stacked.high.tolist() == [2.0, 3.0, 2.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [(([1.0], [0.5], [0.7, 0.8]), "shape"), (([1.0, 2.0], [0.9, 0.1], [1.1, 0.1]), "outside")],
)
def test_what_is_no_interval_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        Interval(*given)


def test_what_is_not_known_counts_for_nothing():
    assert mean_of_known([1.0, np.nan, 3.0]) == 2.0 and np.isnan(mean_of_known([np.nan]))
    one = Interval.of({"value": 1.0, "low": None, "high": None})
    assert one.mean == 1.0 and np.isnan(one.low) and not one.has_ends


def test_the_interval_of_a_ratio_is_where_a_t_test_does_not_tell_the_difference_from_0():
    """Fieller's ends r: above − r·below has a mean that SciPy's t-test puts at exactly p = .05."""
    rng = np.random.default_rng(2)
    below = rng.normal(2.0, 0.6, 12)
    above = 0.4 * below + rng.normal(0.0, 0.3, 12)
    found = ratio_interval(above, below)
    assert found.mean == pytest.approx(above.mean() / below.mean())
    for end in (found.low, found.high):
        assert stats.ttest_1samp(above - end * below, 0.0).pvalue == pytest.approx(0.05, abs=1e-9)
    assert not ratio_interval(above, below - below.mean() + 0.01).has_ends


def test_p_values_are_adjusted_as_holm_wrote():
    # By hand: 0.01 · 3, then 0.03 · 2, then no less than that.
    assert holm([0.01, 0.04, 0.03, float("nan")])[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert np.isnan(holm([0.01, float("nan")])[1])
