"""What intervals of a difference allow to say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mallowspo.stats.intervals import Interval

__all__ = ["AGAINST_BASELINE", "holm", "verdict"]

AGAINST_BASELINE = {"better": "ahead", "worse": "behind", "open": "no significant difference"}
"""A verdict as a reader's word; `more` and `less` stand for themselves."""


def verdict(*differences: Interval, more_is: str = "better") -> str:
    """Say what the intervals of a difference (method − baseline) allow to say together; all must agree.

    `more_is` is `better`; `worse`, as for a loss; or `more`, for what is not simply better, such as KL. The word is
    that or its opposite, `open` where an interval holds 0 or there is none.
    """
    up, down = {"better": ("better", "worse"), "worse": ("worse", "better"), "more": ("more", "less")}[more_is]
    if differences and all(one.low > 0 for one in differences):
        return up
    if differences and all(one.high < 0 for one in differences):
        return down
    return "open"


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (Holm, Scandinavian Journal of Statistics 1979); NaN counts for nothing."""
    order = sorted((i for i, p in enumerate(p_values) if np.isfinite(p)), key=lambda i: p_values[i])
    adjusted = [float("nan")] * len(p_values)
    worst = 0.0
    for place, index in enumerate(order):
        worst = max(worst, min(1.0, p_values[index] * (len(order) - place)))
        adjusted[index] = worst
    return adjusted
