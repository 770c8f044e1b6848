"""Intervals over rows and over seeds."""

import numpy as np
import pytest

from mallowspo.errors import InputError
from mallowspo.experiments.dialogue_statistics import RowBootstrap, both_intervals, said


def test_the_interval_over_rows_has_the_width_of_the_normal_one(rng):
    value = rng.normal(size=400)
    found = RowBootstrap.of([str(n) for n in range(400)]).interval(value)
    half = 1.96 * value.std() / 20
    assert found.mean == pytest.approx(value.mean())
    assert found.high - found.mean == pytest.approx(half, rel=0.12)
    assert found.mean - found.low == pytest.approx(half, rel=0.12)


def test_rows_of_one_dialogue_stand_or_fall_together(rng):
    value = rng.normal(size=60)
    single = RowBootstrap.of([f"{n:02}" for n in range(60)]).interval(value)
    twice = RowBootstrap.of([f"{n:02}" for n in range(60) for _ in range(2)]).interval(np.repeat(value, 2))
    # Repeating every row says nothing new: the interval must not narrow.
    assert (twice.mean, twice.low, twice.high) == pytest.approx((single.mean, single.low, single.high))


def test_a_contrast_is_the_difference_of_two_means(rng):
    value, first = rng.normal(size=300), np.arange(300) < 100
    found = RowBootstrap.of([str(n) for n in range(300)]).contrast(value, first, ~first)
    error = np.sqrt(value[first].var() / 100 + value[~first].var() / 200)
    assert found.mean == pytest.approx(value[first].mean() - value[~first].mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.12)


def test_too_few_rows_have_no_interval():
    boot = RowBootstrap.of(["a", "b", "c"])
    assert np.isnan(boot.interval([1.0, 2.0, 3.0], [True, False, False]).low)
    assert np.isnan(boot.contrast([1.0, 2.0, 3.0], [True, True, False], [False, False, True]).mean)


def test_shapes_are_checked():
    with pytest.raises(InputError, match="one value per row"):
        RowBootstrap.of(["a", "b"]).interval([1.0, 2.0, 3.0])


def test_the_two_sources_of_chance_are_kept_apart():
    boot = RowBootstrap.of([str(n) for n in range(50)])
    # Seeds that differ, rows that do not: chance lies between the seeds alone.
    found = both_intervals(np.repeat([[0.0], [1.0], [2.0]], 50, axis=1), boot)
    assert found["rows"]["low"] == found["rows"]["high"] == pytest.approx(1.0)
    assert found["seeds"]["low"] == pytest.approx(1 - 4.3027 / np.sqrt(3), abs=1e-3)  # t with 2 degrees
    found = both_intervals(np.tile(np.arange(50.0), (3, 1)), boot)
    assert found["seeds"]["low"] == found["seeds"]["high"] == pytest.approx(24.5)
    assert found["rows"]["low"] < 22


@pytest.mark.parametrize(
    ("rows", "seeds", "word"),
    [
        ((1, 2), (1, 2), "better"),
        ((-2, -1), (-3, -1), "worse"),
        ((1, 2), (-1, 4), "open"),
        ((1, 2), (-2, -1), "open"),
        ((1, 2), (float("nan"), float("nan")), "open"),
    ],
)
def test_told_apart_only_where_both_intervals_say_so(rows, seeds, word):
    found = {
        name: {"mean": sum(ends) / 2, "low": ends[0], "high": ends[1]}
        for name, ends in (("rows", rows), ("seeds", seeds))
    }
    assert said(found) == word
    assert said(found, less_is_better=True) == {"better": "worse", "worse": "better"}.get(word, word)
