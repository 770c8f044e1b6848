"""The maps against enumeration of rankings, SciPy's ranks and a least-squares search."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import entropy, rankdata, spearmanr

from mallowspo.dispersion import MAPS, calibrate, fit_map, raw_from_index
from mallowspo.dispersion.maps import check_map
from mallowspo.dispersion.panel import choice_entropy, neg_log_phi_from_choice_entropy
from mallowspo.errors import InputError
from mallowspo.maths import MallowsModel


@pytest.mark.parametrize("phi", [0.1, 0.5, 0.9])
def test_choice_entropy_is_that_of_the_first_choice_under_kendall(phi):
    model = MallowsModel([1, 2, 3, 4], phi)
    first = np.zeros(4)
    for ranking in permutations([1, 2, 3, 4]):
        first[ranking.index(1)] += np.exp(model.log_prob(ranking))
    assert choice_entropy(-np.log(phi), alternatives=4) == pytest.approx(entropy(first))
    assert neg_log_phi_from_choice_entropy([entropy(first)], alternatives=4) == pytest.approx(-np.log(phi), rel=1e-9)


@given(st.lists(st.floats(0, 15), min_size=1, max_size=20), st.integers(2, 40))
def test_inversion_undoes_the_entropy(neg_log_phi, alternatives):
    there = choice_entropy(neg_log_phi, alternatives=alternatives)
    back = neg_log_phi_from_choice_entropy(there, alternatives=alternatives)
    # Near 0 the entropy is flat: λ is known to the square root of rounding only.
    np.testing.assert_allclose(back, neg_log_phi, atol=3e-6, rtol=1e-6)


def test_mallows_restores_the_spread_that_neglog_compresses():
    true = np.linspace(0.1, 3, 30)
    index = choice_entropy(true, alternatives=5) / np.log(512)
    raw, floored = fit_map("mallows", index, vocab_size=512, alternatives=5).raw(index)
    assert raw == pytest.approx(2 * true, rel=1e-6) and floored == 0

    def spread(raw_n):
        weight = raw_n / raw_n.mean()
        return np.quantile(weight, 0.95) / np.quantile(weight, 0.05)

    assert spread(raw) == pytest.approx(spread(true)) and spread(raw_from_index(index)[0]) < 0.5 * spread(true)


def test_quantile_gives_ranks_a_stated_spread(rng):
    index = rng.choice(rng.random(40), 200)
    raw, _ = fit_map("quantile", index, spread=(0.2, 1.2)).raw(index)
    share = (rankdata(index) - 0.5) / 200
    assert raw == pytest.approx(2 * (1.2 - share), abs=1e-12)
    # Many rows: knots are thinned, and every row still lies within one step of its rank.
    index = rng.random(20_000)
    raw, _ = fit_map("quantile", index, spread=(0.0, 1.0)).raw(index)
    assert np.abs(raw / 2 - (1 - (rankdata(index) - 0.5) / 20_000)).max() < 1.1e-3


def test_isotonic_is_the_best_falling_fit(rng):
    index = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.5])
    people = np.array([2.0, 2.4, np.nan, 0.9, 1.5, 0.1])
    votes = np.array([3.0, 5.0, 9.0, 3.0, 4.0, 2.0])
    fitted = fit_map("isotonic", index, people_neg_log_phi_n=people, people_votes_n=votes)
    raw, _ = fitted.raw(index)
    known = np.isfinite(people)

    def loss(steps):  # a falling curve is its last value and what each earlier point adds
        value = np.cumsum(np.abs(steps))[::-1]
        each = np.array([value[0], value[1], value[2], value[3], value[3]])
        return (votes[known] * (each - people[known]) ** 2).sum()

    best = min(
        (minimize(loss, rng.random(4), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13, "maxiter": 9000})
         for _ in range(5)),
        key=lambda r: r.fun,
    )  # fmt: skip
    value = np.cumsum(np.abs(best.x))[::-1]
    assert raw[known] / 2 == pytest.approx([value[0], value[1], value[2], value[3], value[3]], abs=1e-5)
    assert raw[1] > raw[2] > raw[3]  # between its neighbours where nobody was asked


def test_isotonic_of_an_index_that_runs_the_wrong_way_is_flat():
    index = np.linspace(0.1, 0.9, 9)
    raw, _ = fit_map("isotonic", index, people_neg_log_phi_n=index).raw(index)
    assert raw == pytest.approx(np.full(9, 2 * index.mean()))
    assert calibrate(raw, source="entropy").weight(raw) == pytest.approx(np.ones(9))


@given(st.lists(st.floats(0.001, 0.999), min_size=3, max_size=40, unique=True), st.sampled_from(MAPS))
def test_every_map_falls_with_the_index_and_keeps_the_mean_weight(values, name):
    index = np.array(values)
    people = 2 * (1 - index) + 0.1
    fitted = fit_map(name, index, vocab_size=3, alternatives=4, people_neg_log_phi_n=people)
    raw, _ = fitted.raw(index)
    assert (raw >= 0).all() and (np.diff(raw[np.argsort(index)]) <= 1e-9).all()
    if raw.max() > 0:
        fit = calibrate(raw, source="entropy", clip=(0.0, 1e9))
        assert fit.weight(raw).mean() == pytest.approx(1.0)
    if name != "isotonic" and np.ptp(raw) > 1e-6:
        assert spearmanr(raw, index)[0] < 0


def test_margins_far_beyond_the_floor_of_entropies_are_told_apart():
    index = np.exp([-20.0, -400.0])
    raw, floored = fit_map("neglog", index, estimator="reference_margin").raw(index)
    assert raw == pytest.approx([20.0, 400.0]) and floored == 0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"name": "log"}, "neglog"),
        ({"name": "neglog", "estimator": "answer_entropy"}, "exceeds 1"),
        ({"name": "mallows", "estimator": "reference_margin"}, "inverts an entropy"),
        ({"name": "mallows"}, "among how many answers"),
        ({"name": "mallows", "alternatives": 1, "vocab_size": 9}, "expected 2"),
        ({"name": "quantile", "spread": (1.0, 0.5)}, "spread"),
        ({"name": "quantile", "index_n": [0.1, float("nan")]}, "row 1"),
        ({"name": "isotonic"}, "votes or rankings"),
        ({"name": "isotonic", "people_neg_log_phi_n": [1.0, np.nan]}, "on 1 prompts"),
        ({"name": "isotonic", "people_neg_log_phi_n": [1.0]}, "for 2 rows"),
    ],
)
def test_mistakes_are_named(change, match):
    arguments = {"index_n": [0.1, 0.2], **change}
    with pytest.raises(InputError, match=match):
        fit_map(arguments.pop("name"), arguments.pop("index_n"), **arguments)


def test_sound_pairs_of_map_and_estimator_pass():
    check_map("mallows", "answer_entropy")
    check_map("neglog", "reference_margin")
