"""What a weighted pair is worth: the fits, the horizontal distance, and the study in its small form."""

import numpy as np
import pytest
from scipy.optimize import minimize

from mallowspo.studies.efficiency.study import EFFICIENCY, INDEXES, fit, worth_of
from mallowspo.studies.study import run_study

PAIRS = (250, 1000, 4000, 16000)


def test_a_fit_is_the_likeliest_logistic_regression_of_weighted_differences():
    rng = np.random.default_rng(0)
    difference, weight = rng.normal(size=(300, 4)) + [0.3, 0.1, 0, 0], rng.gamma(2.0, 0.5, 300)
    peer = minimize(lambda b: np.logaddexp(0, -weight * (difference @ b)).mean(), np.zeros(4), tol=1e-12).x
    found = fit("mallows_theta", difference, weight)
    assert np.allclose(found, peer, atol=1e-4)
    assert np.allclose(fit("mallows_theta", difference, weight, found + 0.1), found, atol=1e-6)


@pytest.mark.parametrize("worth", [0.5, 1.25, 4.0])
def test_the_distance_is_the_factor_that_moves_one_curve_onto_the_other(worth):
    error = 3.0 / np.sqrt(PAIRS)  # a curve of slope -1/2: worth times as many pairs shift it sideways
    found = worth_of(PAIRS, error / np.sqrt(worth), error)
    reached = (np.array(PAIRS) * worth <= PAIRS[-1] * (1 + 1e-9)) & (np.array(PAIRS) * worth >= PAIRS[0] * (1 - 1e-9))
    assert found[reached] == pytest.approx(worth) and np.isnan(found[~reached]).all()


def test_the_study_runs(tmp_path):
    results = run_study(EFFICIENCY, EFFICIENCY.presets["fast"](str(tmp_path)))
    assert len(results["combinations"]) == 3
    for row in results["combinations"]:
        worth = {name: row["methods"][name]["predicted"]["mean"] for name in INDEXES}
        # c = 1: the true index is worth 1 + c² and noise 1 / (1 + c²), up to what is drawn.
        assert worth["true"] == pytest.approx(2.0, abs=0.3) and worth["noise"] == pytest.approx(0.5, abs=0.08)
        assert worth["noise"] < worth["estimated"] < worth["true"]
        for name, one in row["methods"].items():
            error = [place["mean"] for place in one["error"]]
            assert error == sorted(error, reverse=True) and 0 < error[-1] < error[0] < 0.5, name
        assert row["methods"]["true"]["error"][-1]["mean"] < row["methods"]["noise"]["error"][-1]["mean"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Measured against G" in page and "an index that knows nothing" in page
