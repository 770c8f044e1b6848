"""Comparison statistics against SciPy, hand calculation and cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mallowspo.errors import InputError
from mallowspo.experiments.comparison import (
    Interval,
    SeedFrontier,
    equal_kl_differences,
    interpolate_frontier,
    mean_interval,
    rank_correlation,
    read_at_best_rate,
    verdict,
)


def line(kl, value):
    return SeedFrontier(kl, value, value)


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


def test_interpolation_is_linear_in_log_kl_and_never_extrapolates():
    read = interpolate_frontier([0.4, 0.1], [0.6, 0.5], [0.1, 0.2, 0.4, 0.0999, 0.4001])
    np.testing.assert_allclose(read, [0.5, 0.55, 0.6, np.nan, np.nan])
    with pytest.raises(InputError, match="KL > 0"):
        interpolate_frontier([0.0, 1.0], [0.5, 0.6], [0.5])


def test_the_better_learning_rate_is_chosen_by_agreement_not_by_the_quantity_that_is_read():
    low = SeedFrontier([0.1, 1.0], [0.6, 0.6], [1.0, 1.0])
    high = SeedFrontier([0.1, 1.0], [0.5, 0.5], [9.0, 9.0])
    assert read_at_best_rate([low, high], [0.3]).tolist() == [1.0]


@given(shift=st.floats(-0.1, 0.1), strength=st.floats(1.1, 3.0))
def test_a_method_that_is_only_stronger_at_equal_beta_gains_nothing_at_equal_kl(shift, strength):
    # Agreement a known function of KL: the same line for both, reached at other β. Only `shift` is a real difference.
    kl = np.geomspace(0.02, 0.5, 4)
    baseline = line(kl, 0.5 + 0.02 * np.log(kl))
    method = line(strength * kl, 0.5 + 0.02 * np.log(strength * kl) + shift)
    found = equal_kl_differences([[method]], [[baseline]])
    assert found.difference_s[0] == pytest.approx(shift, abs=1e-12)
    assert found.low_s[0] == pytest.approx(strength * 0.02)
    assert found.high_s[0] == pytest.approx(0.5)


def test_ranges_that_do_not_meet_give_no_difference():
    found = equal_kl_differences([[line([0.1, 0.2], [1.0, 1.0])]], [[line([0.3, 0.4], [1.0, 1.0])]])
    assert np.isnan(found.difference_s[0])


def test_a_gap_between_the_learning_rates_is_left_out():
    method = [line([0.1, 0.2], [1.0, 1.0]), line([0.8, 1.6], [1.0, 1.0])]
    baseline = [line([0.1, 1.6], [0.0, 0.0])]
    assert equal_kl_differences([method], [baseline]).difference_s.tolist() == [1.0]


def test_rank_correlation_equals_scipy_and_its_interval_covers(rng):
    truth = rng.normal(size=40)
    estimated = np.stack([truth + rng.normal(size=40), np.round(truth)])  # with ties in the second
    interval = rank_correlation(estimated, truth, rng=rng)
    wanted = np.mean([stats.spearmanr(row, truth).statistic for row in estimated])
    assert interval.mean == pytest.approx(wanted)
    assert interval.low < interval.mean < interval.high
    boot = stats.bootstrap(
        (estimated[0], truth),
        lambda x, y: stats.spearmanr(x, y).statistic,
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=1,
    ).confidence_interval
    alone = rank_correlation(estimated[:1], truth, rng=rng)
    assert (alone.low, alone.high) == pytest.approx((boot.low, boot.high), abs=0.06)


def test_an_index_that_is_the_same_everywhere_has_no_rank_correlation(rng):
    assert np.isnan(rank_correlation(np.ones((1, 5)), np.arange(5.0), rng=rng).mean)
    with pytest.raises(InputError, match="finite"):
        rank_correlation([[1.0, np.nan, 2.0]], [1.0, 2.0, 3.0], rng=rng)
