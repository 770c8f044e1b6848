"""The length-controlled win rate against AlpacaEval's published figures, scipy and closed forms."""

import csv
import gzip

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit

from mallowspo.errors import InputError
from mallowspo.evaluation.length_control import (
    L1_STRENGTH,
    WITHOUT_GAMED,
    length_controlled_win_rate,
    read_alpaca_tables,
)
from mallowspo.evaluation.win_rates import win_rate


@pytest.fixture(scope="module")
def alpaca(shared):
    folder = shared / "data/alpaca_eval"
    with (folder / "leaderboard.csv").open() as file:
        board = {row["model"]: row for row in csv.DictReader(file)}
    models = {}
    with gzip.open(folder / "preferences.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            models.setdefault(row["model"], []).append(
                [float(row[name]) for name in ("index", "len_1", "len_2", "preference")]
            )
    assert set(models) == set(board)
    return folder, board, {name: np.asarray(sorted(rows)) for name, rows in models.items()}


def labels(preference):
    return np.where(preference == 0, 0.5, preference - 1)


@pytest.mark.shared
def test_every_published_figure_is_met(alpaca):
    folder, board, models = alpaca
    difficulty, gamed = read_alpaca_tables(folder)
    for name, rows in models.items():
        y = labels(rows[:, 3])
        raw = win_rate(y, resamples=1)
        assert raw.win_rate == pytest.approx(float(board[name]["win_rate"]), abs=1e-6), name
        assert raw.standard_error == pytest.approx(float(board[name]["standard_error"]), abs=1e-6), name
        found = length_controlled_win_rate(
            y, rows[:, 2], rows[:, 1], difficulty_n=difficulty, gamed=gamed, resamples=0
        )
        published = float(board[name]["length_controlled_winrate"])
        assert found.win_rate == pytest.approx(published, abs=0.1), name
        assert found.note == ""


@pytest.mark.shared
def test_without_the_gamed_rows_it_is_as_far_off_as_it_says(alpaca):
    _, board, models = alpaca
    errors = []
    for name, rows in models.items():
        found = length_controlled_win_rate(labels(rows[:, 3]), rows[:, 2], rows[:, 1], resamples=0)
        assert found.note == WITHOUT_GAMED
        errors.append(abs(found.win_rate - float(board[name]["length_controlled_winrate"])))
    assert 22 < max(errors) < 23.5 and "23 points" in WITHOUT_GAMED


def simulated(rng, n=400):
    lengths, baseline = rng.integers(100, 2000, n), rng.integers(100, 2000, n)
    delta = (baseline - lengths) / np.std(baseline - lengths, ddof=1)
    y = (rng.random(n) < expit(-1.2 * np.tanh(delta) + 0.4)).astype(float)
    return y, lengths, baseline


def test_the_minimum_is_scipys(rng):
    y, lengths, baseline = simulated(rng)
    delta = baseline - lengths
    x = np.column_stack([np.tanh(delta / np.std(delta, ddof=1)), np.ones(len(y))])

    def loss(w):  # split in positive and negative parts: smooth where |w| is not
        score = x @ (w[:2] - w[2:])
        return np.sum(np.logaddexp(0, score) - y * score) + w.sum() / L1_STRENGTH

    best = minimize(loss, np.zeros(4), bounds=[(0, None)] * 4, options={"ftol": 1e-15, "gtol": 1e-9}).x
    found = length_controlled_win_rate(y, lengths, baseline, resamples=0)
    w = best[:2] - best[2:]
    assert list(found.coefficients.values()) == pytest.approx(w, abs=1e-4)
    assert found.win_rate == pytest.approx(100 * expit(w[1]), abs=0.01)


def test_the_effect_of_length_is_taken_out(rng):
    y, lengths, baseline = simulated(rng, 4000)
    found = length_controlled_win_rate(y, lengths + 600, baseline, resamples=20)
    assert found.coefficients["length"] < 0  # the longer the baseline, the fewer wins
    even = length_controlled_win_rate(y, lengths, baseline, resamples=20)
    # Truth: σ(0.4) = 59.9; four standard errors.
    assert even.win_rate == pytest.approx(100 * expit(0.4), abs=4 * even.standard_error)
    assert 0 < even.standard_error < 2


def test_equal_lengths_leave_the_shrunken_raw_rate():
    y = [1.0] * 30 + [0.0] * 10
    found = length_controlled_win_rate(y, [50] * 40, [50] * 40, resamples=0)
    # One constant c under the penalty: n(σ(c) − ȳ) + 1/C = 0.
    assert found.win_rate == pytest.approx(100 * (0.75 - 1 / L1_STRENGTH / 40), abs=1e-8)
    assert found.coefficients["constant"] == pytest.approx(float(logit(found.win_rate / 100)), abs=1e-8)
    assert not found.lengths_vary


def test_all_wins_stay_finite():
    found = length_controlled_win_rate([1.0] * 20, range(20), range(20, 40), resamples=10)
    assert 95 < found.win_rate < 100


@pytest.mark.parametrize(
    ("y", "lengths", "said"),
    [([1.0], [5], "at least 2"), ([1.0, 2.0], [5, 6], "in \\[0, 1\\]"), ([1.0, 0.0], [5, np.nan], "finite")],
)
def test_what_cannot_be_fitted_is_refused(y, lengths, said):
    with pytest.raises(InputError, match=said):
        length_controlled_win_rate(y, lengths, [4] * len(lengths))


def test_missing_tables_are_named(tmp_path):
    with pytest.raises(InputError, match=r"instructions\.csv"):
        read_alpaca_tables(tmp_path)
    (tmp_path / "instructions.csv").write_text("index,other\n0,1\n")
    with pytest.raises(InputError, match="instruction_difficulty"):
        read_alpaca_tables(tmp_path)
