"""Frontiers against hand calculation and cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mallowspo.errors import InputError
from mallowspo.stats.frontiers import SeedFrontier, equal_kl_differences, interpolate_frontier


def test_interpolation_is_linear_in_log_kl_and_never_extrapolates():
    read = interpolate_frontier([0.4, 0.1], [0.6, 0.5], [0.1, 0.2, 0.4, 0.0999, 0.4001])
    np.testing.assert_allclose(read, [0.5, 0.55, 0.6, np.nan, np.nan])
    with pytest.raises(InputError, match="KL > 0"):
        interpolate_frontier([0.0, 1.0], [0.5, 0.6], [0.5])


@given(shift=st.floats(-0.1, 0.1), strength=st.floats(1.1, 3.0))
def test_a_method_that_is_only_stronger_at_equal_beta_gains_nothing_at_equal_kl(shift, strength):
    # Agreement a known function of KL: the same line for both, reached at other β. Only `shift` is a real difference.
    kl = np.geomspace(0.02, 0.5, 4)
    baseline = SeedFrontier(kl, 0.5 + 0.02 * np.log(kl))
    method = SeedFrontier(strength * kl, 0.5 + 0.02 * np.log(strength * kl) + shift)
    found = equal_kl_differences([method], [baseline])
    assert found.difference_s[0] == pytest.approx(shift, abs=1e-12)
    assert found.low_s[0] == pytest.approx(strength * 0.02)
    assert found.high_s[0] == pytest.approx(0.5)


def test_ranges_that_do_not_meet_give_no_difference():
    found = equal_kl_differences([SeedFrontier([0.1, 0.2], [1.0, 1.0])], [SeedFrontier([0.3, 0.4], [1.0, 1.0])])
    assert np.isnan(found.difference_s[0])
