"""One pass of the reference model over a tokenised split: log-probability, entropy and length of every response."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from accelerate.utils import tqdm
from torch.utils.data import DataLoader

from mallowspo.compat import add_score_head, reference_model
from mallowspo.data.records import LIST_COLUMN
from mallowspo.progress import current_lines
from mallowspo.scoring import landmark_entropies

__all__ = ["COLUMN_KINDS", "prepare_reference", "reference_columns"]

# What the pass keeps of each response, in the names of its columns: `ref_chosen_logps`, `ref_rejected_logps`, ...
COLUMN_KINDS = ("logps", "entropy", "length", "first_entropy", "divergent_entropy")

_MARK = "_mallowspo_score_head"


def prepare_reference(trainer: Any) -> None:
    """Give a separate reference model the head that computes entropies; TRL's own patch of it does not.

    Args:
        trainer: A `TRLPreferenceTrainer`.
    """
    if trainer.ref_model is not None:
        model = trainer.accelerator.unwrap_model(trainer.ref_model)
        if not getattr(model, _MARK, False):
            add_score_head(model)
            setattr(model, _MARK, True)


def reference_columns(trainer: Any, dataset: Any, name: str, batch_size: int) -> dict[str, np.ndarray]:
    """Score every pair of a split with the reference.

    Args:
        trainer: A `TRLPreferenceTrainer` whose model and reference are set up.
        dataset: Tokenised rows.
        name: The split, shown on the progress bar.
        batch_size: Pairs a batch on each process.

    Returns:
        `ref_{chosen,rejected}_` and each of `COLUMN_KINDS`: float64 arrays of shape (N,); nats, and tokens for length.
    """
    prepare_reference(trainer)
    order_n = _longest_first(dataset)
    loader = trainer.accelerator.prepare(
        DataLoader(
            dataset.select(order_n),
            batch_size=batch_size,
            collate_fn=trainer.data_collator,
            num_workers=trainer.args.dataloader_num_workers,
            pin_memory=trainer.args.dataloader_pin_memory,
            shuffle=False,
        )
    )
    parts = []
    lines, stage = current_lines(), f"Reference scores of {name}"
    hide = trainer.args.disable_tqdm or bool(os.environ.get("TQDM_DISABLE", "")) or lines is not None
    for done, batch in enumerate(tqdm(iterable=loader, desc=stage, disable=hide)):
        if lines is not None:
            lines.show(stage, done, len(loader))
        with reference_model(trainer, before_training=True) as model:
            scores = trainer.scoring.score_all(model, batch, per_token=True)
        if scores.entropy_sum_bk is None:
            raise RuntimeError("the reference's head returned no entropies; the fused head of TRL has changed")
        landmarks = landmark_entropies(scores, batch["input_ids"])
        kinds = (scores.logp_bk, scores.entropy_sum_bk, scores.length_bk, *landmarks)
        batch_values = torch.cat([values.to(scores.logp_bk) for values in kinds], dim=1)
        parts.append(trainer.accelerator.gather_for_metrics(batch_values).cpu())
    if lines is not None:
        lines.show(stage, len(loader), len(loader), "batches")
    sorted_values = torch.cat(parts).double().numpy()
    values = np.empty_like(sorted_values)
    values[order_n] = sorted_values
    names = [f"ref_{side}_{what}" for what in COLUMN_KINDS for side in ("chosen", "rejected")]
    return {column: values[:, i].copy() for i, column in enumerate(names)}


def _longest_first(dataset: Any) -> np.ndarray:
    """Places of the rows: little padding, and a batch that does not fit fails at once instead of after an hour.

    The pairs of a ranked list share prompt and responses, so they stay together.
    """
    longest_n = np.array(
        [
            len(prompt) + max(len(chosen), len(rejected))
            for prompt, chosen, rejected in zip(
                dataset["prompt_ids"], dataset["chosen_ids"], dataset["rejected_ids"], strict=True
            )
        ]
    )
    if LIST_COLUMN not in dataset.column_names or len(longest_n) == 0:
        return np.argsort(-longest_n, kind="stable")
    _, list_n = np.unique(np.asarray(dataset[LIST_COLUMN]), return_inverse=True)
    longest_l = np.zeros(list_n.max() + 1, dtype=longest_n.dtype)
    np.maximum.at(longest_l, list_n, longest_n)
    return np.lexsort((np.arange(len(longest_n)), list_n, -longest_l[list_n]))
