"""The dispersion index from the reference model's predictive entropy.

Shapes: `N` rows, each with K >= 2 responses to one prompt. Entropies are in nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.errors import InputError

if TYPE_CHECKING:
    from mallowspo.scoring import ReferenceScores

__all__ = ["ReferenceStatistics", "entropy_index", "mean_by_prompt", "normalised_entropy"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ReferenceStatistics:
    """What one pass of the reference model says of each row's responses; the estimators read nothing else.

    Attributes:
        logp_nk: log pi_ref of each response, shape (N, K), nats.
        entropy_sum_nk: Next-token entropies summed over each response's tokens, shape (N, K), nats.
        length_nk: Tokens of each response, shape (N, K).
        vocab_size: Last axis of the reference's logits, padding rows included.
        first_entropy_nk: Entropy of the distribution of each response's first token, shape (N, K), nats; None where
            the pass did not keep it.
        divergent_entropy_nk: Entropy where the responses of a row first differ, shape (N, K), nats; NaN for a
            response that ends before; None where the pass did not keep it.
    """

    logp_nk: Floats
    entropy_sum_nk: Floats
    length_nk: Floats
    vocab_size: int
    first_entropy_nk: Floats | None = None
    divergent_entropy_nk: Floats | None = None

    @classmethod
    def of(cls, scores: ReferenceScores, *, vocab_size: int) -> ReferenceStatistics:
        """What the estimators read of a reference's scores."""
        return cls(
            logp_nk=scores.logp_nk,
            entropy_sum_nk=scores.entropy_sum_nk,
            length_nk=np.asarray(scores.length_nk, np.float64),
            vocab_size=vocab_size,
            first_entropy_nk=scores.first_entropy_nk,
            divergent_entropy_nk=scores.divergent_entropy_nk,
        )


def normalised_entropy(entropy_sum: ArrayLike, lengths: ArrayLike, *, vocab_size: int) -> Floats:
    """Mean next-token entropy of a response as a share of log |V| (Chen et al. 2025); NaN without a token."""
    if vocab_size < 2:
        raise InputError(f"vocab_size: got {vocab_size}, expected at least 2")
    entropy, count = np.asarray(entropy_sum, np.float64), np.asarray(lengths, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = entropy / count / np.log(vocab_size)
    # A uniform distribution comes out of float32 a few ulp above log |V|.
    return np.asarray(np.minimum(share, 1.0), np.float64)


def mean_by_prompt(values_n: ArrayLike, prompt_ids: Sequence[object]) -> Floats:
    """Replace each row's value by the mean over all rows of the same prompt.

    Args:
        values_n: Shape (N,).
        prompt_ids: What identifies the prompt of each row, length N.

    Returns:
        Shape (N,).

    Raises:
        InputError: Lengths that differ.

    Example:
        >>> mean_by_prompt([0.2, 0.4, 0.5], ["a", "a", "b"]).round(3).tolist()
        [0.3, 0.3, 0.5]
    """
    values = np.asarray(values_n, np.float64)
    if len(values) != len(prompt_ids):
        raise InputError(f"prompt_ids: got {len(prompt_ids)} of them for {len(values)} rows")
    _, group_n = np.unique(np.asarray(prompt_ids, dtype=str), return_inverse=True)
    means = np.bincount(group_n, weights=values) / np.bincount(group_n)
    return np.asarray(means[group_n], np.float64)


def entropy_index(
    entropy_sum_nk: ArrayLike,
    length_nk: ArrayLike,
    *,
    vocab_size: int,
    prompt_ids: Sequence[object] | None = None,
) -> Floats:
    """The released dispersion index u(x): mean normalised entropy of the responses to a prompt.

    Args:
        entropy_sum_nk: Sum of the reference's next-token entropies over each response, shape (N, K), nats.
        length_nk: Tokens of each response, shape (N, K).
        vocab_size: |V|, the last axis of the reference's logits.
        prompt_ids: What identifies the prompt of each row; given, rows of one prompt share their mean.

    Returns:
        u in [0, 1], shape (N,); larger means more dispersed. A response without tokens is left out of its row's mean.

    Raises:
        InputError: Shapes that differ, or a row none of whose responses has a token.

    Source:
        Chen et al. 2025 (arXiv 2405.14953): H(x) = (H(y_w) + H(y_l)) / 2, of the mean token entropies.

    Example:
        >>> entropy_index([[np.log(4), 0.0]], [[1, 3]], vocab_size=16).tolist()
        [0.25]
    """
    entropy, length = np.asarray(entropy_sum_nk, np.float64), np.asarray(length_nk, np.float64)
    if entropy.ndim != 2 or entropy.shape != length.shape:
        raise InputError(
            f"entropy_sum_nk and length_nk: got shapes {entropy.shape} and {length.shape}, expected (N, K)"
        )
    if (length > 0).sum(axis=1).min(initial=1) == 0:
        row = int(np.argmin((length > 0).sum(axis=1)))
        raise InputError(f"length_nk: no response of row {row:,} has a token; drop that row")
    index_n = np.nanmean(normalised_entropy(entropy, length, vocab_size=vocab_size), axis=1)
    if prompt_ids is not None:
        index_n = mean_by_prompt(index_n, prompt_ids)
    return np.asarray(index_n, np.float64)
