"""What a run says: what it trains and how (log, table of the command), what is seldom meant, why it stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mallowspo.data.annotations import LOSS_COLUMNS
from mallowspo.dispersion import Calibration
from mallowspo.dispersion.analysis import weights_hardly_differ, worth_words
from mallowspo.errors import listed
from mallowspo.training.scoring_path import ScoringPath

if TYPE_CHECKING:
    from mallowspo.training.config import MallowsPOConfig
    from mallowspo.training.splits import PreparedSplit

__all__ = ["not_finite", "nothing_trained", "rows_filled_up", "run_lines", "run_remarks", "run_table_rows"]


def run_lines(
    args: MallowsPOConfig, scoring: ScoringPath, calibration: Calibration | None, *, reference: str, precomputed: bool
) -> list[str]:
    """The log's first lines: objective and reference, the path that scores responses, and the dispersion."""
    how = "scored once before training" if precomputed else "scored at every step"
    rows = "packed rows that share prompts" if scoring.shares_prompts else "padded rows"
    lines = [
        f"objective = {args.objective} ({args.resolved_objective.link} link); reference = {reference}, {how}",
        f"responses are scored in {rows} ({scoring.path}): {scoring.reason}",
    ]
    if calibration is not None:
        c = calibration
        lines.append(
            f"dispersion = {c.source}: scale {c.scale:.4g}, weight mean {c.weight_mean:.3f}, std "
            f"{c.weight_std:.3f}, {c.floored} rows floored, {c.clipped} clipped, of {c.rows}"
        )
    return lines


def run_remarks(
    args: MallowsPOConfig, calibration: Calibration | None, *, rows: int | None, dataloader_config: Any
) -> list[str]:
    """What options, training rows and weights make of a run, where nobody may have meant that."""
    lines = args.remarks
    if calibration is not None and weights_hardly_differ(calibration.weight_quantiles):
        low, high = calibration.weight_quantiles[0], calibration.weight_quantiles[-1]
        lines.append(
            f"the dispersion weights hardly differ (5-95%: {low:.3g} to {high:.3g}): this run is all but one with "
            + ("dispersion: none" if args.resolved_objective.link != "kendall" else "a single phi for all prompts")
        )
    repeated = 0
    if rows is not None and dataloader_config.even_batches and not args.dataloader_drop_last:
        size = args.train_batch_size // (args.world_size if dataloader_config.split_batches else 1)
        repeated = rows_filled_up(rows, batch_size=size, processes=args.world_size)
    if repeated:
        lines.append(
            f"{repeated} rows fill up the last batch of every epoch, with {args.world_size} processes; they weigh "
            "nothing there, where TRL trains on them twice"
        )
    return lines


def rows_filled_up(rows: int, *, batch_size: int, processes: int) -> int:
    """Rows that an epoch draws twice: accelerate fills up, so that every process has as many full batches."""
    # One process alone may have a short last batch.
    return -rows % (batch_size * processes) if processes > 1 else 0


