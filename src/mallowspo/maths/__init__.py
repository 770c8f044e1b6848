"""Ranking mathematics: distances, Mallows models, links. numpy, scipy and torch only; no I/O.

`links` (torch) is imported on its own, so that this package stays light.
"""

from mallowspo.maths.centre import borda_center, center_of_preferences, kemeny_center
from mallowspo.maths.distances import as_rankings, footrule, kendall_tau, spearman_rho
from mallowspo.maths.mallows import MAX_NEG_LOG_PHI, MallowsModel, consensus, neg_log_phi_from_mean_distance
from mallowspo.maths.partial import (
    bucket_sizes,
    discordant_pairs,
    extension_counts,
    log_prob_with_ties,
    preference_counts,
)

__all__ = [
    "MAX_NEG_LOG_PHI",
    "MallowsModel",
    "as_rankings",
    "borda_center",
    "bucket_sizes",
    "center_of_preferences",
    "consensus",
    "discordant_pairs",
    "extension_counts",
    "footrule",
    "kemeny_center",
    "kendall_tau",
    "log_prob_with_ties",
    "neg_log_phi_from_mean_distance",
    "preference_counts",
    "spearman_rho",
]
