"""Ranking mathematics: distances, Mallows models, links. numpy, scipy and torch only; no I/O.

`links` (torch) is imported on its own, so that this package stays light.
"""

from mallowspo.maths.centre import borda_center, kemeny_center
from mallowspo.maths.distances import as_rankings, footrule, kendall_tau, spearman_rho
from mallowspo.maths.mallows import MAX_NEG_LOG_PHI, MallowsModel, consensus, neg_log_phi_from_mean_distance

__all__ = [
    "MAX_NEG_LOG_PHI",
    "MallowsModel",
    "as_rankings",
    "borda_center",
    "consensus",
    "footrule",
    "kemeny_center",
    "kendall_tau",
    "neg_log_phi_from_mean_distance",
    "spearman_rho",
]
