"""The Mallows model against the sum over all rankings, mpmath and prefsampling."""

from __future__ import annotations

import importlib
import itertools
import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from mallowspo.errors import InputError
from mallowspo.maths import MAX_NEG_LOG_PHI, MallowsModel, kendall_tau, spearman_rho
from mallowspo.maths.kendall import expected_distance, log_normalizer, pairwise_tail
from mallowspo.maths.spearman import SPEARMAN_LIMIT

DISTANCE = {"kendall": kendall_tau, "spearman": spearman_rho}


def every_ranking(items: int) -> np.ndarray:
    return np.array(list(itertools.permutations(range(1, items + 1))))


models = st.builds(
    MallowsModel,
    st.integers(1, 6).flatmap(lambda n: st.permutations(list(range(1, n + 1)))),
    st.one_of(st.floats(1e-9, 1.0), st.floats(-9, -1e-12).map(lambda x: 1 - 10**x), st.just(1.0)),
    st.sampled_from(["kendall", "spearman"]),
)


@settings(max_examples=200)
@given(models)
def test_everything_agrees_with_the_sum_over_all_rankings(model):
    rankings = every_ranking(model.items)
    distance = DISTANCE[model.distance](rankings, model.center)
    weight = model.phi**distance
    probability = weight / weight.sum()
    assert model.log_normalizer() == pytest.approx(math.log(weight.sum()), rel=1e-9, abs=1e-13)
    assert np.allclose(np.exp(model.log_prob(rankings)), probability, rtol=1e-9, atol=1e-15)
    assert model.expected_distance() == pytest.approx(probability @ distance, rel=1e-9, abs=1e-300)
    entropy = -sum(p * math.log(p) for p in probability if p > 0)
    assert model.entropy() == pytest.approx(entropy, rel=1e-7, abs=1e-12)
    above = ((rankings[:, :, None] < rankings[:, None, :]) * probability[:, None, None]).sum(axis=0)
    assert np.allclose(model.pairwise_matrix() - np.eye(model.items) / 2, above, rtol=0, atol=1e-11)


@given(models)
def test_pairwise_probabilities_and_bounds(model):
    matrix = model.pairwise_matrix()
    assert np.allclose(matrix + matrix.T, 1, atol=1e-12)
    better = model.center[:, None] < model.center[None, :]
    assert (matrix[better] >= 0.5 - 1e-9).all()
    assert -1e-12 <= model.entropy() <= math.log(math.factorial(model.items)) + 1e-9


@pytest.mark.parametrize(
    ("distance", "phi", "expected"),
    [
        ("kendall", 0.1, 0.288081),
        ("kendall", 0.5, 0.829637),
        ("kendall", 0.9, 0.995195),
        ("spearman", 0.1, 0.045811),
        ("spearman", 0.5, 0.401252),
        ("spearman", 0.9, 0.907284),
    ],
)
def test_published_entropy_ratios_of_five_items(distance, phi, expected):
    ratio = MallowsModel(range(1, 6), phi, distance).entropy() / math.log(120)
    assert ratio == pytest.approx(expected, abs=5e-7)


def test_spearman_pairwise_is_not_a_logistic_curve_but_is_one_between_neighbours():
    model = MallowsModel([1, 2, 3], 0.5, "spearman")
    assert model.pairwise_matrix()[0, 1] == pytest.approx(0.8244, abs=5e-5)
    model = MallowsModel(range(1, 6), 0.7, "spearman")
    rankings = every_ranking(5)
    probability = np.exp(model.log_prob(rankings))
    for a, b in itertools.combinations(range(5), 2):
        gap = rankings[:, b] - rankings[:, a]
        first, second = probability[gap == 1].sum(), probability[gap == -1].sum()
        assert first / (first + second) == pytest.approx(1 / (1 + 0.7 ** (2 * (b - a))), rel=1e-12)


def test_prefsampling_gives_the_same_probabilities():
    peer = importlib.import_module("prefsampling.ordinal.mallows")
    theory = peer.theoretical_distribution(4, 0.3)
    model = MallowsModel([1, 2, 3, 4], 0.3)
    assert len(theory) == 24
    for order, probability in theory.items():
        ranks = np.argsort(order) + 1  # they list items from best to worst
        assert math.exp(model.log_prob(ranks)) == pytest.approx(probability, rel=1e-12)


@pytest.mark.parametrize("items", [2, 7, 300])
@pytest.mark.parametrize("lam", ["1e-12", "1e-6", "1e-3", "0.02", "0.499", "0.501", "3", "20", "35", "300"])
def test_kendall_closed_forms_against_mpmath(items, lam):
    with mpmath.workdps(80):
        exact = mpmath.mpf(float(lam))
        q = mpmath.exp(-exact)
        terms = range(1, items + 1)
        log_z = mpmath.fsum(mpmath.log((1 - q**i) / (1 - q)) for i in terms)
        mean = items * q / (1 - q) - mpmath.fsum(i * q**i / (1 - q**i) for i in terms)
        tail = {k: k * q**k / (1 - q**k) - (k + 1) * q ** (k + 1) / (1 - q ** (k + 1)) for k in (1, items - 1)}
    assert log_normalizer(items, float(lam)) == pytest.approx(float(log_z), rel=1e-11)
    assert expected_distance(items, float(lam)) == pytest.approx(float(mean), rel=1e-11)
    for k, value in tail.items():
        assert pairwise_tail(k, float(lam)) == pytest.approx(float(value), rel=1e-10, abs=1e-300)


