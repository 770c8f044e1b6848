"""The quick start: does it help to know how much people agree, in a small world where the truth is known?

It writes a corpus with the embedded world's population, trains a tiny Llama on it, and from that one reference trains
DPO, MallowsPO-θ, MallowsPO-φ and θ given the true index through `MallowsPOTrainer`, with equal budgets, over several
values of β, learning rates and seeds. Every policy is evaluated exactly. `results.json` holds all numbers,
`report.html` explains them.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mallowspo.experiments.quickstart_config import METHODS, Job, QuickstartConfig, fast_config
from mallowspo.files import parse_json, write_json, write_text
from mallowspo.outputs import writable_folder
from mallowspo.progress import Progress, silent

__all__ = ["METHODS", "QuickstartConfig", "fast_config", "run_quickstart"]


def run_quickstart(config: QuickstartConfig | None = None, *, progress: Progress | None = None) -> dict[str, Any]:
    """Run the study and write `results.json`, figures, `report.html`, the reference model and one seed's pairs.

    With `workers` > 0, processes are started afresh: a script that calls this needs the usual
    `if __name__ == "__main__":`.

    Args:
        config: The settings; the defaults, about four minutes on two cores, where None.
        progress: Called as the work goes on; see `mallowspo.progress.progress_bar`.

    Returns:
        The findings, as in `results.json`; see `mallowspo.experiments.quickstart_summary.summarise`.

    Raises:
        InputError: The settings cannot be used, or `output_dir` is a file.
    """
    from mallowspo.experiments.quickstart_report import write_quickstart_report
    from mallowspo.experiments.quickstart_runs import make_reference, open_bench
    from mallowspo.experiments.quickstart_summary import summarise

    config = config or QuickstartConfig()
    report = progress or silent
    folder = writable_folder(config.output_dir, "output_dir")
    started = time.perf_counter()
    seconds: dict[str, float] = {}
    with _pool(config) as pool:
        make_reference(config, report)
        seconds["reference"] = time.perf_counter() - started
        runs = _run_all(config, pool, report)
        seconds["runs"] = time.perf_counter() - started - seconds["reference"]
    with contextlib.suppress(OSError):
        (folder / "runs").rmdir()  # the trainer makes it and, as nothing is saved, leaves it empty
    bench = open_bench(config)
    _write_pairs(bench, folder / "preferences.jsonl")
    results: dict[str, Any] = {"config": asdict(config), **summarise(bench, runs)}
    seconds["total"] = time.perf_counter() - started
    results["seconds"] = seconds
    results["peak_memory_gb"] = _peak_memory_gb(config.workers)
    write_json(folder / "results.json", results)
    # The report is made from what was written, so that it can be made again from the file.
    stored: dict[str, Any] = parse_json((folder / "results.json").read_text(encoding="utf-8"))
    write_quickstart_report(folder, stored)
    report("Writing the report", 1, 1)
    return stored


@contextlib.contextmanager
def _pool(config: QuickstartConfig) -> Iterator[ProcessPoolExecutor | None]:
    """Start the worker processes; they import their libraries while the reference is trained."""
    if config.workers == 0:
        yield None
        return
    # Spawned, not forked: a fork of a process whose torch has started threads may hang.
    context = multiprocessing.get_context("spawn")
    workers = min(config.workers, len(config.jobs))
    with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
        for _ in range(workers):
            pool.submit(_warm_up)
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _warm_up() -> None:
    """Import what the runs need."""
    import mallowspo.training  # noqa: F401


_BENCHES: dict[QuickstartConfig, Any] = {}  # of this worker process: it opens its bench with its first job


def _run_in_worker(config: QuickstartConfig, job: Job) -> dict[str, Any]:
    from mallowspo.experiments.quickstart_runs import open_bench, run_job

    if config not in _BENCHES:
        _BENCHES[config] = open_bench(config)
    return run_job(_BENCHES[config], job)


def _run_all(config: QuickstartConfig, pool: ProcessPoolExecutor | None, report: Progress) -> list[dict[str, Any]]:
    """Run every job; the results come in the order of the jobs, whoever ran them."""
    from mallowspo.experiments.quickstart_runs import open_bench, run_job

    stage, jobs = "Training the policies", config.jobs
    report(stage, 0, len(jobs))
    if pool is None:
        bench, results = open_bench(config), []
        for done, job in enumerate(jobs, start=1):
            results.append(run_job(bench, job))
            report(stage, done, len(jobs))
        return results
    futures: list[Future[dict[str, Any]]] = [pool.submit(_run_in_worker, config, job) for job in jobs]
    for done, future in enumerate(as_completed(futures), start=1):
        future.result()  # a failed run ends the study here, with its own error
        report(stage, done, len(jobs))
    return [future.result() for future in futures]


def _write_pairs(bench: Any, path: Path) -> None:
    """Write the first seed's pairs as text, the layout that `mallowspo train` and `trl dpo` read."""
    from mallowspo.experiments.quickstart_runs import pairs_of_seed

    lines = []
    for pair in pairs_of_seed(bench, bench.config.seeds[0]):
        prompt = bench.world.train[pair.prompt]
        row = {
            "prompt": prompt.text,
            "chosen": f" {prompt.candidates[pair.chosen]}",
            "rejected": f" {prompt.candidates[pair.rejected]}",
        }
        lines.append(json.dumps(row, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def _peak_memory_gb(workers: int) -> float:
    """Upper bound of the memory that was in use at once: this process's peak and the largest worker's, each once."""
    unit = 1.0 if sys.platform == "darwin" else 1024.0  # ru_maxrss is in bytes there, in KiB elsewhere
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return (own + workers * child) * unit / 1e9
