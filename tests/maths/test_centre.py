"""Consensus rankings against a search over all rankings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mallowspo.errors import InputError
from mallowspo.maths import MallowsModel, borda_center, consensus, kemeny_center, kendall_tau, spearman_rho
from mallowspo.maths.centre import KEMENY_LIMIT


@st.composite
def samples(draw: st.DrawFn) -> np.ndarray:
    items = draw(st.integers(1, 6))
    ranking = st.permutations(list(range(1, items + 1)))
    return np.array(draw(st.lists(ranking, min_size=1, max_size=7)))


def every_ranking(items: int) -> np.ndarray:
    return np.array(list(itertools.permutations(range(1, items + 1))))


@given(samples())
def test_kemeny_has_the_least_sum_of_kendall_distances(rankings):
    everything = kendall_tau(every_ranking(rankings.shape[1])[:, None], rankings).sum(axis=1)
    assert kendall_tau(rankings, kemeny_center(rankings)).sum() == everything.min()


@given(samples())
def test_borda_has_the_least_sum_of_spearman_distances(rankings):
    everything = spearman_rho(every_ranking(rankings.shape[1])[:, None], rankings).sum(axis=1)
    assert spearman_rho(rankings, borda_center(rankings)).sum() == everything.min()


@given(samples(), st.randoms(use_true_random=False))
def test_the_order_of_the_voters_does_not_matter(rankings, random):
    shuffled = rankings.copy().tolist()
    random.shuffle(shuffled)
    assert np.array_equal(kemeny_center(shuffled), kemeny_center(rankings))
    assert np.array_equal(borda_center(shuffled), borda_center(rankings))


def test_a_condorcet_cycle_still_has_an_answer():
    cycle = [[1, 2, 3], [3, 1, 2], [2, 3, 1]]
    assert kendall_tau(cycle, kemeny_center(cycle)).sum() == 4
    assert borda_center(cycle).tolist() == [1, 2, 3]  # all tied: the index decides


def test_borda_and_kemeny_can_differ():
    # Three of five put item 0 above item 1, yet two put it far beneath.
    rankings = [[1, 2, 3, 4]] * 3 + [[4, 1, 2, 3]] * 2
    assert kemeny_center(rankings).tolist() == [1, 2, 3, 4]
    assert borda_center(rankings).tolist() == [2, 1, 3, 4]
    assert consensus(rankings, "kendall").tolist() == [1, 2, 3, 4]
    assert consensus(rankings, "spearman").tolist() == [2, 1, 3, 4]


def test_many_items_fall_back_to_borda(rng):
    items = KEMENY_LIMIT + 5
    center = rng.permutation(items) + 1
    rankings = MallowsModel(center, 0.5).sample(200, rng)
    assert np.array_equal(consensus(rankings, "kendall"), borda_center(rankings))
    assert np.array_equal(borda_center(rankings), center)
    with pytest.raises(InputError, match="use borda_center"):
        kemeny_center(rankings)


@pytest.mark.parametrize("rankings", [[1, 2, 3], np.empty((0, 3))])
def test_one_flat_ranking_or_none_is_refused(rankings):
    with pytest.raises(InputError, match="at least one ranking"):
        kemeny_center(rankings)
