"""The study `world`: the quick start's question over many worlds, methods and settings, with a split to choose on.

Every seed has a world, a corpus, a reference and pairs of its own, so that its intervals cover other worlds and not
only other pairs. From each reference every method is trained at every β and learning rate; settings are chosen on
selection prompts, and everything is measured on held-out prompts, exactly.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mallowspo.experiments.jobs import run_jobs
from mallowspo.experiments.study import open_folder, write_results
from mallowspo.experiments.world_study_config import WorldStudyConfig
from mallowspo.progress import Progress, silent

__all__ = ["run_world_study"]


def run_world_study(config: WorldStudyConfig | None = None, *, progress: Progress | None = None) -> dict[str, Any]:
    """Run the study and write `results.json`, figures and `report.html`; a study that was stopped goes on.

    With `workers` > 0, processes are started afresh: a script that calls this needs the usual
    `if __name__ == "__main__":`.

    Args:
        config: The settings; the defaults, about half an hour of one core, where None.
        progress: Called as the work goes on; see `mallowspo.progress.progress_bar`.

    Returns:
        The findings, as in `results.json`; see `mallowspo.experiments.world_study_summary.summarise_study`.

    Raises:
        InputError: The settings cannot be used, or `output_dir` is a file.
    """
    from mallowspo.experiments.world_study_report import write_world_report
    from mallowspo.experiments.world_study_runs import prepare_world, run_world_job
    from mallowspo.experiments.world_study_summary import summarise_study

    config = config or WorldStudyConfig()
    report = progress or silent
    folder = open_folder(config.setup.output_dir)
    stage = "Training the references"
    for done, seed in enumerate(config.seeds):
        report(stage, done, len(config.seeds))
        prepare_world(config.setup, seed)
    report(stage, len(config.seeds), len(config.seeds))
    runs = run_jobs(
        run_world_job,
        config.setup,
        config.jobs,
        folder / "jobs.jsonl",
        workers=config.workers,
        progress=report,
        stage="Training the policies",
    )
    _tidy(config)
    stored = write_results(folder, {"config": asdict(config), **summarise_study(config, runs)})
    write_world_report(folder, stored)
    report("Writing the report", 1, 1)
    return stored


def _tidy(config: WorldStudyConfig) -> None:
    """Remove the folders that the trainer makes and, as nothing is saved, leaves empty."""
    import contextlib

    for seed in config.seeds:
        with contextlib.suppress(OSError):
            (Path(config.setup.of_seed(seed).output_dir) / "runs").rmdir()
