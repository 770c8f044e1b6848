"""Which loss is the exact optimum of which problem: minimisers on whole populations against closed forms.

A population of a state is P(i ≻ j) of its K answers, either σ(2λ·rank gap) or Kendall's Mallows model. Every pair is
there with its probability, so that there is no noise; the losses are the library's, minimised by Newton's method.
"""

import numpy as np
import pytest
from scipy.special import expit

from mallowspo.dispersion.calibration import calibrate, raw_from_phi
from mallowspo.evaluation.exact import agreement_of_answers, expected_value, optimal_policies
from mallowspo.maths import MallowsModel
from mallowspo.studies.bandit.minimiser import minimise

STATES, ANSWERS = 6, 5
PHI = np.linspace(0.15, 0.85, STATES)
LAMBDA = -np.log(PHI)
RNG = np.random.default_rng(5)
RANK = np.stack([RNG.permutation(ANSWERS) + 1.0 for _ in range(STATES)])
GAP = RANK[:, None, :] - RANK[:, :, None]  # how many ranks answer i stands above answer j
CONSENSUS = 1 - (RANK - 1) / (ANSWERS - 1)
REFERENCE = RNG.dirichlet(np.full(ANSWERS, 2.0), size=STATES)  # need not be uniform
APART = ~np.eye(ANSWERS, dtype=bool)


def logistic():
    return expit(2 * LAMBDA[:, None, None] * GAP)


def kendall():
    models = [MallowsModel(rank, phi, distance="kendall") for rank, phi in zip(RANK, PHI, strict=True)]
    return np.where(APART, np.asarray([model.pairwise_matrix() for model in models]), 0.5)


def weights():
    """The trainer's own weights of the true φ: −2 log φ, scaled to a mean of 1."""
    raw = raw_from_phi(PHI)
    return calibrate(raw, source="column").weight(raw)


def minimised(objective, population, weight=None, drawn=None):
    """β log π/π_ref of the minimiser, with mean 0; `drawn` says how often each pair comes up where not equally."""
    counts = population * APART * (1.0 if drawn is None else drawn)
    found = minimise(objective, counts, np.ones(STATES) if weight is None else weight, rng=np.random.default_rng(0))
    assert found.finite_b.all() and found.slope_b.max() < 1e-10
    return centred(found.scores_bk)


def centred(scores):
    return scores - scores.mean(axis=1, keepdims=True)


def policy(scores, beta):
    """The policy of a minimiser: the reference may be anything, the loss knows the ratio alone."""
    tilted = REFERENCE * np.exp(scores / beta)
    return tilted / tilted.sum(axis=1, keepdims=True)


def optimum(value, temperature):
    _, _, logp = optimal_policies(np.log(REFERENCE), value, [temperature])
    return np.exp(logp[0])


def test_dpo_is_the_optimum_of_consensus_value_times_lambda():
    scores = minimised("dpo", logistic())
    np.testing.assert_allclose(scores, centred(-2 * LAMBDA[:, None] * RANK), atol=1e-8)
    best = optimum(LAMBDA[:, None] * CONSENSUS, 0.7 / (2 * (ANSWERS - 1)))
    np.testing.assert_allclose(policy(scores, 0.7), best, atol=1e-8)


def test_theta_with_the_true_index_is_the_optimum_of_consensus_value():
    weight = weights()
    scores = minimised("mallows_theta", logistic(), weight)
    scale = (weight / (2 * LAMBDA))[0]  # φ*, which changes β only
    np.testing.assert_allclose(weight, 2 * LAMBDA * scale)
    np.testing.assert_allclose(scores, centred(-RANK / scale), atol=1e-8)
    best = optimum(CONSENSUS, 0.7 * scale / (ANSWERS - 1))
    np.testing.assert_allclose(policy(scores, 0.7), best, atol=1e-8)


def test_phi_with_the_true_index_is_the_optimum_of_consensus_value_on_kendall_populations():
    scores = minimised("mallows_phi", kendall(), raw_from_phi(PHI))
    np.testing.assert_allclose(scores, centred(-RANK), atol=1e-8)
    np.testing.assert_allclose(policy(scores, 0.7), optimum(CONSENSUS, 0.7 / (ANSWERS - 1)), atol=1e-8)


@pytest.mark.parametrize("population", [logistic, kendall])
def test_ipo_on_pairs_of_the_reference_is_the_optimum_of_agreement(population):
    drawn = REFERENCE[:, :, None] * REFERENCE[:, None, :]
    preferred = agreement_of_answers(np.log(REFERENCE), population())
    np.testing.assert_allclose(preferred, np.einsum("sij,sj->si", population(), REFERENCE), atol=1e-12)
    scores = minimised("ipo", population(), drawn=drawn)
    np.testing.assert_allclose(scores, centred(preferred), atol=1e-8)
    np.testing.assert_allclose(policy(scores, 0.2), optimum(preferred, 0.2), atol=1e-8)
    # With the weight it is the optimum of neither: the agreement of each state divided by its weight.
    weighted = minimised("mallows_ipo", population(), weights(), drawn)
    np.testing.assert_allclose(weighted, centred(preferred / weights()[:, None]), atol=1e-8)


def test_theta_is_all_but_optimal_on_kendall_populations_and_dpo_is_not():
    """Consensus value in points below the optimum at KL .1 to .6, from a uniform reference."""
    uniform = np.full((STATES, ANSWERS), -np.log(ANSWERS))
    kl = np.linspace(0.1, 0.6, 11)

    def reached(scores):
        """Along β: mean KL and consensus value."""
        logps = [uniform + scores / beta for beta in np.geomspace(0.2, 60, 300)]
        logps = [logp - np.logaddexp.reduce(logp, axis=1, keepdims=True) for logp in logps]
        away = [(np.exp(logp) * (logp - uniform)).sum(axis=1).mean() for logp in logps]
        worth = [expected_value(logp, CONSENSUS).mean() for logp in logps]
        return np.interp(kl, away[::-1], worth[::-1])

    _, best_kl, best = optimal_policies(uniform, CONSENSUS, np.geomspace(1e-2, 1e2, 400))
    most = np.interp(kl, best_kl, [expected_value(logp, CONSENSUS).mean() for logp in best])
    theta = reached(minimised("mallows_theta", kendall(), weights()))
    dpo = reached(minimised("dpo", kendall()))
    assert np.all(100 * (most - theta) < 0.1) and np.all(100 * (most - dpo) > 1.0)
    assert np.all(most - theta > -1e-6)
