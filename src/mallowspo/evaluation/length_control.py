"""Win rate with the effect of length taken out: the regression of AlpacaEval 2.

Source: Dubois, Galambosi, Liang, Hashimoto, "Length-Controlled AlpacaEval" (arXiv 2404.04475). For prompt i with
preference y_i in [0, 1] for the model,

    P(y_i = 1) = σ(w_1 tanh(Δ_i / std(Δ)) + w_2 d_i + w_3)
    Δ_i = length of the baseline's answer - length of the model's

with the difficulty d_i of the instruction where it is known, is fitted under an L1 penalty |w|/C; the win rate is
then predicted with the first term set to zero. On AlpacaEval's own prompts the fit also holds, with a small weight,
answers of the baseline that was told to be concise or verbose: what length alone does to this judge.
Without those rows the length term can soak up quality (a poor model whose answers are all short); the result says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from mallowspo.errors import InputError
from mallowspo.files import parse_json

__all__ = [
    "L1_STRENGTH",
    "GamedBaseline",
    "LengthControl",
    "checked_preferences",
    "length_controlled_win_rate",
    "match_alpaca_rows",
    "rate_at_equal",
    "read_alpaca_tables",
]

Floats = NDArray[np.float64]

L1_STRENGTH = 21.544346900318832
"""AlpacaEval chooses C by cross-validation for each model; this one value of its grid serves all within 0.1 points."""

WITHOUT_GAMED = (
    "Fitted without answers of one model told to be concise and verbose, which exist for AlpacaEval's prompts only: "
    "what length does is told from this comparison alone. On AlpacaEval's own verdicts "
    "it is farther from the published figure than the raw win "
    "rate for 5 of 8 models, by up to 23 points (31 on half of the prompts), above all where one model's answers are "
    "nearly always the shorter ones. The raw win rate is the result."
)


@dataclass(frozen=True)
class GamedBaseline:
    """What AlpacaEval's fit knows of a baseline told to be concise and verbose."""

    length_difference_g: Floats  # baseline's length minus the variant's, standardised as tanh(d / std d), shape (G,)
    difficulty_g: Floats  # instruction difficulty of each row, shape (G,)
    weight: float  # of one such row, against 1 of a compared prompt
    label_sums: tuple[float, float]  # Σ weight · preference · feature over these rows, for the two features
    # Of its answer to each instruction, which tells one from another.
    baseline_lengths_n: Floats = field(default_factory=lambda: np.zeros(0))


@dataclass(frozen=True)
class LengthControl:
    """A length-controlled win rate and the fit behind it."""

    win_rate: float  # in percent
    standard_error: float  # from refits on resampled prompts, in points; NaN where none were asked for
    coefficients: dict[str, float]  # feature -> coefficient, of those that were in the fit
    lengths_vary: bool  # whether there was any difference in length to control for
    note: str  # what limits the figure; empty for AlpacaEval's own set-up


@dataclass(frozen=True)
class _Problem:
    """A penalised logistic regression; with `gamed` the columns of `x_nf` are length, difficulty and the constant."""

    x_nf: Floats
    y_n: Floats
    weight_n: Floats
    gamed: GamedBaseline | None

    def derivatives(self, w_f: Floats) -> tuple[float, Floats, Floats]:
        """Value, gradient and Hessian of the part without the penalty."""
        score_n = self.x_nf @ w_f
        p_n = expit(score_n)
        value = float(self.weight_n @ (np.logaddexp(0.0, score_n) - self.y_n * score_n))
        gradient = self.x_nf.T @ (self.weight_n * (p_n - self.y_n))
        hessian = (self.x_nf.T * (self.weight_n * p_n * (1.0 - p_n))) @ self.x_nf
        if self.gamed is not None:
            x_gf = np.column_stack([self.gamed.length_difference_g, self.gamed.difficulty_g])
            score_g = x_gf @ w_f[:2]
            p_g = expit(score_g)
            sums = np.asarray(self.gamed.label_sums)
            value += float(self.gamed.weight * np.logaddexp(0.0, score_g).sum() - sums @ w_f[:2])
            gradient[:2] += self.gamed.weight * (x_gf.T @ p_g) - sums
            hessian[:2, :2] += self.gamed.weight * (x_gf.T * (p_g * (1.0 - p_g))) @ x_gf
        return value, gradient, hessian


