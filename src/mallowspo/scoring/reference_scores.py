"""Everything that the reference store keeps of each response, from one padded batch or from many rows.

Shapes: `N` rows (`B` in a batch), each with K responses to one prompt; T tokens a padded row. Entropies are in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mallowspo.scoring.padded import ResponseScores

__all__ = ["LANDMARKS", "ReferenceScores", "landmark_entropies", "score_rows"]

Floats = NDArray[np.float64]

LANDMARKS = ("first_entropy", "divergent_entropy")
"""Entropies at single positions: before the first response token, and where the responses first differ."""


@dataclass(frozen=True)
class ReferenceScores:
    """What the reference says of each response.

    Attributes:
        logp_nk: Log-probability, shape (N, K), nats; summed in float64.
        entropy_sum_nk: Next-token entropies summed over the response's tokens, shape (N, K), nats.
        length_nk: Tokens of each response that were scored, shape (N, K).
        first_entropy_nk: Entropy of the distribution of the response's first token, shape (N, K), nats.
        divergent_entropy_nk: Entropy where the responses to a prompt first differ, shape (N, K), nats; NaN for a
            response that ends before.
        token_entropies: For each row and each response the entropies of its tokens, float32; None unless asked for.
    """

    logp_nk: Floats
    entropy_sum_nk: Floats
    length_nk: NDArray[np.int64]
    first_entropy_nk: Floats
    divergent_entropy_nk: Floats
    token_entropies: tuple[tuple[NDArray[np.float32], ...], ...] | None = None


def landmark_entropies(scores: ResponseScores, input_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Read the entropies at the first and at the divergent position off a batch.

    Args:
        scores: Of `score_padded(..., per_token=True)`.
        input_ids: The batch's tokens, shape (K * B, T).

    Returns:
        First-token and divergent-token entropies, each of shape (B, K), nats, float64; NaN where there is none.

    Example:
        >>> mask = torch.tensor([[[0, 1, 1, 0], [0, 1, 1, 1]]], dtype=torch.bool)
        >>> entropy = torch.tensor([[[0.0, 0.5, 0.7, 0.0], [0.0, 0.5, 0.7, 0.2]]])
        >>> none = torch.zeros(1, 2)
        >>> scores = ResponseScores(none, none, mask.sum(-1), token_entropy_bkt=entropy, token_mask_bkt=mask)
        >>> ids = torch.tensor([[1, 2, 5, 6, 0], [1, 2, 5, 7, 8]])  # alike in 5, apart at 6 and 7
        >>> [part.round(decimals=4).tolist() for part in landmark_entropies(scores, ids)]
        [[[0.5, 0.5]], [[0.7, 0.7]]]
    """
    mask, entropy = scores.token_mask_bkt, scores.token_entropy_bkt
    if mask is None or entropy is None:
        raise ValueError("landmark_entropies needs scores made with per_token=True, by a head that computes entropies")
    rows, responses, columns = mask.shape
    # The tokens that the columns predict; then every response shifted to begin in column 0.
    ids = input_ids[:, 1:].view(responses, rows, columns).transpose(0, 1)
    steps = torch.arange(columns, device=mask.device)
    first = mask.int().argmax(dim=-1, keepdim=True)
    index = (first + steps).clamp(max=columns - 1)
    valid = steps < mask.sum(dim=-1, keepdim=True)
    ids = ids.gather(-1, index).masked_fill(~valid, -1)
    entropy = entropy.gather(-1, index).double().masked_fill(~valid, float("nan"))
    differs = (ids != ids[:, :1]).any(dim=1)
    # Where all responses are the same tokens there is no such position.
    place = torch.where(differs.any(dim=-1), differs.int().argmax(dim=-1), columns - 1)
    divergent = entropy.gather(-1, place[:, None, None].expand(rows, responses, 1)).squeeze(-1)
    divergent = divergent.masked_fill(~differs.any(dim=-1)[:, None], float("nan"))
    return entropy[..., 0], divergent


def score_rows(
    rows: Any,
    *,
    forward: Callable[[Mapping[str, Tensor]], ResponseScores],
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    batch_size: int,
    per_token: bool = False,
) -> ReferenceScores:
    """Score rows in batches that depend on nothing but these rows and the batch size.

    Rows are batched by falling length, so that little is padding and a batch that does not fit in memory fails first.

    Args:
        rows: Tokenised rows; a `datasets.Dataset` with `prompt_ids`, `chosen_ids`, `rejected_ids`.
        forward: From a batch to its scores, made with `per_token=True`.
        collate: From rows to a batch, such as `mallowspo.data.PreferenceCollator`.
        batch_size: Rows a batch.
        per_token: Keep every token's entropy.

    Returns:
        The scores, in the order of `rows`.
    """
    examples = list(rows)
    lengths = [len(r["prompt_ids"]) + max(len(r["chosen_ids"]), len(r["rejected_ids"])) for r in examples]
    order = np.argsort(np.negative(lengths), kind="stable")
    parts: list[tuple[Tensor, ...]] = []
    tokens: dict[int, tuple[NDArray[np.float32], ...]] = {}
    for start in range(0, len(examples), batch_size):
        chosen = [int(i) for i in order[start : start + batch_size]]
        batch = collate([examples[i] for i in chosen])
        scores = forward(batch)
        if scores.entropy_sum_bk is None:
            raise RuntimeError("the reference's head returned no entropies; the fused head of TRL has changed")
        landmarks = landmark_entropies(scores, batch["input_ids"].to(scores.logp_bk.device))
        columns = (scores.logp_bk, scores.entropy_sum_bk, scores.length_bk, *landmarks)
        parts.append(tuple(column.detach().cpu().double() for column in columns))
        if per_token:
            tokens |= dict(zip(chosen, _responses_tokens(scores), strict=True))
    columns_nk = []
    for column in zip(*parts, strict=True):
        in_order = torch.cat(column).numpy()
        values = np.empty_like(in_order)
        values[order] = in_order
        columns_nk.append(values)
    return ReferenceScores(
        columns_nk[0],
        columns_nk[1],
        columns_nk[2].astype(np.int64),
        columns_nk[3],
        columns_nk[4],
        tuple(tokens[i] for i in range(len(examples))) if per_token else None,
    )


def _responses_tokens(scores: ResponseScores) -> Sequence[tuple[NDArray[np.float32], ...]]:
    assert scores.token_entropy_bkt is not None and scores.token_mask_bkt is not None
    entropy, mask = scores.token_entropy_bkt.float().cpu().numpy(), scores.token_mask_bkt.cpu().numpy()
    return [tuple(e[m] for e, m in zip(e_kt, m_kt, strict=True)) for e_kt, m_kt in zip(entropy, mask, strict=True)]
