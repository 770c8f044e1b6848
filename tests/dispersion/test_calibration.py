"""The weight: mean 1 by construction, floored and clipped in the open."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mallowspo.dispersion import Calibration, calibrate, raw_from_index, raw_from_phi
from mallowspo.errors import InputError


@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(1e-3, 10)))
def test_auto_gives_mean_one(raw):
    calibration = calibrate(raw, source="entropy", clip=(0.0, 1e6))
    assert calibration.weight(raw).mean() == pytest.approx(1, rel=1e-9)
    assert calibration.scale == pytest.approx(1 / raw.mean(), rel=1e-9)


@given(arrays(np.float64, st.integers(3, 40), elements=st.floats(1e-2, 10)), st.floats(1.05, 4))
def test_auto_gives_mean_one_after_the_clip(raw, high):
    calibration = calibrate(raw, source="entropy", clip=(0.1, high))
    weight = calibration.weight(raw)
    assert weight.mean() == pytest.approx(1, rel=1e-9) and weight.min() >= 0.1 and weight.max() <= high
    assert calibration.clipped == int(calibration.is_clipped(raw).sum())


def test_released_formula():
    # The authors' code for Llama-3 on UltraFeedback: 0.29 * -log H.
    raw, floored = raw_from_index([0.03, 0.1, 0.4, 0.9])
    weight = calibrate(raw, source="entropy", scale=0.29).weight(raw)
    assert weight.round(2).tolist() == [1.02, 0.67, 0.27, 0.03] and floored == 0


def test_no_entropy_and_full_entropy_are_finite_and_counted():
    raw, floored = raw_from_index([0.0, 1.0, 1e-9])
    assert floored == 2 and raw[1] == 0 and np.isfinite(raw).all()


def test_phi_of_votes():
    assert raw_from_phi([1.0, np.exp(-1)]).tolist() == [0.0, pytest.approx(2.0, rel=1e-15)]


def test_json_round_trip_is_exact():
    calibration = calibrate([0.1, 0.7, 3.3], source="votes", clip=(0.2, 2.0), per="pair", floored=2)
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration


@pytest.mark.parametrize(
    ("raw", "options", "said"),
    [
        ([], {}, "no training rows"),
        ([0.0, 0.0], {}, "every row has raw weight 0"),
        ([1.0, np.nan], {}, "row 1 has a raw weight of nan"),
        ([1.0, -0.5], {}, "row 1 has a raw weight of -0.5"),
        ([1.0], {"scale": 0}, "dispersion_scale: got 0"),
        ([1.0], {"scale": "big"}, "dispersion_scale: got 'big'"),
        ([1.0], {"clip": (2.0, 1.0)}, "dispersion_clip"),
        ([1.0, 2.0], {"clip": (0.0, 0.5)}, "no scale gives a mean weight of 1"),
        ([0.0, 0.0, 0.0, 1.0], {"clip": (0.0, 2.0)}, "no scale gives a mean weight of 1"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(raw, options, said):
    with pytest.raises(InputError, match=said):
        calibrate(raw, source="entropy", **options)


@pytest.mark.parametrize("bad", [-0.1, 1.5, np.nan])
def test_an_index_outside_its_range_is_refused(bad):
    with pytest.raises(InputError, match="row 1 has"):
        raw_from_index([0.5, bad])
