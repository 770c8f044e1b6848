"""`run.json`: what a training run was made of, and what came out."""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mallowspo.files import write_json
from mallowspo.versions import library_versions

__all__ = ["write_run_record"]


def write_run_record(
    trainer: Any,
    script_args: Any,
    model_args: Any,
    metrics: dict[str, Any],
    unparsable: dict[str, tuple[Any, ...]],
) -> Path:
    """Write `run.json` into the output folder.

    Args:
        trainer: A `MallowsPOTrainer` that has trained.
        script_args: TRL's `ScriptArguments`.
        model_args: TRL's `ModelConfig`.
        metrics: What `train` returned.
        unparsable: Lines of each split that could not be read, as `RowProblem`.

    Returns:
        The file's path.
    """
    from mallowspo.data.fingerprint import rows_fingerprint

    history = trainer.state.log_history
    last: dict[str, Any] = {}
    for entry in history:
        last |= entry
    record = {
        "format": 1,
        "versions": library_versions(),
        "machine": {"platform": platform.platform(), "device": str(trainer.accelerator.device)},
        "processes": trainer.accelerator.num_processes,
        "objective": {"preset": trainer.args.objective, **asdict(trainer.objective)},
        "config": trainer.args.to_dict(),
        "model": {"name_or_path": model_args.model_name_or_path, "peft": model_args.use_peft},
        "data": {
            "name": script_args.dataset_name,
            "fingerprint": rows_fingerprint(trainer.train_dataset, ["prompt_ids", "chosen_ids", "rejected_ids"]),
            "splits": {name: split.to_dict() for name, split in trainer.splits.items()},
            "unparsable_lines": {
                name: [problem.row_index + 1 for problem in lines[:1000]] for name, lines in unparsable.items()
            },
        },
        "calibration": None if trainer.calibration is None else trainer.calibration.to_dict(),
        "displacement": trainer.displacement.to_dict() if trainer.objective.needs_reference else None,
        "steps": trainer.state.global_step,
        "train_metrics": metrics,
        "final_metrics": last,
        "log_history": history,
    }
    path = Path(trainer.args.output_dir) / "run.json"
    if path.exists():
        written = datetime.fromtimestamp(path.stat().st_mtime, tz=UTC).strftime("%Y%m%dT%H%M%SZ")
        kept = path.with_name(f"run-{written}.json")
        path.rename(kept)
        sys.stderr.write(f"The record of an earlier run in this folder is kept as {kept.name}\n")
    write_json(path, record)
    return path
