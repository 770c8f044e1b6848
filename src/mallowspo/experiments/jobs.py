"""Run the jobs of a study side by side, and never run one twice.

A job is a frozen dataclass of plain values, its result a dictionary that JSON can hold. Every finished job is a line
of `jobs.jsonl` in the study's folder; a study that was stopped goes on where it was, and one whose settings changed
runs only what is new.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mallowspo.errors import InputError
from mallowspo.evaluation.json_log import JsonLog, key_of
from mallowspo.files import plain
from mallowspo.progress import Progress, silent

__all__ = ["run_jobs"]


def run_jobs(
    work: Callable[[Any, Any], dict[str, Any]],
    shared: Any,
    jobs: Sequence[Any],
    log: Path,
    *,
    workers: int = 0,
    progress: Progress | None = None,
    stage: str = "Running",
) -> list[dict[str, Any]]:
    """Run every job that the log does not hold yet.

    Args:
        work: A function of a module, called with (shared, job); its result must depend on these two alone.
        shared: A frozen dataclass that all jobs depend on; part of every job's key.
        jobs: Frozen dataclasses.
        log: The JSONL file of finished jobs; made where it is missing.
        workers: Processes, started afresh; 0 works in the calling process. It changes no result.
        progress: Called as jobs end.
        stage: What the progress bar says.

    Returns:
        One result per job, in their order, as JSON gives them back.

    Raises:
        InputError: `workers` is negative, or the log cannot be used.

    Example:
        >>> import tempfile
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Job:
        ...     x: int
        >>> log = Path(tempfile.mkdtemp()) / "jobs.jsonl"
        >>> run_jobs(lambda shared, job: {"y": job.x ** 2}, Job(0), [Job(2), Job(3)], log)
        [{'y': 4}, {'y': 9}]
    """
    if workers < 0:
        raise InputError(f"workers: got {workers}, expected 0 or more")
    report = progress or silent
    keys = [key_of(work=work.__qualname__, shared=plain(asdict(shared)), job=plain(asdict(job))) for job in jobs]
    with JsonLog(log) as file:
        found = {record["key"]: record["result"] for record in file.records if "key" in record}
        missing = {key: job for key, job in zip(keys, jobs, strict=True) if key not in found}
        done = len(set(keys)) - len(missing)
        report(stage, done, len(set(keys)))

        def keep(key: str, result: dict[str, Any]) -> None:
            nonlocal done
            file.append({"key": key, "result": plain(result)})
            done += 1
            report(stage, done, len(set(keys)))

        if workers == 0:
            for key, job in missing.items():
                keep(key, work(shared, job))
        elif missing:
            _run_in_processes(work, shared, missing, min(workers, len(missing)), keep)
        found = {record["key"]: record["result"] for record in file.records if "key" in record}
    return [found[key] for key in keys]


def _run_in_processes(
    work: Callable[[Any, Any], dict[str, Any]],
    shared: Any,
    missing: dict[str, Any],
    workers: int,
    keep: Callable[[str, dict[str, Any]], None],
) -> None:
    # Spawned, not forked: a fork of a process whose torch has started threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
        futures = {pool.submit(work, shared, job): key for key, job in missing.items()}
        try:
            for future in as_completed(futures):
                keep(futures[future], future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
