"""Everything that the reference store keeps of each response, and the one pass that reads it.

Shapes: `N` rows (`B` in a batch), each with K responses to one prompt; T tokens a padded row. Entropies are in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mallowspo.data.records import TOKEN_COLUMNS
from mallowspo.scoring.padded import ResponseScores

__all__ = ["ReferenceScores", "behind", "landmark_entropies", "longest_first", "score_batches", "score_rows"]

Floats = NDArray[np.float64]
Given = TypeVar("Given")
Made = TypeVar("Made")


def behind(work: Callable[[Given], Made], items: Iterable[Given]) -> Iterator[Made]:
    """`map(work, items)` with one item's work under way in a thread while the next item or its result is dealt with.

    Example:
        >>> list(behind(lambda number: number**2, range(4)))
        [0, 1, 4, 9]
    """
    with ThreadPoolExecutor(1) as thread:
        under_way: list[Future[Made]] = []  # one, but at the beginning
        for item in items:
            # Waiting first keeps two items in memory, not three, and an error of the work ends the loop here.
            made = [future.result() for future in under_way]
            under_way = [thread.submit(work, item)]
            yield from made
        yield from (future.result() for future in under_way)


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

    def take(self, rows_n: NDArray[np.integer[Any]]) -> ReferenceScores:
        """The scores of some rows, without the entropies of single tokens."""
        return ReferenceScores(*(getattr(self, item.name)[rows_n] for item in fields(self)[:-1]))


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
    order_n = longest_first(*([row[name] for row in examples] for name in TOKEN_COLUMNS))
    spans = (order_n[start : start + batch_size] for start in range(0, len(examples), batch_size))
    # A batch is put together while the one before it is scored.
    batches = behind(lambda span: collate([examples[i] for i in span]), spans)
    return score_batches(batches, order_n, forward=forward, per_token=per_token)


def longest_first(
    prompts: Iterable[Sequence[int]],
    chosen: Iterable[Sequence[int]],
    rejected: Iterable[Sequence[int]],
    *,
    lists: ArrayLike | None = None,
) -> NDArray[np.intp]:
    """Places of the rows by falling length; rows of one list stay together, as they share prompt and responses."""
    longest_n = np.array([len(p) + max(len(a), len(b)) for p, a, b in zip(prompts, chosen, rejected, strict=True)])
    if lists is None or len(longest_n) == 0:
        return np.argsort(-longest_n, kind="stable")
    _, list_n = np.unique(np.asarray(lists), return_inverse=True)
    longest_l = np.zeros(list_n.max() + 1, dtype=longest_n.dtype)
    np.maximum.at(longest_l, list_n, longest_n)
    return np.lexsort((np.arange(len(longest_n)), list_n, -longest_l[list_n]))


def score_batches(
    batches: Iterable[Mapping[str, Any]],
    order_n: NDArray[np.intp],
    *,
    forward: Callable[[Mapping[str, Tensor]], ResponseScores],
    gather: Callable[[Tensor], Tensor] | None = None,
    per_token: bool = False,
) -> ReferenceScores:
    """The pass of a reference: batches of the rows in `order_n` to the scores of all rows in their own order.

    `gather` joins what several processes computed of a batch, one row of a tensor a row; tokens are kept by one alone.
    """
    parts: list[NDArray[np.float64]] = []
    tokens: list[tuple[NDArray[np.float32], ...]] = []
    for batch in batches:
        scores = forward(batch)
        if scores.entropy_sum_bk is None:
            raise RuntimeError("the reference's head returned no entropies; the fused head of TRL has changed")
        landmarks = landmark_entropies(scores, batch["input_ids"].to(scores.logp_bk.device))
        kinds = (scores.logp_bk, scores.entropy_sum_bk, scores.length_bk, *landmarks)
        values = torch.stack([kind.detach().to(landmarks[0]) for kind in kinds], dim=1)
        parts.append((values if gather is None else gather(values)).cpu().numpy())
        if per_token:
            tokens += _responses_tokens(scores)
    in_order = np.concatenate(parts)
    scores_nck = np.empty_like(in_order)
    scores_nck[order_n] = in_order
    logp_nk, entropy_nk, length_nk, first_nk, divergent_nk = (part.copy() for part in scores_nck.swapaxes(0, 1))
    by_row = tuple(tokens[place] for place in np.argsort(order_n)) if per_token else None
    return ReferenceScores(logp_nk, entropy_nk, length_nk.astype(np.int64), first_nk, divergent_nk, by_row)


def _responses_tokens(scores: ResponseScores) -> list[tuple[NDArray[np.float32], ...]]:
    assert scores.token_entropy_bkt is not None and scores.token_mask_bkt is not None
    entropy, mask = scores.token_entropy_bkt.float().cpu().numpy(), scores.token_mask_bkt.cpu().numpy()
    return [tuple(e[m] for e, m in zip(e_kt, m_kt, strict=True)) for e_kt, m_kt in zip(entropy, mask, strict=True)]
