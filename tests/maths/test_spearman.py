"""The subset sums of Spearman's rho: two independent routes, and limits known in closed form."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest

from mallowspo.maths import spearman
from mallowspo.maths.spearman import COUNTS_LIMIT, SPEARMAN_LIMIT, distance_counts, moments, pairwise_above


@pytest.mark.parametrize("items", range(1, 8))
def test_counts_by_enumeration(items):
    rankings = np.array(list(itertools.permutations(range(items))))
    counted = np.bincount(((rankings - np.arange(items)) ** 2).sum(axis=1))
    assert np.array_equal(distance_counts(items), counted)


def test_counts_of_more_items():
    counts = distance_counts(COUNTS_LIMIT)
    assert counts.sum() == math.factorial(COUNTS_LIMIT)
    assert counts[2] == COUNTS_LIMIT - 1 and counts[-1] == 1
    assert np.array_equal(counts, counts[::-1])  # reversing a ranking turns d into its largest value minus d


@pytest.mark.parametrize("neg_log_phi", [0.0, 1e-4, 0.02, 0.5, 3.0, 20.0])
def test_the_two_routes_agree(neg_log_phi):
    by_counts = moments(COUNTS_LIMIT, neg_log_phi)
    rest, distance = spearman._sums_by_set(COUNTS_LIMIT, neg_log_phi)
    assert math.log1p(rest[-1]) == pytest.approx(by_counts.log_normalizer, rel=1e-11)
    assert distance[-1] / (1 + rest[-1]) == pytest.approx(by_counts.expected_distance, rel=1e-11)


def test_the_largest_exact_size():
    items = SPEARMAN_LIMIT
    uniform = moments(items, 0.0)
    assert uniform.log_normalizer == pytest.approx(math.lgamma(items + 1), rel=1e-12)
    assert uniform.expected_distance == pytest.approx(items * (items**2 - 1) / 6, rel=1e-12)
    # At small φ only swaps of neighbours matter: Z is the matching polynomial of a path, to order φ^6.
    q2 = mpmath.exp(-2 * mpmath.mpf(12))
    paths = [mpmath.mpf(1), mpmath.mpf(1)]
    for _ in range(items - 1):
        paths.append(paths[-1] + q2 * paths[-2])
    assert moments(items, 12.0).log_normalizer == pytest.approx(float(mpmath.log(paths[-1])), rel=1e-9)


def test_the_slope_of_log_z_is_minus_the_mean_distance():
    step = 1e-5
    high, low = moments(14, 0.05 + step), moments(14, 0.05 - step)
    slope = (high.log_normalizer - low.log_normalizer) / (2 * step)
    assert -slope == pytest.approx(moments(14, 0.05).expected_distance, rel=1e-6)


def test_pairwise_probabilities_turn_round_with_the_ranking():
    above = pairwise_above(14, 0.03)
    assert np.allclose(above, above[::-1, ::-1].T, atol=1e-12)
    assert (np.diff(above[0, 1:]) > 0).all()  # the further apart, the surer
