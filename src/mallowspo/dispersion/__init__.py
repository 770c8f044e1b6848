"""From reference scores, votes or rankings to an index per prompt, and from the index to a weight."""

from mallowspo.dispersion.calibration import Calibration, calibrate, raw_from_index, raw_from_phi
from mallowspo.dispersion.entropy import ReferenceStatistics, entropy_index, mean_by_prompt
from mallowspo.dispersion.estimators import ESTIMATORS, prompt_index, sampled_entropy
from mallowspo.dispersion.maps import MAPS, IndexMap, check_map, fit_map
from mallowspo.dispersion.people import RankingsIndex, VotesIndex, rankings_index, votes_index
from mallowspo.dispersion.shrinkage import (
    ShrinkFit,
    break_even_correlation,
    effective_pairs,
    effective_pairs_if_correlated,
    fit_shrink,
    shrunken_weights,
)

__all__ = [
    "ESTIMATORS",
    "MAPS",
    "Calibration",
    "IndexMap",
    "RankingsIndex",
    "ReferenceStatistics",
    "ShrinkFit",
    "VotesIndex",
    "break_even_correlation",
    "calibrate",
    "check_map",
    "effective_pairs",
    "effective_pairs_if_correlated",
    "entropy_index",
    "fit_map",
    "fit_shrink",
    "mean_by_prompt",
    "prompt_index",
    "rankings_index",
    "raw_from_index",
    "raw_from_phi",
    "sampled_entropy",
    "shrunken_weights",
    "votes_index",
]
