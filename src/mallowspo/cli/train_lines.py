"""Training told in lines, for a log that nobody watches: transformers' bar would fill it with carriage returns."""

from __future__ import annotations

import json
import sys
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from mallowspo.progress import current_lines

__all__ = ["report_in_lines"]


class _Lines(TrainerCallback):
    """Steps and evaluations as stages of the command's lines; what is logged as one line each."""

    def __init__(self) -> None:
        self._evaluated = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say that it begins, and at which step."""
        self._show("Training", state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count a step."""
        self._show("Training", state.global_step, state.max_steps)

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **_: Any) -> None:
        """Count a batch of an evaluation."""
        self._evaluated += 1
        total = len(eval_dataloader) if hasattr(eval_dataloader, "__len__") else 0
        self._show(f"Evaluating after step {state.global_step}", self._evaluated, total)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin to count anew."""
        self._evaluated = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Print what is logged."""
        if logs and state.is_world_process_zero:
            values = {
                name: float(f"{value:.4g}") if isinstance(value, float) else value
                for name, value in logs.items()
                if name != "total_flos"
            }
            sys.stderr.write(f"step {state.global_step}: {json.dumps(values, default=str)}\n")

    def _show(self, stage: str, done: int, total: int) -> None:
        lines = current_lines()
        if lines is not None:
            lines.show(stage, done, total)


def report_in_lines(trainer: Any) -> None:
    """Put lines in the place of a trainer's bar or printed logs.

    Args:
        trainer: Before it trains.
    """
    for kind in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(kind)
    trainer.add_callback(_Lines())
