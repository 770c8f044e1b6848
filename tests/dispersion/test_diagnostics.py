"""Diagnostics against SciPy, simulation and arithmetic."""

import numpy as np
import pytest

from mallowspo.dispersion.analysis import distribution, weights_hardly_differ
from mallowspo.dispersion.diagnostics import (
    correlation,
    effective_sample_size,
    flip_probability,
    pooled_interval,
    vote_disagreement,
)
from mallowspo.dispersion.people import fit_sample_size
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


def test_what_few_voters_cannot_tell_is_missing():
    differ, minority = vote_disagreement([[2, 1, 0], [3, 0, 0], [1, 0, 2], [0, 0, 3]])
    assert differ == pytest.approx([2 / 3, 0, np.nan, np.nan], nan_ok=True)
    assert minority == pytest.approx([1 / 3, 0, 0, np.nan], nan_ok=True)
    assert distribution([1.0, 2.0, 3.0, np.nan])["mean"] == 2.0 and distribution([np.nan])["count"] == 0


def test_weights_that_hardly_differ_differ_by_less_than_a_tenth():
    assert weights_hardly_differ([0.99, 1.0, 1.01]) and not weights_hardly_differ([0.5, 1.0, 1.8])


def test_the_test_of_fit_takes_a_sample_of_many():
    assert [fit_sample_size(*size) for size in ((40, 10), (5000, 10), (5000, 60))] == [40, 500, 200]


def test_a_correlation_counts_the_rows_that_it_knows(rng):
    found = correlation([1.0, 2.0, np.nan, 4.0], [1.0, 3.0, 2.0, 9.0], rng=rng)
    assert found["count"] == 3 and found["value"] == pytest.approx(1.0)


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
