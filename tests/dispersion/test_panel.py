"""The panel: exact where every index is right, unmoved by one that is misled."""

from itertools import combinations

import numpy as np
import pytest

from mallowspo.dispersion.panel import (
    choice_entropy,
    expected_margin,
    neg_log_phi_from_margin,
    panel_neg_log_phi,
    vote_log_likelihood,
)
from mallowspo.errors import InputError
from mallowspo.maths import MallowsModel

TRUE = np.array([0.03, 0.4, 1.0, 3.5])


@pytest.mark.parametrize("alternatives", [2, 3, 5, 9])
def test_the_margin_is_that_of_all_pairs(alternatives):
    for value, found in zip(TRUE, expected_margin(TRUE, alternatives=alternatives), strict=True):
        p = np.exp(-value * np.arange(alternatives))
        pairs = list(combinations(range(alternatives), 2))
        weight = np.array([p[i] * p[j] for i, j in pairs])
        assert found == pytest.approx(weight @ np.array([value * (j - i) for i, j in pairs]) / weight.sum(), rel=1e-12)


def test_the_margin_is_inverted():
    margin = expected_margin(TRUE, alternatives=5)
    assert neg_log_phi_from_margin(margin, alternatives=5) == pytest.approx(TRUE, rel=2e-3)
    assert neg_log_phi_from_margin([0.0, 1e9], alternatives=5).tolist() == [0.0, 20.0]


def test_one_index_that_is_misled_does_not_count():
    right, margin = choice_entropy(TRUE, alternatives=5), expected_margin(TRUE, alternatives=5)
    for misled in (right + np.log(4), np.zeros(4), np.full(4, 9.0)):
        found = panel_neg_log_phi({"a": right, "b": misled}, margin, alternatives=5)
        assert found == pytest.approx(TRUE, rel=2e-3)


def test_too_large_a_number_keeps_the_order_and_shrinks_nothing_below_zero():
    entropies = {"a": choice_entropy(TRUE, alternatives=5)}
    found = panel_neg_log_phi(entropies, alternatives=20)
    assert (np.diff(found) > 0).all() and (found > 0).all()


def test_votes_are_weighed_over_every_gap_and_both_directions():
    # By enumeration of all pairs of three answers, p the chance of one vote from all rankings of three.
    phi, votes, members = 0.4, 4, 5
    center = np.arange(1, 4)
    preference = MallowsModel(center, phi).pairwise_matrix()
    p = phi ** np.arange(3)
    total, weight = 0.0, 0.0
    for i, j in combinations(range(3), 2):
        share = preference[i, j]
        both = [share**n * (1 - share) ** (members - n) for n in (votes, members - votes)]
        total += p[i] * p[j] * sum(both) / 2
        weight += p[i] * p[j]
    found = vote_log_likelihood([-np.log(phi)], [votes], [members], alternatives=3)
    assert found == pytest.approx(np.log(total / weight), rel=1e-9)


def test_an_empty_panel_is_refused():
    with pytest.raises(InputError, match="at least one index"):
        panel_neg_log_phi({}, alternatives=5)
    with pytest.raises(InputError, match="alternatives"):
        panel_neg_log_phi({"a": [1.0]}, alternatives=1)