def _newton_step(w_f: Floats, gradient: Floats, hessian: Floats, penalty: float) -> Floats:
    """Minimise the quadratic model plus the penalty, exactly."""
    # Where the signs of the minimum are known it solves a linear system; with three features there are 27 cases (243
    # with five), of which that of the last step is nearly always the right one. Descent by coordinates would be
    # shorter, but crawls where features are all but collinear, as with few prompts.
    ridge = hessian + 1e-9 * np.eye(len(w_f))
    pull = ridge @ w_f - gradient
    best, lowest = w_f, np.inf
    cases = itertools.product((-1.0, 0.0, 1.0), repeat=len(w_f))
    for signs in itertools.chain([tuple(np.sign(w_f))], cases):
        sign_f = np.asarray(signs)
        active = sign_f != 0
        new = np.zeros_like(w_f)
        if active.any():
            new[active] = np.linalg.solve(ridge[np.ix_(active, active)], (pull - penalty * sign_f)[active])
        if np.any(new * sign_f < 0):
            continue
        slope = ridge @ new - pull
        if np.all(np.abs(slope[~active]) <= penalty):
            return new  # the condition of the minimum, which is the only one
        value = 0.5 * new @ ridge @ new - pull @ new + penalty * np.abs(new).sum()
        if value < lowest:
            best, lowest = new, value
    return best


def _fit(problem: _Problem, penalty: float, start: Floats | None = None) -> Floats:
    """Minimise loss + penalty · |w|₁ by proximal Newton steps with backtracking; convex, so there is one minimum."""
    w = np.zeros(problem.x_nf.shape[1]) if start is None else start
    value, gradient, hessian = problem.derivatives(w)
    objective = value + penalty * np.abs(w).sum()
    for _ in range(100):
        step = _newton_step(w, gradient, hessian, penalty) - w
        scale = 1.0
        while scale > 1e-10:
            new = w + scale * step
            value, gradient, hessian = problem.derivatives(new)
            reached = value + penalty * np.abs(new).sum()
            if reached <= objective + 1e-12 * abs(objective):
                break
            scale /= 2
        gain, w, objective = objective - reached, new, reached
        # Steps shrink to rounding at best; what no longer lowers the objective no longer moves the win rate.
        if np.abs(step).max() < 1e-8 or gain < 1e-13 * (1.0 + abs(objective)):
            break
    return w


def checked_preferences(preference_n: ArrayLike, name: str) -> Floats:
    """The preferences on two prompts or more; `name` is of the function that was given them."""
    y = np.asarray(preference_n, dtype=np.float64)
    if y.ndim != 1 or len(y) < 2:
        raise InputError(f"{name}: got preferences of shape {y.shape}, expected one for each of at least 2 prompts")
    if not np.all((y >= 0.0) & (y <= 1.0)):
        raise InputError(f"{name}: preferences must lie in [0, 1]; 1 is the model's win, ½ a tie")
    return y


def _checked(preference: ArrayLike, lengths: ArrayLike, baseline_lengths: ArrayLike) -> tuple[Floats, Floats]:
    y = checked_preferences(preference, "length_controlled_win_rate")
    delta = np.asarray(baseline_lengths, dtype=np.float64) - np.asarray(lengths, dtype=np.float64)
    if y.shape != delta.shape:
        raise InputError(
            f"length_controlled_win_rate: got {y.shape} preferences and {delta.shape} lengths, expected one of each"
        )
    if not np.all(np.isfinite(delta)):
        raise InputError("length_controlled_win_rate: a length is not a finite number")
    return y, delta


def _standardised(delta_n: Floats) -> Floats:
    spread = float(np.std(delta_n, ddof=1))
    return np.tanh(delta_n / spread) if spread > 0 else np.zeros_like(delta_n)