def run_table_rows(
    args: MallowsPOConfig,
    splits: Mapping[str, PreparedSplit],
    sources: Mapping[str, str],
    scoring: ScoringPath,
    calibration: Calibration | None,
    *,
    rows: int | None,
    remarks: Sequence[str],
) -> list[tuple[str, str]]:
    """Label and text of each row of the command's table: the same as the log's, and what became of the rows."""
    table = [("objective", f"{args.objective} ({args.resolved_objective.link} link), beta {args.beta:g}")]
    for name, split in splits.items():
        reasons = ", ".join(f"{count:,} {kind}" for kind, count in split.dropped.items())
        lost = f" (left out {sum(split.dropped.values()):,}: {reasons})" if reasons else ""
        cut = f"cut at max_length: {split.truncated['chosen']:,} chosen, {split.truncated['rejected']:,} rejected"
        table.append((f"{name} rows", f"{_count(split)}{lost}; {cut}"))
    table += [(f"column {name}", text) for name, text in _loss_columns(args, splits)]
    table += [(f"reference, {name}", source) for name, source in sources.items()]
    table.append(("scoring", f"{scoring.path}: {scoring.reason}"))
    if calibration is None:
        table.append(("dispersion", "none: every prompt has weight 1"))
    else:
        low, high = args.dispersion_filter
        if args.dispersion_order != "none" or (low, high) != (0.0, 1.0):
            order = args.dispersion_order.replace("_", " ")
            text = f"{rows:,} rows, quantiles {low:g} to {high:g} of the dispersion, order {order}"
            table.append(("trained on", text))
        low, high = calibration.weight_quantiles[0], calibration.weight_quantiles[-1]
        text = (
            f"{calibration.source}, per {calibration.per}; scale {calibration.scale:.4g}; weight mean "
            f"{calibration.weight_mean:.3f}, 5-95% {low:.2f} to {high:.2f}; {calibration.floored:,} floored, "
            f"{calibration.clipped:,} clipped"
        )
        table.append(("dispersion", text))
        if calibration.shrink is not None or calibration.power != 1:
            shrink = "" if calibration.shrink is None else f"shrink {calibration.shrink:.3g}, "
            table.append(("weights", f"{shrink}power {calibration.power:g}"))
        if calibration.worth is not None:
            table.append(("worth", worth_words(calibration.worth)))
    return [*table, *(("note", remark) for remark in remarks)]


def _count(split: PreparedSplit) -> str:
    if split.known is split.dataset:
        return f"{len(split.dataset):,}"
    return f"read while they are trained on; of the first {split.rows_read:,}: {len(split.known):,}"


def _loss_columns(args: MallowsPOConfig, splits: Mapping[str, PreparedSplit]) -> list[tuple[str, str]]:
    """What the training data's own columns do to the loss of their row."""
    rows = splits["train"].known if "train" in splits else None
    effects = {
        "margin": "the margin of its row",
        "beta": f"takes the place of beta {args.beta:g} in its row",
        "loss_weight": "the loss of its row is multiplied by it, divided by its mean",
    }
    found = []
    for name in LOSS_COLUMNS:
        if rows is not None and name in rows.column_names:
            values = np.asarray(rows[name][:], np.float64)
            span = f"{values.min():.4g} to {values.max():.4g}, mean {values.mean():.4g}"
            found.append((name, f"{span}: {effects[name]}"))
    return found


def nothing_trained(log_history: Sequence[Mapping[str, Any]], *, steps: int) -> str | None:
    """Why a run that has ended left its model as it was; None where it did not, or where the log cannot tell."""
    if steps == 0:
        return "the run has 0 steps"
    logged = [entry for entry in log_history if "loss" in entry]
    # The rate of the last step of a schedule is 0, so all of several must be.
    if logged and all(entry.get("learning_rate") == 0 for entry in logged) and (len(logged) > 1 or steps > 1):
        return "the learning rate was 0 throughout"
    if logged and all(entry.get("grad_norm") == 0 for entry in logged):
        return "every logged gradient was 0"
    return None


def not_finite(
    loss_b: Tensor, row_index_b: Tensor | None, broken: Sequence[str], *, step: int, output_dir: Any
) -> str:
    """What stopped a run whose losses are NaN or infinite: the rows, and why, by the weights that are `broken` too."""
    bad = torch.nonzero(~torch.isfinite(loss_b)).flatten().tolist()
    rows = f"{len(bad)} rows of unknown position"
    if row_index_b is not None:
        rows = listed([f"row {int(row_index_b[i]) + 1:,} (loss {loss_b[i].item()})" for i in bad], 10)
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
    return (
        f"loss is not finite after {step:,} steps, for {rows}\n"
        f"{reason}\nNothing of this step was applied; checkpoints in {output_dir} are as they were."
    )
