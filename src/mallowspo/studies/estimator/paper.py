"""The paper's check, exactly: does the entropy of a Mallows model tell its φ?

The paper estimates −log φ by −log(H/log n!), with H the entropy of the ranking. Here H is the exact entropy of the
model, for both distances: no sampling, so that what is left is how good the approximation itself is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mallowspo.maths import MallowsModel

__all__ = ["DISTANCES", "entropy_estimate", "paper_check"]

DISTANCES = ("kendall", "spearman")

_PHI = np.linspace(0.02, 0.98, 49)


def entropy_estimate(items: int, phi: float, distance: str) -> float:
    """The paper's estimate −log(H/log n!) of −log φ, from the exact entropy H of the model."""
    entropy = MallowsModel(np.arange(1, items + 1), phi, distance=distance).entropy()
    return max(0.0, -math.log(entropy / math.lgamma(items + 1)))


def paper_check(sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Compare −log φ with its estimate over a grid of φ."""
    found = []
    truth = -np.log(_PHI[::-1])
    for distance in DISTANCES:
        for items in sizes:
            estimate = np.array([entropy_estimate(items, float(phi), distance) for phi in _PHI[::-1]])
            found.append(
                {
                    "distance": distance,
                    "items": items,
                    "neg_log_phi": [round(float(value), 5) for value in truth],
                    "estimate": [round(float(value), 5) for value in estimate],
                    "rising": bool((np.diff(estimate) > 0).all()),
                    "correlation": float(np.corrcoef(truth, estimate)[0, 1]),
                    "spread": float(np.ptp(estimate) / estimate.mean() / (np.ptp(truth) / truth.mean())),
                }
            )
    return found
