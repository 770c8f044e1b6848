r"""Coefficients shared by the NumPy and the torch side of the mathematics.

Every closed form of Kendall's Mallows model is built from $c(u) = u/(e^u - 1)$, whose expansion
$c(u) = 1 - u/2 + \sum_j \frac{B_{2j}}{(2j)!} u^{2j}$ ($B$: Bernoulli numbers) converges for $|u| < 2\pi$.
The forms with exponentials cancel near 0; there the expansion takes over.
"""

from __future__ import annotations

from fractions import Fraction
from math import comb, factorial

__all__ = ["BERNOULLI_OVER_FACTORIAL"]

# At |u| = 1 the terms fall by (2 pi)^2 = 39.5 each: eleven reach below float64's rounding.
_TERMS = 11


def _bernoulli_over_factorial(terms: int) -> tuple[float, ...]:
    """Return B_2j / (2j)! for j = 1 … terms, computed in exact fractions."""
    numbers = [Fraction(1)]
    for m in range(1, 2 * terms + 1):
        numbers.append(-sum((comb(m + 1, k) * numbers[k] for k in range(m)), Fraction(0)) / (m + 1))
    return tuple(float(numbers[2 * j] / factorial(2 * j)) for j in range(1, terms + 1))


BERNOULLI_OVER_FACTORIAL: tuple[float, ...] = _bernoulli_over_factorial(_TERMS)
