"""What is measured of a policy of the bandit study, and how methods are compared over seeds.

Suffixes: s seeds, p states, k arms, and any leading axes in place of `...`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mallowspo.evaluation.exact import terciles
from mallowspo.stats.frontiers import SeedFrontier, equal_kl_differences
from mallowspo.stats.intervals import mean_interval
from mallowspo.studies.bandit.population import Population

__all__ = ["COLLAPSED", "Measures", "compare_at_equal_kl", "interval_of", "measure", "paired"]

Floats = NDArray[np.float64]
Measures = dict[str, Floats]

COLLAPSED = 0.99
"""Largest probability above which a policy counts as collapsed."""

# Differences of this size are rounding, or the interpolation between two values of β: the two are the same function.
_ROUNDING = 1e-9

# Below this KL (nats) policies differ from the reference, and from each other, by next to nothing: not compared.
_LEAST_KL = 0.02


def measure(log_prob_pk: Floats, population: Population) -> Measures:
    """Measure policies against their population, exactly; means over the states."""
    probability = np.exp(log_prob_pk)
    entropy = -(probability * np.where(probability > 0, log_prob_pk, 0.0)).sum(axis=-1)
    top = probability.max(axis=-1)
    agreement = (probability * population.value_pk).sum(axis=-1)
    regret = (probability * population.regret_pk).sum(axis=-1)
    found = {
        # From a uniform reference KL is what the entropy lacks.
        "kl": np.maximum(np.log(population.arms) - entropy.mean(axis=-1), 1e-12),
        "entropy": entropy.mean(axis=-1),
        "top": top.mean(axis=-1),
        "collapsed": (top > COLLAPSED).mean(axis=-1),
        "agreement": agreement.mean(axis=-1),
        "regret": regret.mean(axis=-1),
    }
    if len(population.phi_p) >= 3:
        third = terciles(population.phi_p)
        for name, number in (("agreed", 0), ("contested", 2)):
            found[f"entropy_{name}"] = entropy[..., third == number].mean(axis=-1)
            found[f"agreement_{name}"] = agreement[..., third == number].mean(axis=-1)
    return found


def interval_of(values_s: Floats) -> list[float]:
    """Mean, low and high end of the 95% interval over seeds, five digits each: what `results.json` holds."""
    found = mean_interval(values_s)
    return [float(f"{value:.5g}") for value in (found.mean, found.low, found.high)]


def paired(method_s: Floats, baseline_s: Floats) -> list[float]:
    """Difference between a method and a baseline seed by seed, as `interval_of`; what is rounding counts as 0."""
    difference = method_s - baseline_s
    return interval_of(np.where(np.abs(difference) < _ROUNDING, 0.0, difference))


def compare_at_equal_kl(
    method: Mapping[str, Floats], baseline: Mapping[str, Floats], quantities: tuple[str, ...]
) -> dict[str, object]:
    """Compare a method with a baseline at equal KL: each seed's two lines, over the KL that both reach."""
    result: dict[str, object] = {}
    for quantity in quantities:
        sides = [
            [[_frontier(kl, value)] for kl, value in zip(side["kl"].T, side[quantity].T, strict=True)]
            for side in (method, baseline)
        ]
        found = equal_kl_differences(*sides, points=21)
        result[quantity] = paired(found.difference_s, np.zeros_like(found.difference_s))
        shared = np.isfinite(found.difference_s)
        result["seeds"] = int(shared.sum())
        ends = [found.low_s[shared], found.high_s[shared]]
        result["kl"] = [float(f"{end.mean():.4g}") for end in ends] if shared.any() else None
    return result


def _frontier(kl_l: Floats, value_l: Floats) -> SeedFrontier:
    keep = kl_l >= _LEAST_KL
    keep[kl_l.argmax()] = True  # a line that never gets so far keeps its end, and shares no range with another
    return SeedFrontier(kl_b=kl_l[keep], agreement_b=value_l[keep], value_b=value_l[keep])
