"""Sampled rankings against exact probabilities, by chi-square at a fixed seed."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
from prefsampling.ordinal import mallows as prefsampling_mallows
from scipy.stats import chisquare

from mallowspo.maths import MallowsModel, spearman_rho
from mallowspo.maths.sampling import sample_kendall, sample_spearman, sample_spearman_by_gibbs
from mallowspo.maths.spearman import moments, pairwise_above


def chi_square_p(ranks: np.ndarray, model: MallowsModel) -> float:
    """p-value of the observed frequencies of all rankings under the model."""
    rankings = list(itertools.permutations(range(1, model.items + 1)))
    index = {ranking: i for i, ranking in enumerate(rankings)}
    observed = np.bincount([index[tuple(row)] for row in ranks.tolist()], minlength=len(rankings))
    expected = np.exp(model.log_prob(rankings)) * len(ranks)
    rare = expected < 5  # pooled, or the statistic is not chi-square
    if rare.any():
        observed = np.append(observed[~rare], observed[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    return float(chisquare(observed, expected * observed.sum() / expected.sum()).pvalue)


@pytest.mark.parametrize("distance", ["kendall", "spearman"])
@pytest.mark.parametrize("phi", [0.1, 0.5, 0.9, 1.0])
def test_frequencies_follow_the_model(distance, phi, rng):
    model = MallowsModel([3, 1, 4, 2], phi, distance)
    assert chi_square_p(model.sample(20_000, rng), model) > 1e-3


@pytest.mark.parametrize("phi", [0.5, 0.9, 1.0])
def test_gibbs_sampling_follows_the_model(phi, rng):
    model = MallowsModel([1, 2, 3, 4], phi, "spearman")
    assert chi_square_p(sample_spearman_by_gibbs(20_000, 4, model.neg_log_phi, rng), model) > 1e-3


def test_the_chi_square_notices_a_wrong_dispersion(rng):
    assert chi_square_p(MallowsModel([1, 2, 3, 4], 0.55).sample(20_000, rng), MallowsModel([1, 2, 3, 4], 0.5)) < 1e-6


def test_rankings_sampled_by_prefsampling_follow_our_probabilities():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        orders = prefsampling_mallows(10_000, 4, 0.4, seed=5)
    assert chi_square_p(np.argsort(orders, axis=1) + 1, MallowsModel([1, 2, 3, 4], 0.4)) > 1e-3


@pytest.mark.parametrize("neg_log_phi", [0.0, 1e-17, 1e-9, 0.3, 20.0, 700.0])
def test_every_dispersion_gives_rankings(neg_log_phi, rng):
    for sample in (sample_kendall, sample_spearman, sample_spearman_by_gibbs):
        ranks = sample(50, 11, neg_log_phi, rng)
        assert (np.sort(ranks, axis=1) == np.arange(1, 12)).all()
        assert sample(0, 11, neg_log_phi, rng).shape == (0, 11)
        assert sample(2, 1, neg_log_phi, rng).tolist() == [[1], [1]]


def test_kendall_mean_of_many_items(rng):
    model = MallowsModel(rng.permutation(60) + 1, 0.9)
    distance = -(model.log_prob(model.sample(4000, rng)) + model.log_normalizer()) / model.neg_log_phi
    error = distance.std() / np.sqrt(len(distance))
    assert abs(distance.mean() - model.expected_distance()) < 4 * error


@pytest.mark.parametrize("neg_log_phi", [0.002, 0.05, 1.0])
def test_both_spearman_samplers_at_eighteen_items(neg_log_phi, rng):
    center = np.arange(1, 19)
    exact, above = moments(18, neg_log_phi).expected_distance, pairwise_above(18, neg_log_phi)
    for sample in (sample_spearman, sample_spearman_by_gibbs):
        ranks = sample(3000, 18, neg_log_phi, rng)
        distance = spearman_rho(ranks, center)
        assert abs(distance.mean() - exact) < 4 * distance.std() / np.sqrt(3000)
        share = (ranks[:, :, None] < ranks[:, None, :]).mean(axis=0) + np.eye(18) / 2
        assert np.abs(share - above).max() < 4.5 * 0.5 / np.sqrt(3000)


def test_gibbs_forgets_where_it_began_at_a_hundred_items(rng, monkeypatch):
    few = sample_spearman_by_gibbs(400, 100, 0.002, rng)
    monkeypatch.setattr("mallowspo.maths.sampling._UPDATES_PER_SCALE", 240)
    many = sample_spearman_by_gibbs(400, 100, 0.002, rng)
    first, second = (spearman_rho(ranks, np.arange(1, 101)) for ranks in (few, many))
    error = np.sqrt((first.var() + second.var()) / 400)
    assert abs(first.mean() - second.mean()) < 4 * error


def test_the_seed_decides(rng):
    model = MallowsModel([1, 2, 3, 4, 5], 0.6)
    first = model.sample(10, np.random.default_rng(1))
    assert np.array_equal(first, model.sample(10, np.random.default_rng(1)))
    assert not np.array_equal(first, model.sample(10, rng))
