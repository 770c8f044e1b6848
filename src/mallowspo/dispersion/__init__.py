"""From reference scores, votes or rankings to an index per prompt, and from the index to a weight."""

from mallowspo.dispersion.calibration import Calibration, calibrate, raw_from_index, raw_from_phi
from mallowspo.dispersion.entropy import ESTIMATORS, ReferenceStatistics, entropy_index, mean_by_prompt

__all__ = [
    "ESTIMATORS",
    "Calibration",
    "ReferenceStatistics",
    "calibrate",
    "entropy_index",
    "mean_by_prompt",
    "raw_from_index",
    "raw_from_phi",
]
