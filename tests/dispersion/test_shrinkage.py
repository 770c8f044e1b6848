"""What weights are worth against simulated training, and the shrink factor against populations that are known."""

import numpy as np
import pytest
from scipy.special import expit

from mallowspo.dispersion import (
    break_even_correlation,
    effective_pairs,
    effective_pairs_if_correlated,
    fit_shrink,
    shrunken_weights,
)
from mallowspo.dispersion.analysis import PromptOpinion, shrink_by_people, worth, worth_words
from mallowspo.errors import InputError


def fitted_directions(weight_n, lam_n, *, repetitions, rng, features=20):
    """Minimisers of the weighted logistic loss in shared parameters, over data sets drawn anew."""
    truth = np.full(features, 0.12 / np.sqrt(features))
    found = np.empty((repetitions, features))
    for repetition in range(repetitions):
        x = rng.normal(size=(len(weight_n), features))
        # The pair is turned so that its first response won: the loss is -log sigmoid(w x theta).
        won = np.where(rng.random(len(x)) < expit(2 * lam_n * (x @ truth)), 1.0, -1.0)
        x *= (won * weight_n)[:, None]
        theta = np.zeros(features)
        for _ in range(4):  # Newton: the loss is convex and the gaps are small
            lost = expit(-x @ theta)
            curvature = (x * (lost * (1 - lost))[:, None]).T @ x
            theta = theta + np.linalg.solve(curvature, x.T @ lost)
        found[repetition] = theta
    return found


def precision(found):
    """Squared mean over variance: twice the pairs double it."""
    return float((found.mean(axis=0).mean() ** 2) / found.var(axis=0).mean())


@pytest.mark.parametrize("index", ["true", "estimated", "noise"])
def test_weights_are_worth_the_pairs_that_a_simulated_training_sees(index):
    rng = np.random.default_rng(3)
    n = 1_000
    lam = rng.gamma(4.0, 0.25, n)
    blind = rng.gamma(4.0, 0.25, n)
    weight = {"true": lam, "estimated": (lam * blind) ** 0.5, "noise": blind}[index]
    weight = weight / weight.mean()
    repetitions = 1_000
    seen = precision(fitted_directions(weight, lam, repetitions=repetitions, rng=np.random.default_rng(4)))
    plain = precision(fitted_directions(np.ones(n), lam, repetitions=repetitions, rng=np.random.default_rng(4)))
    assert seen / plain == pytest.approx(effective_pairs(weight, lam), rel=0.05)


def test_the_curve_is_the_gain_at_the_correlation_that_is_true():
    rng = np.random.default_rng(0)
    lam = rng.gamma(2.0, 0.5, 5_000)
    weight = lam * rng.gamma(5.0, 0.2, 5_000)
    rho = np.corrcoef(weight, lam)[0, 1]
    c_lam = lam.std() / lam.mean()
    assert effective_pairs_if_correlated(weight.std() / weight.mean(), rho * c_lam) == pytest.approx(
        effective_pairs(weight, lam), rel=1e-9
    )
    assert effective_pairs_if_correlated(0.7, break_even_correlation(0.7)) == pytest.approx(1.0, abs=1e-12)
    assert break_even_correlation(0.0) == 0.0


def test_the_best_spread_is_the_slope_of_the_truth_on_the_weights():
    rng = np.random.default_rng(1)
    lam = 1 + 0.3 * rng.choice([-1.0, 1.0], 4_000)
    weight = 1 + 0.5 * (rng.choice([-1.0, 1.0], 4_000) * 0.6 + (lam - 1) / 0.3 * 0.4)
    s = np.cov(lam, weight)[0, 1] / weight.var()
    gains = {factor: effective_pairs(shrunken_weights(weight, factor * s), lam) for factor in (0.0, 0.7, 1.0, 1.3)}
    assert gains[0.0] == pytest.approx(1.0) and max(gains, key=gains.__getitem__) == 1.0
    assert gains[1.0] == pytest.approx(1 + (s * weight.std()) ** 2, rel=0.01)


def population(rng, *, prompts, votes, spread, correlation, c_lam=0.6):
    """Log-normal lam and weights; every pair one rank apart, either response the better one."""
    know, blind = rng.normal(size=(2, prompts))
    lam = np.exp(np.sqrt(np.log1p(c_lam**2)) * know)
    weight = np.exp(np.sqrt(np.log1p(spread**2)) * (correlation * know + np.sqrt(1 - correlation**2) * blind))
    first = rng.binomial(votes, expit(lam * rng.choice([-1, 1], prompts)))
    weight /= weight.mean()
    return weight, first, votes - first, np.cov(lam / lam.mean(), weight)[0, 1] / weight.var()


