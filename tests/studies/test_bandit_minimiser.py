"""Exact minimisers: against closed forms, a peer library, and the loss itself."""

import choix
import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.sparse.csgraph import connected_components

from mallowspo.objectives import pairwise_loss
from mallowspo.studies.bandit.minimiser import TOLERANCE, components, minimise, policy_log_probs
from mallowspo.studies.bandit.population import Population, count_pairs, draw_pairs

UNBOUNDED = ("dpo", "mallows_theta", "mallows_phi")


def rng():
    return np.random.default_rng(0)


def counts_of(phi, pairs, seeds, arms=5):
    population = Population(np.array([phi]), arms)
    return count_pairs(draw_pairs(population, pairs, range(seeds)), arms)[:, 0]


def solve(objective, counts, phi=0.5):
    return minimise(objective, counts, np.full(len(counts), -2 * np.log(phi)), rng=rng())


def entropy_of(log_prob):
    probability = np.exp(log_prob)
    return -(probability * np.where(probability > 0, log_prob, 0)).sum(axis=-1)


@pytest.mark.parametrize("both_ways", [False, True])
def test_groups_are_those_of_scipy(both_ways):
    counts = rng().poisson(0.4, size=(200, 6, 6)) * (1 - np.eye(6))
    same, unbeaten = components(counts, both_ways=both_ways)
    for one, found, free in zip(counts, same, unbeaten, strict=True):
        _, label = connected_components(one > 0, directed=not both_ways, connection="strong")
        assert np.array_equal(found, label[:, None] == label[None])
        beaten = [(one[label != mine][:, label == mine]).sum() > 0 for mine in label]
        assert np.array_equal(free, ~np.array(beaten) if not both_ways else np.ones(6, bool))


@pytest.mark.parametrize("phi", [0.3, 0.8])
def test_with_the_true_phi_the_kendall_optimum_is_the_rank_whatever_phi_is(phi):
    counts = Population(np.array([phi]), 5).preference_pkk * (1 - np.eye(5))
    found = solve("mallows_phi", counts, phi)
    assert np.allclose(found.scores_bk, [[2, 1, 0, -1, -2]], atol=1e-10)
    # mathematics: the policy is exp(-rank), with an entropy of 1.00; DPO's is 0.96 at φ = .3 and 1.58 at .8
    assert entropy_of(policy_log_probs(found, 1.0))[0] == pytest.approx(1.00, abs=5e-3)
    dpo = policy_log_probs(solve("dpo", counts), 1.0)
    assert entropy_of(dpo)[0] == pytest.approx({0.3: 0.96, 0.8: 1.58}[phi], abs=5e-3)


@pytest.mark.parametrize(
    ("objective", "power", "beta"), [("dpo", 0, 0.7), ("mallows_theta", 1, 0.7), ("mallows_theta", 0.5, 0.7)]
)
def test_where_people_prefer_by_rank_gap_the_policies_are_those_of_the_theory(objective, power, beta):
    """P(i ≻ j) = σ(2λ (r_j − r_i)): DPO gives exp(−2λ r/β), the true weight exp(−r/β), w^ρ lies between."""
    rank, neg_log_phi = np.arange(1, 6.0), np.array([0.05, 0.4, 2.0])
    preference = 1 / (1 + np.exp(-2 * neg_log_phi[:, None, None] * (rank[None, :] - rank[:, None])))
    found = minimise(objective, preference * (1 - np.eye(5)), (2 * neg_log_phi) ** power, rng=rng())
    theory = -((2 * neg_log_phi[:, None]) ** (1 - power)) * rank / beta
    theory -= np.logaddexp.reduce(theory, axis=1, keepdims=True)
    assert np.allclose(policy_log_probs(found, beta), theory, atol=1e-8)


def test_ipo_is_the_optimum_of_agreement_for_any_people():
    generator, beta = rng(), 0.3
    upper = np.triu(generator.random((4, 5, 5)), 1)
    preference = upper + np.tril(1 - upper.transpose(0, 2, 1), -1) + 0.5 * np.eye(5)
    found = minimise("ipo", preference * (1 - np.eye(5)), np.ones(4), rng=generator)
    theory = preference.mean(axis=2) / beta  # A: a random person prefers the answer to the uniform reference's
    theory -= np.logaddexp.reduce(theory, axis=1, keepdims=True)
    assert np.allclose(policy_log_probs(found, beta), theory, atol=1e-8)


@pytest.mark.parametrize(("phi", "dpo"), [(0.3, 0.96), (0.8, 1.58)])
def test_so_it_is_with_1024_pairs(phi, dpo):
    counts = counts_of(phi, 1024, 100)
    kendall = entropy_of(policy_log_probs(solve("mallows_phi", counts, phi), 1.0))
    assert kendall.mean() == pytest.approx(1.00, abs=0.05)
    assert entropy_of(policy_log_probs(solve("dpo", counts), 1.0)).mean() == pytest.approx(dpo, abs=0.02)


def test_with_16_pairs_unbounded_links_collapse_and_ipo_never_does():
    counts = counts_of(0.1, 16, 200)
    top = {name: np.exp(policy_log_probs(solve(name, counts, 0.1), 1.0)).max(axis=1) for name in (*UNBOUNDED, "ipo")}
    for name in UNBOUNDED:
        assert (top[name] > 0.99).mean() > 0.5, name
    assert top["ipo"].max() < 0.9


def test_which_arms_keep_mass_is_decided_by_the_pairs_alone():
    counts = counts_of(0.5, 16, 100)
    kept = [solve(name, counts, phi).kept_bk for name in UNBOUNDED for phi in (0.2, 0.9)]
    assert all(np.array_equal(kept[0], one) for one in kept)
    assert 0.2 < kept[0].all(axis=1).mean() < 0.8  # both kinds of data are in the test