def test_fifty_thousand_items_are_no_trouble():
    model = MallowsModel(np.arange(1, 50_001), 0.99)
    assert math.isfinite(model.log_normalizer())
    assert 0 < model.expected_distance() < 50_000 * 49_999 / 4


@pytest.mark.parametrize("distance", ["kendall", "spearman"])
def test_uniform(distance):
    model = MallowsModel([2, 1, 4, 3], 1.0, distance)
    assert model.log_normalizer() == pytest.approx(math.log(24), rel=1e-14)
    assert model.neg_log_phi == 0 and math.copysign(1, model.neg_log_phi) == 1
    assert model.entropy() == pytest.approx(math.log(24), rel=1e-14)
    assert np.allclose(model.pairwise_matrix(), 0.5)


@pytest.mark.parametrize("distance", ["kendall", "spearman"])
@pytest.mark.parametrize("known_center", [True, False])
def test_fit_maximises_the_likelihood(distance, known_center, rng):
    rankings = MallowsModel([3, 1, 5, 2, 4], 0.6, distance).sample(40, rng)
    model = MallowsModel.fit(rankings, distance, center=[3, 1, 5, 2, 4] if known_center else None)

    def cost(phi: float) -> float:
        return -MallowsModel(model.center, phi, distance).log_prob(rankings).sum()

    best = minimize_scalar(cost, bounds=(1e-6, 1), method="bounded", options={"xatol": 1e-10})
    assert model.phi == pytest.approx(best.x, abs=1e-6)
    if not known_center:
        everything = [MallowsModel(c, model.phi, distance).log_prob(rankings).sum() for c in every_ranking(5)]
        assert -cost(model.phi) == pytest.approx(max(everything), rel=1e-12)


@pytest.mark.parametrize("distance", ["kendall", "spearman"])
@pytest.mark.parametrize("phi", [0.05, 0.5, 0.95])
def test_fit_recovers_the_dispersion(distance, phi, rng):
    truth = MallowsModel(range(1, 9), phi, distance)
    rankings = truth.sample(4000, rng)
    fitted = MallowsModel.fit(rankings, distance, center=truth.center)
    # Standard error of λ: 1/sqrt(m Var d), with the sample's variance.
    error = 1 / math.sqrt(4000 * DISTANCE[distance](rankings, truth.center).var())
    assert abs(fitted.neg_log_phi - truth.neg_log_phi) < 4 * error


def test_fit_at_the_boundaries():
    same = MallowsModel.fit([[2, 1, 3]] * 3)
    assert same.center.tolist() == [2, 1, 3]
    assert same.neg_log_phi == pytest.approx(MAX_NEG_LOG_PHI)
    assert MallowsModel.fit(every_ranking(4), center=[1, 2, 3, 4]).phi == 1.0
    assert MallowsModel.fit([[3, 2, 1]], center=[1, 2, 3]).phi == 1.0
    assert MallowsModel.fit([[1, 2, 3]], "spearman", center=[1, 2, 3]).neg_log_phi == pytest.approx(MAX_NEG_LOG_PHI)


def test_center_is_ranks_and_not_an_order(rng):
    # Item 0 is second, item 1 third, item 2 first: the inverse permutation differs.
    model = MallowsModel([2, 3, 1], 1e-8)
    assert (model.sample(5, rng) == [2, 3, 1]).all()
    assert model.pairwise_matrix()[2, 0] > 0.99
    assert MallowsModel.fit(model.sample(5, rng)).center.tolist() == [2, 3, 1]


@pytest.mark.parametrize("phi", [0, -0.1, 1.1, float("nan"), "much", None])
def test_phi_outside_its_range_is_refused(phi):
    with pytest.raises(InputError, match=r"phi: got .* \(0, 1\]"):
        MallowsModel([1, 2], phi)


def test_other_input_is_refused(rng):
    with pytest.raises(InputError, match="'kendall', 'spearman'"):
        MallowsModel([1, 2], 0.5, "cayley")
    with pytest.raises(InputError, match="one ranking"):
        MallowsModel([[1, 2], [2, 1]], 0.5)
    with pytest.raises(InputError, match="expected 2"):
        MallowsModel([1, 2], 0.5).log_prob([1, 2, 3])
    with pytest.raises(InputError, match="2 rankings"):
        MallowsModel.fit([[1, 2, 3]])
    with pytest.raises(InputError, match="at least 2 items"):
        MallowsModel.fit([[1], [1]])
    with pytest.raises(InputError, match="default_rng"):
        MallowsModel([1, 2], 0.5).sample(2, 0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="size"):
        MallowsModel([1, 2], 0.5).sample(-1, rng)


def test_spearman_beyond_the_limit_samples_but_does_not_sum(rng):
    model = MallowsModel(range(1, SPEARMAN_LIMIT + 2), 0.5, "spearman")
    assert model.sample(3, rng).shape == (3, SPEARMAN_LIMIT + 1)
    for exact in (model.log_normalizer, model.expected_distance, model.entropy, model.pairwise_matrix):
        with pytest.raises(InputError, match="at most 20 items"):
            exact()


def test_the_model_cannot_be_changed_through_its_center():
    ranks = np.array([1, 2, 3])
    model = MallowsModel(ranks, 0.5)
    ranks[:] = [3, 2, 1]
    assert model.center.tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        model.center[0] = 3