@pytest.mark.parametrize("votes", [3, 5, 10])
@pytest.mark.parametrize(("spread", "correlation"), [(0.1, 0.6), (0.6, 0.6), (0.6, 0.0)])
def test_the_shrink_factor_is_recovered_from_a_few_votes(votes, spread, correlation):
    rng = np.random.default_rng(7)
    found, truth, inside = [], [], 0
    for _ in range(12):
        weight, first, second, s = population(rng, prompts=600, votes=votes, spread=spread, correlation=correlation)
        fit = fit_shrink(weight, first, second)
        inside += fit.shrink.low <= max(s, 0.0) <= fit.shrink.high
        found.append(fit.shrink.mean * spread)
        truth.append(max(s, 0.0) * spread)
    # In units of c_w, rho c_lam: 0.36 here, 0 for the useless index.
    assert np.mean(found) == pytest.approx(np.mean(truth), abs=0.09)
    assert inside >= 9


def test_which_response_is_first_changes_nothing_and_pairs_of_a_prompt_count_as_one_cluster():
    rng = np.random.default_rng(2)
    weight, first, second, _ = population(rng, prompts=200, votes=5, spread=0.6, correlation=0.6)
    fit = fit_shrink(weight, first, second)
    assert fit_shrink(weight, second, first).shrink.mean == pytest.approx(fit.shrink.mean, abs=1e-6)
    twice = fit_shrink(*(np.tile(a, 2) for a in (weight, first, second)), prompt_n=np.tile(np.arange(200), 2))
    wide, narrow = fit.shrink.high - fit.shrink.mean, twice.shrink.high - twice.shrink.mean
    # The same votes twice are no more evidence: only the prior on sd(u) counts for less.
    assert (twice.prompts, twice.pairs) == (200, 400) and narrow == pytest.approx(wide, rel=0.15)


def test_weights_that_agree_are_left_alone_and_single_votes_say_nothing():
    ones, votes = np.ones(30), np.full(30, 2)
    assert fit_shrink(ones, votes, votes).gain == fit_shrink(ones, votes, votes).gain.exact(1.0)
    with pytest.raises(InputError, match="votes"):
        fit_shrink(np.linspace(0.5, 1.5, 30), np.ones(30), np.zeros(30))


@pytest.mark.parametrize(
    ("named", "call"),
    [
        ("votes", lambda: fit_shrink([1.0] * 30, [-1.0] * 30, [3.0] * 30)),
        ("votes", lambda: fit_shrink([1.0] * 30, [1.0] * 29, [3.0] * 30)),
        ("weight_n", lambda: effective_pairs([], [])),
        ("neg_log_phi_n", lambda: effective_pairs([1.0, 2.0], [1.0])),
        ("shrink", lambda: shrunken_weights([1.0, 2.0], -0.5)),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(named, call):
    with pytest.raises(InputError, match=named):
        call()


def judged(rng, *, correlation):
    weight, first, second, _ = population(rng, prompts=600, votes=10, spread=0.6, correlation=correlation)
    names = [f"prompt {n}" for n in range(600)]
    pairs = tuple(zip(names, first.astype(float).tolist(), second.astype(float).tolist(), strict=True))
    return weight, names, PromptOpinion(dict.fromkeys(names, 1.0), dict.fromkeys(names, 10.0), {}, "votes", pairs)


@pytest.mark.parametrize(("correlation", "said"), [(0.8, "more data"), (0.0, "leave them out")])
def test_what_weights_are_worth_is_said_in_words(correlation, said):
    weight, names, people = judged(np.random.default_rng(5), correlation=correlation)
    found = worth(weight, weight, shrink_by_people(weight, names, people))
    assert said in worth_words(found)
    gain = found["people"]["gain"]
    assert gain["low"] <= gain["mean"] <= gain["high"] and (gain["mean"] > 1) == (correlation > 0)
    # Without votes only the curve is known, and with weights that agree there is nothing to say.
    assert "break even" in worth_words(worth(weight, weight, None))
    assert "alike" in worth_words(worth(np.ones(3), np.ones(3), None))


def test_the_gain_of_shrunken_and_tempered_weights_is_that_of_the_truth_that_votes_show():
    weight, names, people = judged(np.random.default_rng(6), correlation=0.5)
    fit = shrink_by_people(weight, names, people)
    shrunken = shrunken_weights(weight, fit.shrink.mean)
    gain = worth(shrunken, weight, fit)["people"]["gain"]["mean"]
    assert gain == pytest.approx(fit.gain_shrunken) and gain > max(1.0, fit.gain.mean)


@pytest.mark.parametrize("part", ["all", "upper", "lower"])
def test_the_factor_does_not_depend_on_which_prompts_were_voted_on(part):
    rng = np.random.default_rng(1)
    truth = rng.gamma(4.0, 0.25, 6_000)
    weight = 0.5 + 0.5 * truth  # half of the true spread: s is 2
    weight /= weight.mean()
    first = rng.binomial(10, expit(2 * truth))
    names = [f"prompt {n}" for n in range(6_000)]
    voted = {"all": weight > 0, "upper": weight > np.median(weight), "lower": weight <= np.median(weight)}[part]
    pairs = tuple((names[n], float(first[n]), float(10 - first[n])) for n in np.flatnonzero(voted))
    people = PromptOpinion({name: 1.0 for name, *_ in pairs}, {}, {}, "votes", pairs)
    fit = shrink_by_people(weight, names, people)
    assert fit.shrink.mean == pytest.approx(2.0, abs=0.15)
