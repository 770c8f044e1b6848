"""Diagnostics against SciPy, simulation and arithmetic."""

import numpy as np
import pytest
from scipy import stats

from mallowspo.dispersion.diagnostics import (
    auroc,
    bootstrap,
    effective_sample_size,
    flip_probability,
    pooled_interval,
    rank_correlation,
    vote_disagreement,
)
from mallowspo.errors import InputError
from mallowspo.maths import MallowsModel


def test_effective_sample_size_is_the_variance_of_a_weighted_mean(rng):
    weight = rng.gamma(2.0, size=50)
    means = (rng.normal(size=(40_000, 50)) * weight).sum(axis=1) / weight.sum()
    assert 1 / means.var() == pytest.approx(effective_sample_size(weight), rel=0.03)
    with pytest.raises(InputError, match="at least one"):
        effective_sample_size([0.0, 0.0])


def test_flips_are_those_of_neighbours_under_kendall():
    for phi in (0.2, 0.7):
        assert flip_probability([phi])[0] == pytest.approx(MallowsModel([1, 2], phi).pairwise_matrix()[1, 0])


def test_disagreement_of_two_voters_has_no_bias(rng):
    chosen = rng.binomial(3, 0.8, size=60_000)
    differ, minority = vote_disagreement(np.column_stack([chosen, 3 - chosen]))
    assert differ.mean() == pytest.approx(2 * 0.8 * 0.2, abs=0.005)
    assert minority.mean() < 0.19  # too low: with three votes the smaller side hides


def test_rank_correlation_is_scipys(rng):
    x = rng.integers(0, 20, 80).astype(float)
    y = x + rng.normal(scale=8, size=80)
    found = rank_correlation(x, y, rng=rng)
    assert found.value == pytest.approx(stats.spearmanr(x, y)[0])
    assert found.low < found.value < found.high
    x[3] = np.nan
    assert rank_correlation(x, y, rng=rng).count == 79
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3], rng=rng).value)
    assert np.isnan(rank_correlation([], [], rng=rng).value)


def test_auroc_is_mann_whitneys_u(rng):
    score, positive = rng.integers(0, 9, 60), rng.random(60) < 0.4
    u = stats.mannwhitneyu(score[positive], score[~positive]).statistic
    found = auroc(score, positive, rng=rng)
    assert found.value == pytest.approx(u / positive.sum() / (~positive).sum())
    assert np.isnan(auroc([1.0, 2.0], [True, True], rng=rng).value)


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


def test_pooled_interval_covers_and_its_reliability_is_the_variance_ratio(rng):
    inside, reliability = [], []
    for _ in range(200):
        truth = rng.normal(scale=2.0, size=40)
        group = np.repeat(np.arange(40), 2)
        values = truth[group] + rng.normal(size=80)
        found = pooled_interval(values, group)
        inside.append(np.abs(np.bincount(group, weights=values) / 2 - truth) <= found.half_width_g)
        reliability.append(found.reliability)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.01)
    assert np.mean(reliability) == pytest.approx(4 / (4 + 0.5), abs=0.02)


def test_one_response_a_prompt_has_no_interval():
    found = pooled_interval([1.0, 2.0], [0, 1])
    assert np.isnan(found.half_width_g).all() and np.isnan(found.reliability) and found.degrees == 0
