"""From reference scores, votes or rankings to an index per prompt, and from the index to a weight."""

from mallowspo.dispersion.calibration import Calibration, calibrate, raw_from_index, raw_from_phi
from mallowspo.dispersion.entropy import ReferenceStatistics, entropy_index, mean_by_prompt
from mallowspo.dispersion.estimators import ESTIMATORS, prompt_index, sampled_entropy
from mallowspo.dispersion.maps import MAPS, IndexMap, check_map, fit_map
from mallowspo.dispersion.people import RankingsIndex, VotesIndex, rankings_index, votes_index

__all__ = [
    "ESTIMATORS",
    "MAPS",
    "Calibration",
    "IndexMap",
    "RankingsIndex",
    "ReferenceStatistics",
    "VotesIndex",
    "calibrate",
    "check_map",
    "entropy_index",
    "fit_map",
    "mean_by_prompt",
    "prompt_index",
    "rankings_index",
    "raw_from_index",
    "raw_from_phi",
    "sampled_entropy",
    "votes_index",
]
