"""Frontiers against hand calculation and cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mallowspo.errors import InputError
from mallowspo.stats.frontiers import (
    SeedFrontier,
    equal_kl_differences,
    interpolate_frontier,
    read_at_best_rate,
)


def line(kl, value):
    return SeedFrontier(kl, value, value)


def test_interpolation_is_linear_in_log_kl_and_never_extrapolates():
    read = interpolate_frontier([0.4, 0.1], [0.6, 0.5], [0.1, 0.2, 0.4, 0.0999, 0.4001])
    np.testing.assert_allclose(read, [0.5, 0.55, 0.6, np.nan, np.nan])
    with pytest.raises(InputError, match="KL > 0"):
        interpolate_frontier([0.0, 1.0], [0.5, 0.6], [0.5])


def test_the_better_learning_rate_is_chosen_by_agreement_not_by_the_quantity_that_is_read():
    low = SeedFrontier([0.1, 1.0], [0.6, 0.6], [1.0, 1.0])
    high = SeedFrontier([0.1, 1.0], [0.5, 0.5], [9.0, 9.0])
    assert read_at_best_rate([low, high], [0.3]).tolist() == [1.0]


@given(shift=st.floats(-0.1, 0.1), strength=st.floats(1.1, 3.0))
def test_a_method_that_is_only_stronger_at_equal_beta_gains_nothing_at_equal_kl(shift, strength):
    # Agreement a known function of KL: the same line for both, reached at other β. Only `shift` is a real difference.
    kl = np.geomspace(0.02, 0.5, 4)
    baseline = line(kl, 0.5 + 0.02 * np.log(kl))
    method = line(strength * kl, 0.5 + 0.02 * np.log(strength * kl) + shift)
    found = equal_kl_differences([[method]], [[baseline]])
    assert found.difference_s[0] == pytest.approx(shift, abs=1e-12)
    assert found.low_s[0] == pytest.approx(strength * 0.02)
    assert found.high_s[0] == pytest.approx(0.5)


def test_ranges_that_do_not_meet_give_no_difference():
    found = equal_kl_differences([[line([0.1, 0.2], [1.0, 1.0])]], [[line([0.3, 0.4], [1.0, 1.0])]])
    assert np.isnan(found.difference_s[0])


def test_a_gap_between_the_learning_rates_is_left_out():
    method = [line([0.1, 0.2], [1.0, 1.0]), line([0.8, 1.6], [1.0, 1.0])]
    baseline = [line([0.1, 1.6], [0.0, 0.0])]
    assert equal_kl_differences([method], [baseline]).difference_s.tolist() == [1.0]
