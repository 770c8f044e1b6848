"""Does the model's index track people's disagreement? Rank correlation and AUROC, prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.dispersion.analysis import PromptOpinion
from mallowspo.dispersion.diagnostics import correlation, statistic
from mallowspo.dispersion.entropy import mean_by_prompt
from mallowspo.errors import InputError
from mallowspo.stats.bootstrap import auroc

__all__ = ["SideBySide", "side_by_side"]


@dataclass(frozen=True)
class SideBySide:
    """The prompts of which both model and people say something."""

    prompt_ids: list[str]
    index: NDArray[np.float64]  # the model's, larger = more dispersed, shape (P,)
    phi: NDArray[np.float64]  # people's phi, shape (P,)
    summary: dict[str, Any]  # correlation and AUROC with their intervals, as plain values


def side_by_side(
    index_n: ArrayLike,
    prompt_ids: Sequence[str],
    people: PromptOpinion,
    *,
    rng: np.random.Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> SideBySide:
    """Compare an index, shape (N,), with what people said of the same prompts.

    Spearman's correlation with people's phi is 1 where the index orders the prompts as people do, 0 where it knows
    nothing. The AUROC is the chance that a prompt on which people contradicted each other has the larger index.
    """
    names, first = np.unique(np.asarray(prompt_ids, dtype=str), return_index=True)
    mean = mean_by_prompt(index_n, prompt_ids)[first]
    both = [i for i, name in enumerate(names) if str(name) in people.neg_log_phi]
    if len(both) < 3:
        raise InputError(
            f"{people.source}: {len(both)} of its {len(people.neg_log_phi):,} prompts are among the {len(names):,} of "
            "the reference store, expected at least 3; both must come from the same prompts, word for word (a data "
            "set with a column of votes serves as both)"
        )
    shared = [str(names[i]) for i in both]
    index, phi = mean[both], np.exp(-np.array([people.neg_log_phi[name] for name in shared]))
    judged = [i for i, name in enumerate(shared) if name in people.diverging]
    diverging = np.array([people.diverging[shared[i]] for i in judged], dtype=bool)
    area = auroc(index[judged], diverging, rng=rng, resamples=resamples, level=level)
    summary = {
        "people": people.source,
        "prompts": len(shared),
        "prompts_of_model": len(names),
        "prompts_of_people": len(people.neg_log_phi),
        "correlation": correlation(index, phi, rng=rng, resamples=resamples, level=level),
        "auroc": statistic(area, len(judged)) if np.isfinite(area.mean) else None,
        "diverging": int(diverging.sum()),
        "judged": len(judged),
    }
    return SideBySide(shared, index, phi, summary)
