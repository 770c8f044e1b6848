"""Is the shrink factor that votes fit the true one, and how often does its interval hold it?

Log-normal −log φ and weights; pairs one to three ranks apart, every one with so many votes. Bias and coverage are over
the simulated data sets, in units of c_w (s c_w = ρ c_λ), beside what G would be at the true factor. Takes about six
minutes of processor time.

    python docs/dispersion/shrink.py        # writes docs/dispersion/shrink.json
"""

import json
from pathlib import Path

import numpy as np
from scipy.special import expit

from mallowspo.dispersion import effective_pairs, fit_shrink

REPETITIONS = 60
PROMPTS = 600
C_LAMBDA = 0.6
INDEXES = {"narrow": (0.1, 0.6), "wide": (0.6, 0.6), "too wide": (1.2, 0.6), "useless": (0.6, 0.0)}
"""Spread c_w of the weights, and their correlation with −log φ on the logarithmic scale."""


def simulated(rng: np.random.Generator, spread: float, correlation: float, votes: int, gaps: tuple[int, ...]):
    """Weights, votes for both responses, the true slope and the true G."""
    know, blind = rng.normal(size=(2, PROMPTS))
    lam = np.exp(np.sqrt(np.log1p(C_LAMBDA**2)) * know)
    weight = np.exp(np.sqrt(np.log1p(spread**2)) * (correlation * know + np.sqrt(1 - correlation**2) * blind))
    weight /= weight.mean()
    first = rng.binomial(votes, expit(lam * rng.choice(gaps, PROMPTS) * rng.choice([-1, 1], PROMPTS)))
    slope = float(np.cov(lam / lam.mean(), weight)[0, 1] / weight.var())
    return weight, first, votes - first, slope, effective_pairs(weight, lam)


def cell(name: str, votes: int, gaps: tuple[int, ...]) -> dict[str, object]:
    """One line of the table."""
    spread, correlation = INDEXES[name]
    rng = np.random.default_rng([votes, len(gaps)])
    rows = []
    for _ in range(REPETITIONS):
        weight, first, second, slope, gain = simulated(rng, spread, correlation, votes, gaps)
        fit = fit_shrink(weight, first, second)
        c_w, truth = weight.std(), max(slope, 0.0)
        held = fit.shrink.low <= truth <= fit.shrink.high
        rows.append((slope * c_w, fit.shrink.mean * c_w, held, gain, fit.gain.mean))
    truth, found, held, gain, told = np.array(rows, float).T
    return {
        "index": name,
        "votes": votes,
        "gaps": "one rank" if len(gaps) == 1 else "one to three ranks",
        "truth": round(float(truth.mean()), 3),
        "fitted": round(float(found.mean()), 3),
        "standard_deviation": round(float(found.std()), 3),
        "coverage": round(float(held.mean()), 3),
        "gain": round(float(gain.mean()), 3),
        "gain_fitted": round(float(told.mean()), 3),
    }


if __name__ == "__main__":
    table = [cell(name, votes, gaps) for gaps in ((1,), (1, 2, 3)) for name in INDEXES for votes in (3, 5, 10)]
    lines = ",\n ".join(json.dumps(row) for row in table)
    Path(__file__).with_suffix(".json").write_text(f"[\n {lines}\n]\n")
