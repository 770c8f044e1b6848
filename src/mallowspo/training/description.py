"""What a run trains, and how, in the lines that its log begins with."""

from __future__ import annotations

from typing import Any

from accelerate.logging import get_logger
from accelerate.utils import is_peft_model

__all__ = ["log_run", "run_lines", "run_table_rows"]

logger = get_logger(__name__)


def log_run(trainer: Any) -> None:
    """Write `run_lines` to the log."""
    for line in run_lines(trainer):
        logger.info(line)


def run_lines(trainer: Any) -> list[str]:
    """Objective and reference, the path that scores responses, and the dispersion.

    Args:
        trainer: A `MallowsPOTrainer`, ready to train.

    Returns:
        One line of the log each.
    """
    settings, scoring, calibration = trainer.settings, trainer.scoring, trainer.calibration
    if trainer.ref_model is not None:
        reference = "a separate model"
    elif is_peft_model(trainer.model):
        reference = "the policy with its adapter off"
    else:
        reference = "the policy before training"
    if not (trainer.objective.needs_reference or settings.reads_entropy):
        reference = "none"
    how = "scored once before training" if trainer.precompute_ref_logps else "scored at every step"
    rows = "packed rows that share prompts" if scoring.shares_prompts else "padded rows"
    lines = [
        f"objective = {settings.objective} ({trainer.objective.link} link); reference = {reference}, {how}",
        f"responses are scored in {rows} ({scoring.path}): {scoring.reason}",
    ]
    if calibration is not None:
        c = calibration
        lines.append(
            f"dispersion = {c.source}: scale {c.scale:.4g}, weight mean {c.weight_mean:.3f}, std "
            f"{c.weight_std:.3f}, {c.floored} rows floored, {c.clipped} clipped, of {c.rows}"
        )
    return lines


def run_table_rows(trainer: Any) -> list[tuple[str, str]]:
    """The same for a table in a terminal, with what became of the rows.

    Args:
        trainer: A `MallowsPOTrainer`, ready to train.

    Returns:
        Label and text of each row of the table.
    """
    objective, calibration = trainer.objective, trainer.calibration
    rows = [("objective", f"{trainer.settings.objective} ({objective.link} link), beta {trainer.beta:g}")]
    for name, split in trainer.splits.items():
        reasons = ", ".join(f"{count:,} {kind}" for kind, count in split.dropped.items())
        lost = f" (left out {sum(split.dropped.values()):,}: {reasons})" if reasons else ""
        cut = f"cut at max_length: {split.truncated['chosen']:,} chosen, {split.truncated['rejected']:,} rejected"
        rows.append((f"{name} rows", f"{len(split.dataset):,}{lost}; {cut}"))
    for name, source in trainer.reference_sources.items():
        rows.append((f"reference, {name}", source))
    rows.append(("scoring", f"{trainer.scoring.path}: {trainer.scoring.reason}"))
    if calibration is None:
        return [*rows, ("dispersion", "none: every prompt has weight 1")]
    low, high = trainer.settings.dispersion_filter
    if trainer.settings.dispersion_order != "none" or (low, high) != (0.0, 1.0):
        order = trainer.settings.dispersion_order.replace("_", " ")
        text = f"{len(trainer.train_dataset):,} rows, quantiles {low:g} to {high:g} of the dispersion, order {order}"
        rows.append(("trained on", text))
    low, high = calibration.weight_quantiles[0], calibration.weight_quantiles[-1]
    text = (
        f"{calibration.source}, per {calibration.per}; scale {calibration.scale:.4g}; weight mean "
        f"{calibration.weight_mean:.3f}, 5-95% {low:.2f} to {high:.2f}; {calibration.floored:,} floored, "
        f"{calibration.clipped:,} clipped"
    )
    return [*rows, ("dispersion", text)]