def rate_at_equal(
    y_n: Floats,
    controlled: Mapping[str, Floats],
    kept: Mapping[str, Floats],
    *,
    gamed: GamedBaseline | None = None,
    resamples: int,
    seed: int,
) -> tuple[float, float, dict[str, float]]:
    """Fit preferences on some features and a constant, and predict the win rate with some of the features at zero.

    Args:
        y_n: Preferences for the model, in [0, 1].
        controlled: Name → feature of each prompt, zero in the prediction.
        kept: Name → feature, as it is in the prediction.
        gamed: AlpacaEval's further rows; then `controlled` is the length and `kept` the difficulty.
        resamples: Bootstrap refits.
        seed: Of the bootstrap.

    Returns:
        The win rate in percent, the standard error of it over refits (NaN without any), and the coefficients.
    """
    x_nf = np.column_stack([*controlled.values(), *kept.values(), np.ones(len(y_n))])
    penalty, first = 1.0 / L1_STRENGTH, len(controlled)

    def predicted(weight_n: Floats, start: Floats | None) -> tuple[float, Floats]:
        w = _fit(_Problem(x_nf, y_n, weight_n, gamed), penalty, start)
        at_equal = expit(x_nf[:, first:] @ w[first:])
        return 100.0 * float(weight_n @ at_equal) / float(weight_n.sum()), w

    win_rate, w = predicted(np.ones(len(y_n)), None)
    rng = np.random.default_rng(seed)
    # A resample is the same rows with counts for weights; features stay standardised as they were, a second-order
    # effect.
    draws = rng.multinomial(len(y_n), np.full(len(y_n), 1.0 / len(y_n)), size=resamples).astype(np.float64)
    refits = [predicted(counts, w)[0] for counts in draws]
    error = float(np.std(refits, ddof=1)) if resamples > 1 else float("nan")
    names = [*controlled, *kept, "constant"]
    return win_rate, error, {name: float(value) for name, value in zip(names, w, strict=True)}


def length_controlled_win_rate(
    preference_n: ArrayLike,
    lengths_n: ArrayLike,
    baseline_lengths_n: ArrayLike,
    *,
    difficulty_n: ArrayLike | None = None,
    gamed: GamedBaseline | None = None,
    resamples: int = 200,
    seed: int = 0,
) -> LengthControl:
    """Estimate the win rate that a model would have if its answers were as long as the baseline's.

    Args:
        preference_n: Preference for the model on each prompt, in [0, 1]; ½ is a tie. Shape (N,), N ≥ 2.
        lengths_n: Length of the model's answers, in characters as AlpacaEval counts; any unit serves. Shape (N,).
        baseline_lengths_n: Length of the baseline's answers, in the same unit. Shape (N,).
        difficulty_n: AlpacaEval's `instruction_difficulty`, for its prompts only. Shape (N,).
        gamed: The concise and verbose baseline (`read_alpaca_tables`); needs `difficulty_n`.
        resamples: Bootstrap refits for the standard error; 0 for none.
        seed: Of the bootstrap.

    Returns:
        The win rate in percent with its standard error in points, and the fit.

    Raises:
        InputError: Shapes differ, or a preference lies outside [0, 1].

    Source:
        Dubois et al. 2024 (arXiv 2404.04475), section 3.

    Example:
        >>> wins = [1, 1, 1, 1, 1, 0, 0, 0]  # 62.5%, but with longer answers
        >>> found = length_controlled_win_rate(wins, [9, 9, 8, 9, 8, 9, 5, 5], [7] * 8, resamples=0)
        >>> round(found.win_rate, 1)
        41.2
    """
    y, delta = _checked(preference_n, lengths_n, baseline_lengths_n)
    if difficulty_n is None and gamed is not None:
        raise InputError("gamed: needs difficulty_n, since both come from AlpacaEval's prompts")
    length_n = _standardised(delta)
    kept = {} if difficulty_n is None else {"difficulty": np.asarray(difficulty_n, dtype=np.float64)}
    win_rate, error, coefficients = rate_at_equal(
        y, {"length": length_n}, kept, gamed=gamed, resamples=resamples, seed=seed
    )
    return LengthControl(
        win_rate=win_rate,
        standard_error=error,
        coefficients=coefficients,
        lengths_vary=bool(np.any(length_n != 0.0)),
        note="" if gamed is not None else WITHOUT_GAMED,
    )


