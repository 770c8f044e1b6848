"""What all training runs of a study share: nothing is logged, saved or printed, and the last loss is read off."""

from __future__ import annotations

from typing import Any

__all__ = ["QUIET", "final_loss", "train_quietly"]

QUIET: dict[str, Any] = {
    # The reference is frozen: scoring it once gives the same loss as scoring it at every step, for every method.
    "precompute_ref_log_probs": True,
    "gradient_checkpointing": False,
    "save_strategy": "no",
    "logging_strategy": "no",
    "displacement_alarm": float("inf"),  # every policy is measured; a warning a run would drown the progress bar
    "report_to": "none",
    "disable_tqdm": True,
}
"""Options of `MallowsPOConfig` that no study varies."""


def train_quietly(trainer: Any) -> Any:
    """Train without printing a line of logs.

    Args:
        trainer: A `MallowsPOTrainer`.

    Returns:
        The same trainer.
    """
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer


def final_loss(trainer: Any) -> float:
    """Mean loss over a run, nats; NaN before it has trained.

    Args:
        trainer: A trainer after `train`.
    """
    losses = [entry["train_loss"] for entry in trainer.state.log_history if "train_loss" in entry]
    return float(losses[-1]) if losses else float("nan")
