"""Curriculum and filter by dispersion."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mallowspo.errors import InputError
from mallowspo.training.selection import selected_rows

raws = arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 20))


@given(raws)
def test_all_rows_stay_by_default(raw):
    assert selected_rows(raw).tolist() == list(range(len(raw)))


@given(raws)
def test_orders_are_sorted_and_lose_nothing(raw):
    agreed, contested = (selected_rows(raw, order=f"{name}_first") for name in ("agreed", "contested"))
    assert (np.diff(raw[agreed]) <= 0).all() and (np.diff(raw[contested]) >= 0).all()
    assert sorted(agreed) == sorted(contested) == list(range(len(raw)))


@given(st.integers(10, 60), st.integers(0, 4), st.integers(6, 10))
def test_filter_keeps_the_share_that_it_says(count, low, high):
    rng = np.random.default_rng(count)
    raw = rng.permutation(np.linspace(0, 5, count))  # no ties
    kept = selected_rows(raw, keep=(low / 10, high / 10))
    assert abs(len(kept) - count * (high - low) / 10) <= 2
    ranks = np.argsort(np.argsort(-raw))[kept] / (count - 1)
    assert ranks.min() >= low / 10 - 1e-9 and ranks.max() <= high / 10 + 1e-9


def test_rows_of_one_prompt_stay_or_go_together():
    raw = np.array([3.0, 3.0, 3.0, 1.0, 1.0, 0.5])
    kept = selected_rows(raw, keep=(0.0, 0.5))
    assert kept.tolist() in ([0, 1, 2], [0, 1, 2, 3, 4])


@pytest.mark.parametrize("keep", [(0.5,), (0.5, 0.5), (-0.1, 1.0), (0.0, 1.1), (float("nan"), 1.0)])
def test_a_filter_that_is_none_is_refused(keep):
    with pytest.raises(InputError, match="dispersion_filter"):
        selected_rows([1.0, 2.0], keep=keep)


def test_an_unknown_order_is_refused():
    with pytest.raises(InputError, match="dispersion_order: got 'random'"):
        selected_rows([1.0, 2.0], order="random")