def match_alpaca_rows(
    tables_lengths_n: ArrayLike, difficulty_n: ArrayLike, baseline_lengths_n: ArrayLike, table: str = "alpaca_tables"
) -> Floats:
    """Find the difficulty of each prompt by the length of the published baseline's answer to it."""
    # AlpacaEval's tables name no instruction; what tells one from another in them is the length of the baseline's
    # answer. Where several instructions share a length, prompts in the order of the tables take their own; otherwise
    # they take the mean of those difficulties (71 lengths stand twice or three times among the 805).
    expected = np.asarray(tables_lengths_n, dtype=np.float64)
    difficulty = np.asarray(difficulty_n, dtype=np.float64)
    lengths = np.asarray(baseline_lengths_n, dtype=np.float64)
    if np.array_equal(expected, lengths):
        return difficulty
    advice = (
        "they are for the published answers of AlpacaEval's baseline, gpt4_1106_preview, to all of its instructions; "
        "give these as the baseline, or leave alpaca_tables out"
    )
    if len(expected) != len(lengths):
        raise InputError(f"{table}: about {len(expected)} instructions, got {len(lengths)} prompts; {advice}")
    if not np.array_equal(np.sort(expected), np.sort(lengths)):
        strange = np.flatnonzero(~np.isin(lengths, expected))
        row = int(strange[0]) if len(strange) else 0
        what = (
            f"the baseline's answer in row {row} has {int(lengths[row])} characters, as none in the tables"
            if len(strange)
            else "some lengths of the baseline's answers stand more often than in the tables"
        )
        raise InputError(f"{table}: {what}; {advice}")
    names, place = np.unique(expected, return_inverse=True)
    means = np.bincount(place, weights=difficulty) / np.bincount(place)
    found: Floats = means[np.searchsorted(names, lengths)]
    return found


def read_alpaca_tables(folder: Path) -> tuple[Floats, GamedBaseline]:
    """Read what AlpacaEval's fit needs beside the preferences.

    Args:
        folder: Holds `instructions.csv` (`index`, `instruction_difficulty`), `gamed_lengths.csv` (`index`, the
            baseline's length, then those of its concise and verbose answers) and `gamed_sums.json` (`S_tanh_len`,
            `S_difficulty`, `weight_per_gamed_row`).

    Returns:
        The difficulty of each instruction, by `index`, and the concise and verbose baseline.

    Raises:
        InputError: A file is missing or lacks a column.
    """
    import csv

    try:
        with (folder / "instructions.csv").open(encoding="utf-8", newline="") as file:
            difficulty = {int(row["index"]): float(row["instruction_difficulty"]) for row in csv.DictReader(file)}
        with (folder / "gamed_lengths.csv").open(encoding="utf-8", newline="") as file:
            rows = [[float(cell) for cell in row] for row in list(csv.reader(file))[1:]]
        sums = parse_json((folder / "gamed_sums.json").read_text(encoding="utf-8"))
        lengths = np.asarray(sorted(rows), dtype=np.float64)
        difficulties = np.asarray([difficulty[index] for index in range(len(difficulty))])
        if lengths[:, 0].tolist() != list(range(len(difficulty))):
            raise ValueError("gamed_lengths.csv and instructions.csv have different indexes")
        gamed = GamedBaseline(
            length_difference_g=np.concatenate(
                [_standardised(lengths[:, 1] - lengths[:, column]) for column in range(2, lengths.shape[1])]
            ),
            difficulty_g=np.concatenate([difficulties[lengths[:, 0].astype(int)]] * (lengths.shape[1] - 2)),
            weight=float(sums["weight_per_gamed_row"]),
            label_sums=(float(sums["S_tanh_len"]), float(sums["S_difficulty"])),
            baseline_lengths_n=lengths[:, 1],
        )
    except OSError as error:
        raise InputError(f"AlpacaEval's tables: {error.filename} cannot be read ({error.strerror})") from error
    except (KeyError, ValueError, IndexError, TypeError, csv.Error) as error:
        raise InputError(f"AlpacaEval's tables: {folder} does not hold what is expected ({error!r})") from error
    if not np.all(np.isfinite(difficulties)) or not np.all(np.isfinite([gamed.weight, *gamed.label_sums])):
        raise InputError(f"AlpacaEval's tables: {folder} holds a number that is not finite")
    return difficulties, gamed
