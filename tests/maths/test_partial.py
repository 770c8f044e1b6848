"""Rankings that leave something open, against the sum over every full ranking that agrees with them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mallowspo.errors import InputError
from mallowspo.maths import (
    MallowsModel,
    bucket_sizes,
    center_of_preferences,
    discordant_pairs,
    extension_counts,
    kemeny_center,
    kendall_tau,
    log_prob_with_ties,
    preference_counts,
)

NAN = float("nan")


def by_enumeration(ranks, center, phi):
    """Sum of the probabilities of all full rankings that keep every stated order."""
    n = len(ranks)
    every = np.array(list(itertools.permutations(range(1, n + 1))))
    agrees = np.ones(len(every), bool)
    for a, b in itertools.permutations(range(n), 2):
        if ranks[a] < ranks[b]:
            agrees &= every[:, a] < every[:, b]
    return float(np.exp(MallowsModel(center, phi).log_prob(every[agrees])).sum())


@pytest.mark.parametrize("phi", [0.05, 0.3, 0.8, 1.0])
@pytest.mark.parametrize(
    "ranks", [[1, 2, 3, 4, 5], [1, 6, 6, 6, 6], [6, 1, 2, 6, 6], [3, 1, 6, 2, 6], [1, 1, 3, 3, 5], [7, 7, 7, 7, 7]]
)
def test_shared_ranks_have_the_probability_of_all_orders(ranks, phi):
    center = [2, 1, 5, 3, 4]
    assert np.exp(log_prob_with_ties([ranks], center, -np.log(phi)))[0] == pytest.approx(
        by_enumeration(ranks, center, phi), rel=1e-12
    )


@pytest.mark.parametrize("k", [1, 2, 3])
def test_a_top_k_is_repeated_selection_stopped_after_k(k):
    phi, n = 0.4, 5
    for top in itertools.permutations(range(n), k):
        ranks = np.full(n, n)
        ranks[list(top)] = np.arange(1, k + 1)
        expected, remaining = 1.0, list(range(n))
        for item in top:  # The centre is 1 ... n: the better ones that remain are those with lower numbers.
            expected *= phi ** remaining.index(item) * (1 - phi) / (1 - phi ** len(remaining))
            remaining.remove(item)
        assert np.exp(log_prob_with_ties([ranks], range(1, n + 1), -np.log(phi)))[0] == pytest.approx(expected)


@given(
    st.lists(st.one_of(st.integers(1, 5), st.just(NAN)), min_size=2, max_size=5),
    st.floats(0.05, 1.0),
    st.randoms(use_true_random=False),
)
def test_partial_rankings_are_counted_by_distance(ranks, phi, random):
    center = list(range(1, len(ranks) + 1))
    random.shuffle(center)
    counts = extension_counts([ranks], center)[0]
    found = counts @ phi ** np.arange(len(counts)) / np.exp(MallowsModel(center, phi).log_normalizer())
    assert found == pytest.approx(by_enumeration(ranks, center, phi), rel=1e-9)


def test_pairs_and_buckets_by_hand():
    assert preference_counts([[1, 2, 2], [2, 1, NAN]], [3, 1]).tolist() == [[0, 3, 3], [1, 0, 0], [0, 0, 0]]
    assert discordant_pairs([[2, 1, 1], [3, NAN, 1], [3, 2, 1]], [1, 2, 3]).tolist() == [2, 1, 3]
    assert bucket_sizes([[4, 4, 1, 9]]).tolist() == [[1, 2, 1, 0]]
    with pytest.raises(InputError, match="extension_counts"):
        log_prob_with_ties([[1, NAN]], [1, 2], 0.5)


def test_counted_preferences_have_the_centre_of_the_rankings_written_out(rng):
    ranks = MallowsModel(range(1, 8), 0.9).sample(40, rng)
    counts = rng.integers(1, 4, len(ranks))
    assert np.array_equal(
        center_of_preferences(preference_counts(ranks, counts)), kemeny_center(np.repeat(ranks, counts, axis=0))
    )


def test_moving_single_items_comes_close_to_the_best_centre(rng):
    # Fifteen items that people hardly agree on: the exact search is there to compare with.
    for _ in range(5):
        ranks = MallowsModel(range(1, 16), 0.95).sample(15, rng)
        wins = preference_counts(ranks)
        best, near = (kendall_tau(ranks, center_of_preferences(wins, exact_to=limit)).sum() for limit in (20, 0))
        assert best <= near <= 1.01 * best
    many = MallowsModel(rng.permutation(200) + 1, 0.8).sample(50, rng)
    center = center_of_preferences(preference_counts(many))
    assert kendall_tau(many, center).sum() <= kendall_tau(many, np.argsort(np.argsort(many.sum(axis=0))) + 1).sum()
