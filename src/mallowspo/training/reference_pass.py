"""One pass of the reference model over a tokenised split: log-probability, entropy and length of every response."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from accelerate.utils import tqdm
from torch.utils.data import DataLoader

from mallowspo.compat import add_score_head, reference_model

__all__ = ["reference_columns", "vocabulary_size"]


def vocabulary_size(model: Any) -> int:
    """Last axis of a model's logits, padding rows included; it normalises entropies.

    Args:
        model: A causal language model, wrapped or not.

    Returns:
        |V|.
    """
    head = model.get_output_embeddings()
    # Sharded engines leave an empty weight behind, but the layer still knows its size.
    return int(getattr(head, "out_features", 0) or head.weight.shape[0])


def reference_columns(trainer: Any, dataset: Any, name: str, batch_size: int) -> dict[str, np.ndarray]:
    """Score every pair of a split with the reference.

    Args:
        trainer: A `TRLPreferenceTrainer` whose model and reference are set up.
        dataset: Tokenised rows.
        name: The split, shown on the progress bar.
        batch_size: Pairs a batch on each process.

    Returns:
        `ref_{chosen,rejected}_{logps,entropy,length}`: float64 arrays of shape (N,); nats, nats, tokens.
    """
    if trainer.ref_model is not None:
        # TRL's own patch of a separate reference computes log-probabilities only.
        add_score_head(trainer.accelerator.unwrap_model(trainer.ref_model))
    # Longest first: little padding, and a batch that does not fit fails at once instead of after an hour.
    longest_n = [
        len(prompt) + max(len(chosen), len(rejected))
        for prompt, chosen, rejected in zip(
            dataset["prompt_ids"], dataset["chosen_ids"], dataset["rejected_ids"], strict=True
        )
    ]
    order_n = np.argsort(np.negative(longest_n), kind="stable")
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
    hide = trainer.args.disable_tqdm or bool(os.environ.get("TQDM_DISABLE", ""))
    for batch in tqdm(iterable=loader, desc=f"Reference scores of {name}", disable=hide):
        with reference_model(trainer, before_training=True) as model, trainer.accelerator.autocast():
            scores = trainer.scoring.score_all(model, batch)
        if scores.entropy_sum_bk is None:
            raise RuntimeError("the reference's head returned no entropies; the fused head of TRL has changed")
        batch_values = torch.cat([scores.logp_bk, scores.entropy_sum_bk, scores.length_bk.to(scores.logp_bk)], dim=1)
        parts.append(trainer.accelerator.gather_for_metrics(batch_values).cpu())
    sorted_values = torch.cat(parts).double().numpy()
    values = np.empty_like(sorted_values)
    values[order_n] = sorted_values
    names = [f"ref_{side}_{what}" for what in ("logps", "entropy", "length") for side in ("chosen", "rejected")]
    return {column: values[:, i].copy() for i, column in enumerate(names)}
