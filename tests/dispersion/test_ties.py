"""Tied rankings against the average over all ways of breaking the ties."""

from itertools import permutations, product

import numpy as np
import pytest

from mallowspo.dispersion import rankings_index, votes_index
from mallowspo.dispersion.people import untie
from mallowspo.maths import as_rankings, kendall_tau, neg_log_phi_from_mean_distance, spearman_rho


def all_ways(ranking):
    """Every strict ranking that agrees with one that has ties."""
    ranking = np.asarray(ranking)
    groups = [np.flatnonzero(ranking == rank) for rank in np.unique(ranking)]
    for orders in product(*(permutations(group) for group in groups)):
        ranks = np.empty(len(ranking), int)
        ranks[np.concatenate(orders)] = np.arange(1, len(ranking) + 1)
        yield ranks


@pytest.mark.parametrize("distance", [kendall_tau, spearman_rho])
@pytest.mark.parametrize("ranking", [[1, 1, 3, 3, 3], [2, 2, 2, 2, 1], [1, 1, 1, 1, 1], [5, 3, 1, 2, 4]])
def test_two_rankings_stand_for_all_ways(distance, ranking):
    every = np.array(list(all_ways(ranking)))
    two = as_rankings(untie(np.array([ranking])))
    for center in ([1, 2, 3, 4, 5], [3, 5, 1, 2, 4], [5, 4, 3, 2, 1]):
        assert distance(two, center).mean() == pytest.approx(distance(every, center).mean())


def test_the_index_of_tied_rankings_is_that_of_the_mean_distance():
    rankings = [[1, 1, 3], [1, 2, 2], [1, 2, 3], [2, 1, 3]]
    index = rankings_index([rankings], ties="half")
    best = min(
        (np.mean([np.mean([kendall_tau(w, c) for w in all_ways(r)]) for r in rankings]), c)
        for c in permutations([1, 2, 3])
    )
    assert index.centers[0].tolist() == list(best[1]) and index.mean_distance_n[0] == pytest.approx(best[0])
    assert index.neg_log_phi_n[0] == pytest.approx(neg_log_phi_from_mean_distance(best[0], 3))
    assert index.rankings_n.tolist() == [4]


def test_without_ties_both_ways_agree():
    rankings = [[[1, 2, 3, 4], [2, 1, 3, 4], [1, 3, 2, 4]]]
    strict, half = rankings_index(rankings), rankings_index(rankings, ties="half")
    for name in ("phi_n", "phi_low_n", "phi_high_n", "mean_distance_n", "rankings_n"):
        np.testing.assert_allclose(getattr(strict, name), getattr(half, name))


def test_two_items_and_ties_agree_with_votes_whose_ties_count_half():
    index = rankings_index([[[1, 2]] * 3 + [[2, 1]] + [[1, 1]] * 2], ties="half", prior=1.0)
    assert index.phi_n[0] == pytest.approx(votes_index([[3, 1, 2]], prior=0.5).phi_n[0])
    assert rankings_index([[[1, 1], [1, 1]]], ties="half").phi_n[0] == pytest.approx(1.0)
