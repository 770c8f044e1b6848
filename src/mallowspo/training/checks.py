"""What stops a run: a loss that is not a number, named down to the rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mallowspo.errors import NonFiniteLossError

__all__ = ["nothing_trained", "require_finite"]


def nothing_trained(log_history: list[dict[str, Any]], *, steps: int) -> str | None:
    """Why a run that has ended left its model as it was.

    Args:
        log_history: What the run has logged.
        steps: Optimiser steps, those before a resumed run included.

    Returns:
        Half a sentence; None where something was trained, or where the log cannot tell.

    Example:
        >>> nothing_trained([{"loss": 0.7, "grad_norm": 0.0, "learning_rate": 1e-6}], steps=1)
        'every logged gradient was 0'
    """
    if steps == 0:
        return "the run has 0 steps"
    logged = [entry for entry in log_history if "loss" in entry]
    # The rate of the last step of a schedule is 0, so all of several must be.
    if logged and all(entry.get("learning_rate") == 0 for entry in logged) and (len(logged) > 1 or steps > 1):
        return "the learning rate was 0 throughout"
    if logged and all(entry.get("grad_norm") == 0 for entry in logged):
        return "every logged gradient was 0"
    return None


def require_finite(loss_b: Tensor, row_index_b: Tensor | None, model: Any, *, step: int, output_dir: str) -> None:
    """Raise when a pair's loss is NaN or infinite, before a gradient of it reaches the weights.

    Args:
        loss_b: Losses, shape (B,).
        row_index_b: Position of each row in the source, from 0, shape (B,); None where unknown.
        model: Looked into only after a failure: are its weights still finite?
        step: Optimiser steps done so far.
        output_dir: Where the checkpoints are.

    Raises:
        NonFiniteLossError: Names the rows and the likely reason.

    Example:
        >>> try:
        ...     require_finite(torch.tensor([0.7, float("nan")]), torch.tensor([3, 8]), torch.nn.Linear(1, 1), step=5,
        ...                    output_dir="out")
        ... except NonFiniteLossError as error:
        ...     print(str(error).splitlines()[0])
        loss is not finite after 5 steps, for row 9 (loss nan)
    """
    finite = torch.isfinite(loss_b)
    if bool(finite.all()):
        return
    bad = torch.nonzero(~finite).flatten().tolist()
    numbers = [None] * len(loss_b) if row_index_b is None else [int(i) + 1 for i in row_index_b.tolist()]
    named = ", ".join(f"row {numbers[i]:,} (loss {loss_b[i].item()})" for i in bad[:10] if numbers[i] is not None)
    more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
    broken = [name for name, value in model.named_parameters() if not bool(torch.isfinite(value).all())]
    if broken:
        reason = (
            f"The model's weights are already not finite (first: {broken[0]}), so the step before this one broke them "
            "and the rows of this batch are not to blame. Lower learning_rate, add warmup_steps, or set max_grad_norm."
        )
    else:
        reason = (
            "The model's weights are finite, so these rows cause it: look at their text, weight and margin; half "
            "precision can also overflow, try bf16: false and fp16: false."
        )
    raise NonFiniteLossError(
        f"loss is not finite after {step:,} steps, for {named or f'{len(bad)} rows of unknown position'}{more}\n"
        f"{reason}\nNothing of this step was applied; checkpoints in {output_dir} are as they were."
    )
