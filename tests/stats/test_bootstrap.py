"""Bootstraps and rank statistics against SciPy, simulation and arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mallowspo.errors import InputError
from mallowspo.stats.bootstrap import Resamples, auroc, bootstrap, rank_correlation


def test_rank_correlation_is_scipys_and_its_interval_covers(rng):
    truth = rng.normal(size=40)
    estimated = np.stack([truth + rng.normal(size=40), np.round(truth)])  # with ties in the second
    found = rank_correlation(estimated, truth, rng=rng)
    assert found.mean == pytest.approx(np.mean([stats.spearmanr(row, truth).statistic for row in estimated]))
    assert found.low < found.mean < found.high
    boot = stats.bootstrap(
        (estimated[0], truth),
        lambda x, y: stats.spearmanr(x, y).statistic,
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=1,
    ).confidence_interval
    alone = rank_correlation(estimated[0], truth, rng=rng)
    assert (alone.low, alone.high) == pytest.approx((boot.low, boot.high), abs=0.06)
    estimated[0, 3] = np.nan  # left out, as the row is
    wanted = stats.spearmanr(np.delete(estimated[0], 3), np.delete(truth, 3)).statistic
    assert rank_correlation(estimated[0], truth, rng=rng).mean == pytest.approx(wanted)


def test_an_index_that_is_the_same_everywhere_has_no_rank_correlation(rng):
    assert np.isnan(rank_correlation(np.ones((1, 5)), np.arange(5.0), rng=rng).mean)
    assert np.isnan(rank_correlation([], [], rng=rng).mean)
    with pytest.raises(InputError, match="shapes"):
        rank_correlation([[1.0, 2.0]], [1.0, 2.0, 3.0], rng=rng)


def test_auroc_is_mann_whitneys_u(rng):
    score, positive = rng.integers(0, 9, 60), rng.random(60) < 0.4
    u = stats.mannwhitneyu(score[positive], score[~positive]).statistic
    found = auroc(score, positive, rng=rng)
    assert found.mean == pytest.approx(u / positive.sum() / (~positive).sum())
    assert np.isnan(auroc([1.0, 2.0], [True, True], rng=rng).mean)


def test_bootstrap_covers_as_often_as_it_says(rng):
    inside = 0
    for _ in range(300):
        values = rng.exponential(size=60)
        found = bootstrap(lambda at, v=values: float(v[at].mean()), range(60), rng=rng, resamples=200)
        inside += found.low <= 1.0 <= found.high
    assert 0.88 <= inside / 300 <= 0.98


def test_groups_are_drawn_whole(rng):
    # Ten prompts of fifty equal rows: only ten draws' worth of knowledge.
    values, groups = np.repeat(rng.normal(size=10), 50), np.repeat(np.arange(10), 50)

    def mean(at):
        return float(values[at].mean())

    single, whole = bootstrap(mean, range(500), rng=rng), bootstrap(mean, groups.tolist(), rng=rng)
    assert (whole.high - whole.low) > 4 * (single.high - single.low)
    assert np.isnan(bootstrap(mean, [0] * 500, rng=rng).low)


def test_the_interval_over_rows_has_the_width_of_the_normal_one(rng):
    value = rng.normal(size=400)
    found = Resamples.of(range(400), rng=rng).mean(value)
    half = 1.96 * value.std() / 20
    assert found.mean == pytest.approx(value.mean())
    assert found.high - found.mean == pytest.approx(half, rel=0.12)
    assert found.mean - found.low == pytest.approx(half, rel=0.12)


def test_rows_of_one_dialogue_stand_or_fall_together(rng):
    value = rng.normal(size=60)
    single = Resamples.of([f"{n:02}" for n in range(60)], rng=np.random.default_rng(0)).mean(value)
    twice = Resamples.of([f"{n:02}" for n in range(60) for _ in range(2)], rng=np.random.default_rng(0)).mean(
        np.repeat(value, 2)
    )
    # Repeating every row says nothing new: the interval must not narrow.
    assert (twice.mean, twice.low, twice.high) == pytest.approx((single.mean, single.low, single.high))


def test_a_contrast_is_the_difference_of_two_means(rng):
    value, first = rng.normal(size=300), np.arange(300) < 100
    found = Resamples.of(range(300), rng=rng).contrast(value, first, ~first)
    error = np.sqrt(value[first].var() / 100 + value[~first].var() / 200)
    assert found.mean == pytest.approx(value[first].mean() - value[~first].mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.12)


def test_too_few_rows_have_no_interval():
    draws = Resamples.of(["a", "b", "c"], rng=np.random.default_rng(0))
    assert np.isnan(draws.mean([1.0, 2.0, 3.0], [True, False, False]).low)
    assert np.isnan(draws.contrast([1.0, 2.0, 3.0], [True, True, False], [False, False, True]).mean)


def test_shapes_are_checked():
    with pytest.raises(InputError, match="one value per row"):
        Resamples.of(["a", "b"], rng=np.random.default_rng(0)).mean([1.0, 2.0, 3.0])
