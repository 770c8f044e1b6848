"""Policy scores, reference scores and a weight in; a loss per pair out. Pure functions on tensors.

A named method is one `Objective` in `presets.py`; a new link is one function in `mallowspo.maths.links` and one line
in `pairwise.py`.
"""

from mallowspo.objectives.listwise import listwise_loss
from mallowspo.objectives.pairwise import implicit_gap, objective_loss, pairwise_loss, response_scores
from mallowspo.objectives.presets import LINKS, OBJECTIVES, Objective, resolve_objective

__all__ = [
    "LINKS",
    "OBJECTIVES",
    "Objective",
    "implicit_gap",
    "listwise_loss",
    "objective_loss",
    "pairwise_loss",
    "resolve_objective",
    "response_scores",
]
