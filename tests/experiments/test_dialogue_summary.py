"""Both sources of chance in the dialogue study's numbers."""

import numpy as np
import pytest

from mallowspo.experiments.dialogue_summary import both_intervals
from mallowspo.stats.bootstrap import Resamples


def test_the_two_sources_of_chance_are_kept_apart():
    draws = Resamples.of(range(50), rng=np.random.default_rng(0))
    # Seeds that differ, rows that do not: chance lies between the seeds alone.
    found = both_intervals(np.repeat([[0.0], [1.0], [2.0]], 50, axis=1), draws)
    assert found["rows"]["low"] == found["rows"]["high"] == pytest.approx(1.0)
    assert found["seeds"]["low"] == pytest.approx(1 - 4.3027 / np.sqrt(3), abs=1e-3)  # t with 2 degrees
    found = both_intervals(np.tile(np.arange(50.0), (3, 1)), draws)
    assert found["seeds"]["low"] == found["seeds"]["high"] == pytest.approx(24.5)
    assert found["rows"]["low"] < 22