def test_two_arms_in_closed_form():
    counts = np.array([[[0.0, 3.0], [1.0, 0.0]]])
    gaps = {name: np.diff(solve(name, counts).scores_bk[0, ::-1])[0] for name in ("dpo", "mallows_theta", "ipo")}
    assert gaps["dpo"] == pytest.approx(np.log(3), abs=1e-12)
    assert gaps["mallows_theta"] == pytest.approx(np.log(3) / (2 * np.log(2)), abs=1e-12)
    assert gaps["ipo"] == pytest.approx((3 - 1) / 4 / 2, abs=1e-12)  # net share of wins / (2 tau)
    # the Kendall probability at a gap of 1 is 1/(1 + phi): 3 of 4 wins with phi = 1/3 put the arms one rank apart
    kendall = solve("mallows_phi", counts, 1 / 3).scores_bk[0]
    assert kendall[0] - kendall[1] == pytest.approx(1.0, abs=1e-10)


def test_dpo_is_the_bradley_terry_fit_of_choix():
    counts = counts_of(0.5, 64, 20)
    found = solve("dpo", counts)
    for one, scores in zip(counts[found.finite_b], found.scores_bk[found.finite_b], strict=True):
        data = [(i, j) for i in range(5) for j in range(5) for _ in range(int(one[i, j]))]
        peer = choix.opt_pairwise(5, data, alpha=0.0, tol=1e-8)
        assert np.allclose(scores, peer - peer.mean(), atol=1e-5)


def test_theta_in_one_state_is_dpo_at_another_beta():
    counts, weight = counts_of(0.3, 32, 50), -2 * np.log(0.3)
    theta = policy_log_probs(solve("mallows_theta", counts, 0.3), 0.7)
    dpo = policy_log_probs(solve("dpo", counts), 0.7 * weight)
    assert np.allclose(np.exp(theta), np.exp(dpo), atol=1e-9)


@pytest.mark.parametrize("objective", [*UNBOUNDED, "ipo"])
def test_no_policy_nearby_has_a_lower_loss(objective):
    phi, counts = 0.6, counts_of(0.6, 64, 30)
    found = solve(objective, counts, phi)
    assert found.slope_b.max() <= TOLERANCE * 10

    def loss(scores, one):
        winner, loser = np.nonzero(one)
        gap = torch.from_numpy(scores[winner] - scores[loser])
        zero, ones = torch.zeros_like(gap), torch.ones_like(gap)
        weighs = objective.startswith("mallows")
        each = pairwise_loss(
            gap, zero, zero, zero, objective=objective, beta=1.0, weight=-2 * np.log(phi) * ones if weighs else None,
            chosen_lengths=ones, rejected_lengths=ones,
        )  # fmt: skip
        return float((each * torch.from_numpy(one[winner, loser])).sum())

    generator = rng()
    for one, scores in zip(counts[found.finite_b], found.scores_bk[found.finite_b], strict=True):
        for size in (1e-3, 0.1, 1.0):
            assert loss(scores + generator.normal(scale=size, size=5), one) >= loss(scores, one) - 1e-12


def test_the_limit_is_where_a_vanishing_ridge_leads():
    # Arms 0 and 1 beat each other and everyone else; 2 beats 3 and 3 beats 4, never the other way round.
    counts = np.zeros((1, 5, 5))
    for pair, times in {(0, 1): 4, (1, 0): 2, (0, 2): 1, (1, 3): 1, (2, 3): 2, (3, 4): 1}.items():
        counts[0][pair] = times
    found = solve("dpo", counts)
    assert not found.finite_b[0] and not found.open_b[0]
    policy = np.exp(policy_log_probs(found, 1.0))[0]
    data = [(i, j) for i in range(5) for j in range(5) for _ in range(int(counts[0, i, j]))]
    peer = choix.opt_pairwise(5, data, alpha=1e-7, tol=1e-9)
    assert np.allclose(policy, np.exp(peer) / np.exp(peer).sum(), atol=1e-3)
    assert policy == pytest.approx([2 / 3, 1 / 3, 0, 0, 0], abs=1e-9)


def test_open_shares_are_those_of_the_limit_nearest_to_the_reference():
    # {0, 1} and {2} both beat 3, nobody compared them: the loss says nothing of their shares.
    counts = np.zeros((1, 4, 4))
    counts[0, 0, 1], counts[0, 1, 0], counts[0, 1, 3], counts[0, 2, 3] = 5, 1, 2, 1
    found = solve("dpo", counts)
    assert found.open_b[0]
    policy = np.exp(policy_log_probs(found, 1.0))[0]
    assert policy[3] == 0 and policy[0] / policy[1] == pytest.approx(5)

    def lacking(share):
        mixture = np.array([share[0] * 5 / 6, share[0] / 6, 1 - share[0]])
        return (mixture * np.log(mixture)).sum()

    best = minimize(lacking, [0.5], bounds=[(1e-6, 1 - 1e-6)], tol=1e-12).x[0]
    assert policy[2] == pytest.approx(1 - best, abs=1e-5)


def test_an_arm_that_nobody_compared_keeps_its_share():
    counts = np.zeros((1, 3, 3))
    counts[0, 0, 1] = counts[0, 1, 0] = 1
    for objective in (*UNBOUNDED, "ipo"):
        assert np.allclose(np.exp(policy_log_probs(solve(objective, counts), 1.0)), 1 / 3), objective
