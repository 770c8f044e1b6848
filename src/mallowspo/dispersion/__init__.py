"""From reference scores, votes or rankings to an index per prompt, and from the index to a weight."""

from mallowspo.dispersion.calibration import Calibration, calibrate, raw_from_index, raw_from_phi
from mallowspo.dispersion.entropy import ESTIMATORS, ReferenceStatistics, entropy_index, mean_by_prompt
from mallowspo.dispersion.people import RankingsIndex, VotesIndex, rankings_index, votes_index

__all__ = [
    "ESTIMATORS",
    "Calibration",
    "RankingsIndex",
    "ReferenceStatistics",
    "VotesIndex",
    "calibrate",
    "entropy_index",
    "mean_by_prompt",
    "rankings_index",
    "raw_from_index",
    "raw_from_phi",
    "votes_index",
]
