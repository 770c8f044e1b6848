"""Distances against SciPy and choix, and the properties that make them distances."""

from __future__ import annotations

import subprocess
import sys

import choix
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from mallowspo.errors import InputError
from mallowspo.maths import as_rankings, footrule, kendall_tau, spearman_rho


def permutations(items: int) -> st.SearchStrategy[list[int]]:
    return st.permutations(list(range(1, items + 1)))


@st.composite
def three_rankings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    items = draw(st.integers(2, 9))
    return tuple(np.array(draw(permutations(items))) for _ in range(3))  # type: ignore[return-value]


@given(three_rankings())
def test_scipy_and_choix_agree(rankings):
    a, b, _ = rankings
    n = len(a)
    assert kendalltau(a, b).statistic == pytest.approx(1 - 4 * kendall_tau(a, b) / (n * (n - 1)), abs=1e-12)
    assert spearmanr(a, b).statistic == pytest.approx(1 - 6 * spearman_rho(a, b) / (n * (n**2 - 1)), abs=1e-12)
    # choix orders items by parameter: ranks are such parameters.
    assert choix.kendalltau_dist(a, b) == kendall_tau(a, b)
    assert choix.footrule_dist(a, b) == footrule(a, b)


@given(three_rankings())
def test_they_are_right_invariant_metrics(rankings):
    a, b, c = rankings
    for distance in (kendall_tau, footrule):
        assert distance(a, c) <= distance(a, b) + distance(b, c)
    # Spearman's rho is a squared Euclidean distance: its root obeys the triangle inequality.
    roots = [np.sqrt(spearman_rho(x, y)) for x, y in ((a, c), (a, b), (b, c))]
    assert roots[0] <= roots[1] + roots[2] + 1e-12
    relabel = c - 1
    for distance in (kendall_tau, spearman_rho, footrule):
        assert distance(a, b) == distance(b, a) == distance(a[relabel], b[relabel])
        assert (distance(a, b) == 0) == np.array_equal(a, b)


@given(three_rankings())
def test_inequality_of_diaconis_and_graham(rankings):
    a, b, _ = rankings
    assert kendall_tau(a, b) <= footrule(a, b) <= 2 * kendall_tau(a, b)


def test_leading_dimensions_broadcast(rng):
    a = rng.permuted(np.tile(np.arange(1, 6), (3, 1, 1)), axis=-1)
    b = rng.permuted(np.tile(np.arange(1, 6), (4, 1)), axis=-1)
    for distance in (kendall_tau, spearman_rho, footrule):
        together = distance(a, b)
        assert together.shape == (3, 4)
        assert together[2, 1] == distance(a[2, 0], b[1])


def test_the_reversal_is_the_furthest():
    up, down = np.arange(1, 8), np.arange(7, 0, -1)
    assert (kendall_tau(up, down), spearman_rho(up, down), footrule(up, down)) == (21, 112, 24)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, 2, 2], r"got \[1, 2, 2\].*without ties"),
        ([0, 1, 2], "add 1"),
        ([[1, 2], [2, 3]], r"got \[2, 3\] at 1"),
        ([1.5, 2.0, 3.0], "expected each of the ranks"),
        ([1.0, float("nan")], "expected each of the ranks"),
        (["a", "b"], "expected numbers"),
        ([], "expected numbers"),
        (3, "expected numbers"),
        ([[1, 2], [1, 2, 3]], "different lengths"),
    ],
)
def test_what_is_no_ranking_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        as_rankings(values)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="b: got rankings of 3 items, expected 2"):
        kendall_tau([1, 2], [1, 2, 3])
    with pytest.raises(InputError, match="do not fit together"):
        footrule([[1, 2], [1, 2]], [[1, 2], [1, 2], [1, 2]])


def test_the_package_stays_light():
    heavy = ("torch", "transformers", "scipy.optimize")
    code = f"import sys, mallowspo.maths; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
