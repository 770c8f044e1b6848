"""What a run trains, and how, in the lines that its log begins with."""

from __future__ import annotations

from typing import Any

from accelerate.logging import get_logger

from mallowspo.dispersion.analysis import weights_hardly_differ
from mallowspo.training.adapters import reference_words

__all__ = ["log_run", "rows_filled_up", "run_lines", "run_remarks", "run_table_rows"]

logger = get_logger(__name__)


def log_run(trainer: Any) -> None:
    """Write `run_lines` to the log, and as warnings what is seldom meant."""
    for line in run_lines(trainer):
        logger.info(line)
    for remark in (*trainer.settings.remarks, *run_remarks(trainer)):
        logger.warning(remark)


def run_lines(trainer: Any) -> list[str]:
    """Objective and reference, the path that scores responses, and the dispersion.

    Args:
        trainer: A `MallowsPOTrainer`, ready to train.

    Returns:
        One line of the log each.
    """
    settings, scoring, calibration = trainer.settings, trainer.scoring, trainer.calibration
    reference = reference_words(trainer)
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


def run_remarks(trainer: Any) -> list[str]:
    """What the rows and the weights of a run make of it, where nobody may have meant that.

    Args:
        trainer: A `MallowsPOTrainer`, ready to train.

    Returns:
        One sentence each.
    """
    lines = []
    calibration = trainer.calibration
    if calibration is not None and weights_hardly_differ(calibration.weight_quantiles):
        low, high = calibration.weight_quantiles[0], calibration.weight_quantiles[-1]
        lines.append(
            f"the dispersion weights hardly differ (5-95%: {low:.3g} to {high:.3g}): this run is all but one with "
            + ("dispersion: none" if trainer.objective.link != "kendall" else "a single phi for all prompts")
        )
    args, config = trainer.args, trainer.accelerator.dataloader_config
    repeated = 0
    if config.even_batches and not args.dataloader_drop_last:
        size = args.train_batch_size // (args.world_size if config.split_batches else 1)
        repeated = rows_filled_up(len(trainer.train_dataset), batch_size=size, processes=args.world_size)
    if repeated:
        lines.append(
            f"{repeated} rows are trained on twice in every epoch: with {trainer.args.world_size} processes the last "
            "batch is filled up from the first rows, as in TRL; set dataloader_drop_last: true to leave that batch out"
        )
    return lines


def rows_filled_up(rows: int, *, batch_size: int, processes: int) -> int:
    """Rows with which accelerate fills up an epoch, so that every process has as many full batches.

    Args:
        rows: Of the data.
        batch_size: Of one process.
        processes: How many draw batches in turn; one alone may have a short last batch.

    Returns:
        Rows that an epoch sees twice.

    Example:
        >>> rows_filled_up(10, batch_size=4, processes=2), rows_filled_up(10, batch_size=4, processes=1)
        (6, 0)
    """
    return -rows % (batch_size * processes) if processes > 1 else 0


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
        rows.append(("dispersion", "none: every prompt has weight 1"))
        return [*rows, *(("note", remark) for remark in (*trainer.settings.remarks, *run_remarks(trainer)))]
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
    rows.append(("dispersion", text))
    return [*rows, *(("note", remark) for remark in (*trainer.settings.remarks, *run_remarks(trainer)))]
