"""Is there an index that survives? The paper's check, every index under stress, its worth in training, and people.

Four parts, each with its own jobs or none: the check is exact; the references' readings and the policies are jobs that
run once; people's votes are compared by `mallowspo.experiments.estimator`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mallowspo.experiments.estimator import EstimatorConfig, run_estimator_study
from mallowspo.experiments.estimator_config import IndexStudyConfig, fast_config
from mallowspo.progress import Progress, silent

__all__ = ["IndexStudyConfig", "PeopleJob", "fast_config", "run_index_study", "run_people_job"]


def run_index_study(config: IndexStudyConfig | None = None, *, progress: Progress | None = None) -> dict[str, Any]:
    """Run the study and write `results.json`, figures and `report.html`.

    Finished references and policies are kept in the folder; the same settings go on where an earlier run stopped.

    Args:
        config: The settings; the defaults, about an hour on one core, where None.
        progress: Called as the work goes on.

    Returns:
        The findings, as in `results.json`: `paper`, `stress`, `survival`, `downstream`, `people`.

    Raises:
        InputError: The settings cannot be used, or `output_dir` is a file.
    """
    from mallowspo.experiments.estimator_paper import paper_check
    from mallowspo.experiments.estimator_report import write_estimator_report
    from mallowspo.experiments.estimator_summary import survival
    from mallowspo.experiments.study import open_folder, write_results

    config = config or IndexStudyConfig()
    report = progress or silent
    folder = open_folder(config.output_dir)
    stress, seconds = _stress(config, folder, report)
    downstream, more = _downstream(config, folder, report)
    results = {
        "config": asdict(config),
        "paper": paper_check(config.paper_sizes),
        "stress": stress,
        "survival": survival(stress),
        "downstream": downstream,
        "people": _people(config, folder, report),
        "cpu_seconds": seconds + more,
    }
    stored = write_results(folder, results)
    write_estimator_report(folder, stored)
    report("Writing the report", 1, 1)
    return stored


def _stress(config: IndexStudyConfig, folder: Path, report: Progress) -> tuple[list[dict[str, Any]], float]:
    from mallowspo.experiments.estimator_summary import judge_job, stress_summary
    from mallowspo.experiments.estimator_worlds import run_world_job
    from mallowspo.experiments.jobs import run_jobs
    from mallowspo.world.conditions import EXTRA_WORDS
    from mallowspo.world.language import word_tokenizer

    results = run_jobs(
        run_world_job, config.world, config.jobs, folder / "references.jsonl", workers=config.workers,
        progress=report, stage="Training references",
    )  # fmt: skip
    vocab_size = len(word_tokenizer(EXTRA_WORDS))
    judged = []
    for done, (job, result) in enumerate(zip(config.jobs, results, strict=True), start=1):
        judged.append(
            judge_job(
                config.world,
                job,
                result,
                vocab_size=vocab_size,
                alternatives=config.alternatives,
                voted=config.voted_prompts,
                members=config.members,
            )
        )
        report("Judging the indexes", done, len(config.jobs))
    return stress_summary(config.jobs, judged), sum(result["seconds"] for result in results)


def _downstream(config: IndexStudyConfig, folder: Path, report: Progress) -> tuple[list[dict[str, Any]], float]:
    from mallowspo.experiments.estimator_downstream import run_downstream_job
    from mallowspo.experiments.estimator_summary import downstream_summary
    from mallowspo.experiments.jobs import run_jobs

    if not config.downstream_conditions:
        return [], 0.0
    jobs = config.downstream_jobs
    results = run_jobs(
        run_downstream_job, config.downstream, jobs, folder / "downstream.jsonl", workers=config.workers,
        progress=report, stage="Training policies",
    )  # fmt: skip
    return downstream_summary(jobs, results), sum(result["seconds"] for result in results)


@dataclass(frozen=True)
class PeopleJob:
    """One data set of people's votes."""

    name: str


def run_people_job(config: EstimatorConfig, job: PeopleJob) -> dict[str, Any]:
    """Hold every index of a model against one data set.

    Args:
        config: Model and data sets.
        job: Which of them.

    Returns:
        The data set's findings, as `run_estimator_study` has them.
    """
    own = replace(config, data={job.name: config.data[job.name]}, output_dir=str(Path(config.output_dir) / job.name))
    found: dict[str, Any] = run_estimator_study(own)["data"][job.name]
    return found


def _people(config: IndexStudyConfig, folder: Path, report: Progress) -> dict[str, Any] | None:
    from mallowspo.experiments.jobs import run_jobs

    if config.model is None:
        return None
    people = EstimatorConfig(
        model=config.model,
        data=config.data,
        output_dir=str(folder / "people"),
        trust_remote_code=config.trust_remote_code,
    )
    jobs = [PeopleJob(name) for name in config.data]
    results = run_jobs(
        run_people_job, people, jobs, folder / "people.jsonl", progress=report, stage="Comparing with people"
    )
    return {"model": Path(config.model).name, "data": {job.name: row for job, row in zip(jobs, results, strict=True)}}
