"""Two sources of chance, kept apart: which rows a test set holds, and which pairs a seed trained on.

An interval over *rows* takes the trained policies as given and draws whole dialogues again; one over *seeds* takes the
test set as given. A difference is called told apart only where both leave out 0.

Suffixes: s seeds, n rows, r resamples, g dialogues.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.errors import InputError
from mallowspo.experiments.comparison import Interval, mean_interval, verdict

__all__ = ["RowBootstrap", "both_intervals", "said"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RowBootstrap:
    """Draws dialogues again, each with all of its rows.

    Attributes:
        weight_rn: How often each row stands in each resample, shape (R, N).
    """

    weight_rn: Floats

    @classmethod
    def of(cls, groups: Sequence[str], *, resamples: int = 2000, seed: int = 0) -> RowBootstrap:
        """Draw the resamples.

        Args:
            groups: The dialogue of each row, length N.
            resamples: R.
            seed: Of the draws.

        Returns:
            The bootstrap.
        """
        names, place_n = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        drawn = np.random.default_rng([seed, 5]).multinomial(
            len(names), np.full(len(names), 1 / len(names)), resamples
        )
        return cls(drawn[:, place_n].astype(np.float64))

    def interval(self, value_n: ArrayLike, where_n: ArrayLike | None = None) -> Interval:
        """The mean over rows with its 95% percentile interval.

        Args:
            value_n: Shape (N,).
            where_n: Rows that count, shape (N,), bool; None for all.

        Returns:
            The mean; without ends where fewer than two rows count.

        Example:
            >>> found = RowBootstrap.of(["a", "b", "c", "d"]).interval([1.0, 1.0, 1.0, 1.0])
            >>> found.mean, found.low, found.high
            (1.0, 1.0, 1.0)
        """
        value, where = self._checked(value_n, where_n)
        if where.sum() < 2:
            return Interval(float(value[where].mean()) if where.any() else float("nan"), float("nan"), float("nan"))
        return self._ends(float(value[where].mean()), self._means(value, where))

    def contrast(self, value_n: ArrayLike, first_n: ArrayLike, second_n: ArrayLike) -> Interval:
        """The mean over some rows minus the mean over others, with its interval; arguments as in `interval`.

        Example:
            >>> boot = RowBootstrap.of(["a", "b", "c", "d"])
            >>> boot.contrast([1.0, 1.0, 0.0, 0.0], [True, True, False, False], [False, False, True, True]).mean
            1.0
        """
        value, first = self._checked(value_n, first_n)
        _, second = self._checked(value_n, second_n)
        if min(first.sum(), second.sum()) < 2:
            return Interval(float("nan"), float("nan"), float("nan"))
        mean = float(value[first].mean() - value[second].mean())
        return self._ends(mean, self._means(value, first) - self._means(value, second))

    def _checked(self, value_n: ArrayLike, where_n: ArrayLike | None) -> tuple[Floats, NDArray[np.bool_]]:
        value = np.asarray(value_n, dtype=np.float64)
        where = np.ones(value.shape, bool) if where_n is None else np.asarray(where_n, dtype=bool)
        if value.shape != self.weight_rn.shape[1:] or where.shape != value.shape:
            raise InputError(f"RowBootstrap: got shapes {value.shape} and {where.shape}, expected one value per row")
        return value, where

    def _means(self, value: Floats, where: NDArray[np.bool_]) -> Floats:
        weight = self.weight_rn[:, where]
        total = weight.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((weight @ value[where]) / total)

    @staticmethod
    def _ends(mean: float, mean_r: Floats) -> Interval:
        finite = mean_r[np.isfinite(mean_r)]
        low, high = np.quantile(finite, [0.025, 0.975])
        # A percentile interval of few rows may miss the estimate; the one that is shown holds it.
        return Interval(mean, float(min(low, mean)), float(max(high, mean)))


def both_intervals(
    value_sn: ArrayLike, boot: RowBootstrap, where_n: ArrayLike | None = None
) -> dict[str, dict[str, float]]:
    """A quantity of S policies on N rows, with an interval over rows and one over seeds.

    Args:
        value_sn: Shape (S, N).
        boot: Of these rows.
        where_n: Rows that count, shape (N,); None for all.

    Returns:
        `rows` and `seeds`, each a mapping with `mean`, `low`, `high`.

    Example:
        >>> found = both_intervals([[1.0, 0.0], [1.0, 1.0]], RowBootstrap.of(["a", "b"]))
        >>> found["rows"]["mean"], found["seeds"]["mean"]
        (0.75, 0.75)
    """
    value = np.asarray(value_sn, dtype=np.float64)
    where = slice(None) if where_n is None else np.asarray(where_n, dtype=bool)
    return {
        "rows": asdict(boot.interval(value.mean(axis=0), where_n)),
        "seeds": asdict(mean_interval(value[:, where].mean(axis=1))),
    }


def said(found: dict[str, Any], *, less_is_better: bool = False) -> str:
    """What the two intervals of a difference allow to say together.

    Args:
        found: Of `both_intervals`.
        less_is_better: As for a loss.

    Returns:
        `better`, `worse`, or `open` where either interval holds 0 or there is none.

    Example:
        >>> rows, seeds = {"mean": 1.0, "low": 0.5, "high": 1.5}, {"mean": 1.0, "low": -0.5, "high": 2.5}
        >>> said({"rows": rows, "seeds": rows}), said({"rows": rows, "seeds": seeds})
        ('better', 'open')
    """
    sign = -1.0 if less_is_better else 1.0
    words = set()
    for interval in (found["rows"], found["seeds"]):
        low, high = sorted(sign * interval[end] for end in ("low", "high"))
        words.add(verdict(Interval(sign * interval["mean"], low, high)))
    return words.pop() if len(words) == 1 else "open"
