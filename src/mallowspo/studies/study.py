"""What every study shares: a study is data and a few functions, and this runs it.

A study has stages, a stage has jobs. A job is a frozen dataclass of plain values, its result a mapping that JSON can
hold and that depends on the stage's setup and the job alone. Every finished job is a line of `jobs.jsonl` in the
study's folder, so that a study that was stopped goes on where it was, and one whose settings changed runs only what is
new. From the results come `results.json`, the figures and `report.html`; all of these can be made again from the file.

Processes that are given the same study and folder, on one machine or on several that see the folder, work on one list:
each claims the jobs that it runs, and takes over those of one that has died. All of them write the same report.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import importlib
import multiprocessing
import platform
import resource
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from mallowspo.errors import InputError
from mallowspo.evaluation.json_log import JsonLog, key_of
from mallowspo.files import parse_json, plain, write_json
from mallowspo.outputs import writable_folder
from mallowspo.progress import Progress, silent
from mallowspo.redaction import own_command
from mallowspo.reports.blocks import Report
from mallowspo.versions import library_versions

__all__ = ["Done", "Results", "Stage", "Study", "StudySettings", "run_study", "say", "work_on", "write_page"]

Results = dict[str, Any]
Done = Mapping[str, list[Results]]
"""The results of the stages before, by their names, each in the order of its jobs."""


class StudySettings(Protocol):
    """What every study's settings, a frozen dataclass, have among their fields."""

    @property
    def output_dir(self) -> str:
        """Folder for everything that is written."""

    @property
    def workers(self) -> int:
        """Processes that work side by side; 0 works in the calling one. It changes no result."""


S = TypeVar("S", bound=StudySettings)


def the_setup(setup: Any, job: Any, folder: Path) -> Any:
    """The bench of a stage whose jobs need nothing opened."""
    return setup


@dataclass(frozen=True)
class Stage(Generic[S]):
    """A step of a study: many jobs of one kind. `bench` and `work` belong to a module, so that processes find them."""

    name: str  # names the stage in the keys of finished jobs and in `Done`
    title: str  # what the progress says
    jobs: Callable[[S, Done], Sequence[Any]]  # from the settings and the stages before; there may be none
    setup: Callable[[S, Done], Any]  # to the frozen dataclass that all jobs depend on, part of their keys
    work: Callable[[Any, Any], Results]  # from the bench and a job to the job's result
    # From setup, job and folder to what jobs share: models, data. A process keeps the last one that it made.
    bench: Callable[[Any, Any, Path], Any] = the_setup
    shares: Callable[[Any], Hashable] = lambda job: None  # jobs with the same value share a bench
    # What a finished job has left on the disk; where one of these is gone the job runs again.
    files: Callable[[Any, Any, Path], Sequence[Path]] = lambda setup, job, folder: ()
    parallel: bool = True  # False for work that must stay in the calling process, such as calls of a server


@dataclass(frozen=True)
class Study(Generic[S]):
    """A study, declared."""

    name: str  # with `version` the key of finished work: a function that is renamed reruns nothing
    version: int  # raised where a change of the code changes results
    stages: Sequence[Stage[S]]  # in the order in which they run
    summarise: Callable[[S, Done], Results]  # to the findings, plain values for `results.json`
    figures: Callable[[Results], Mapping[str, Any]]  # from the findings to the figures, by name
    page: Callable[[Results], Report]  # names the figures with `mallowspo.reports.sections.picture`
    presets: Mapping[str, Callable[[str], S]]  # name to settings for a folder: `default`, `fast` and others
    imports: Sequence[str] = ("mallowspo.training",)  # of worker processes, while the first jobs run elsewhere
    finish: Callable[[S, Path, Results], None] | None = None  # leaves further files for the user


_LOOK_AGAIN = 1.0  # seconds until a process that waits for others reads again what they have done
_LISTENER: ContextVar[Progress] = ContextVar("_LISTENER", default=silent)


def say(what: str, done: int, total: int) -> None:
    """Tell how far a long job has come; in a worker process nobody listens."""
    _LISTENER.get()(what, done, total)


@contextlib.contextmanager
def _listening(report: Progress) -> Iterator[None]:
    before = _LISTENER.set(report)
    try:
        yield
    finally:
        _LISTENER.reset(before)


def run_study(study: Study[S], settings: S, *, progress: Progress | None = None) -> Results:
    """Run a study, or what is left of it, and write `results.json`, figures and `report.html`.

    With `workers` > 0 a script that calls this needs the usual `if __name__ == "__main__":`.
    """
    if settings.workers < 0:
        raise InputError(f"workers: got {settings.workers}, expected 0 or more")
    report, started = progress or silent, time.perf_counter()
    folder = writable_folder(settings.output_dir, "output_dir")
    folder.mkdir(parents=True, exist_ok=True)
    done: dict[str, list[Results]] = {}
    seconds: dict[str, float] = {}
    with _listening(report), JsonLog(folder / "jobs.jsonl", shared=True) as log:
        with _pool(settings.workers, study.imports) as pool:
            for stage in study.stages:
                begun = time.perf_counter()
                setup, jobs = stage.setup(settings, done), stage.jobs(settings, done)
                done[stage.name] = _run_stage(study, stage, setup, jobs, folder, log, pool, settings.workers, report)
                seconds[stage.name] = time.perf_counter() - begun
        with log.turn():  # one process after the other
            return _write_results(study, settings, folder, done, seconds, started, report)


def _write_results(
    study: Study[S], settings: S, folder: Path, done: Done, seconds: dict[str, float], started: float, report: Progress
) -> Results:
    """Write `results.json`, figures and `report.html`; give what the first holds."""
    findings = study.summarise(settings, done)
    # Seconds of this run alone: what an earlier run had finished took none of them.
    cost = {"seconds": {**seconds, "total": time.perf_counter() - started}, "peak_memory_gb": _peak(settings.workers)}
    origin = {
        "versions": library_versions(),
        "machine": platform.platform(),
        "date": datetime.date.today().isoformat(),
        "command": own_command(),
    }
    facts = {"study": study.name, "version": study.version, "config": asdict(settings)}  # type: ignore[call-overload]
    write_json(folder / "results.json", facts | findings | cost | {"provenance": origin})
    stored: Results = parse_json((folder / "results.json").read_text(encoding="utf-8"))
    if study.finish is not None:
        study.finish(settings, folder, stored)
    write_page(study, folder, stored)
    report("Writing the report", 1, 1)
    return stored


def write_page(study: Study[Any], folder: Path, results: Results) -> None:
    """Draw the figures and write `report.html` from what `results.json` holds."""
    from mallowspo.reports.figures import save_figure
    from mallowspo.reports.html import write_report
    from mallowspo.reports.text import format_duration

    for name, figure in study.figures(results).items():
        save_figure(figure, folder / "figures", name)
    page, made = study.page(results), results["provenance"]
    # Of the run, not of this process, which may write the page again long after.
    # A run that was stopped and went on took longer than its last start, which alone was timed.
    total = results["seconds"]["total"]
    timed = {} if total is None else {"Time of the last start": format_duration(total)}
    run = {"date": made["date"], "versions": made["versions"], "extra": {**timed, **page.meta.extra}}
    meta = replace(page.meta, command=made.get("command", ""), **run)
    write_report(folder / "report.html", replace(page, meta=meta))


def _peak(workers: int) -> float:
    """Upper bound of the memory that was in use at once: this process's peak and the largest worker's, each once."""
    unit = 1.0 if sys.platform == "darwin" else 1024.0  # ru_maxrss is in bytes there, in KiB elsewhere
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return (own + workers * child) * unit / 1e9


def _run_stage(
    study: Study[Any], stage: Stage[Any], setup: Any, jobs: Sequence[Any], folder: Path, log: JsonLog,
    pool: ProcessPoolExecutor | None, workers: int, report: Progress,
) -> list[Results]:  # fmt: skip
    """Run every job that the log does not hold yet; the results come in the order of the jobs, whoever ran them."""
    if not jobs:
        return []
    place = {"study": study.name, "version": study.version, "stage": stage.name, "setup": plain(asdict(setup))}
    keys = [key_of(**place, job=plain(asdict(job))) for job in jobs]
    found = {record["key"]: record["result"] for record in log.records if "key" in record}
    missing = {
        key: job
        for key, job in zip(keys, jobs, strict=True)
        if key not in found or not all(path.exists() for path in stage.files(setup, job, folder))
    }
    total, read = len(set(keys)), len(log.records)
    running: dict[Future[Results], str] = {}
    pool = pool if stage.parallel else None
    report(stage.title, total - len(missing), total)

    def catch_up() -> None:
        """Take in what others have finished."""
        nonlocal read
        log.refresh()
        news, read = log.records[read:], len(log.records)
        for record in news:
            if record.get("key") in missing and record["key"] not in running.values():
                found[record["key"]] = record["result"]
                del missing[record["key"]]
                report(stage.title, total - len(missing), total)

    def keep(key: str, result: Results) -> None:
        found[key] = plain(result)
        log.append({"key": key, "result": found[key]})
        del missing[key]
        log.release(key)
        report(stage.title, total - len(missing), total)

    def claimed() -> str | None:
        """The next job that nobody works on."""
        for key in list(missing):
            if key not in running.values() and log.claim(key):
                catch_up()  # it may have been finished since the log was read
                if key in missing:
                    return key
                log.release(key)
        return None

    while missing:
        key = None
        if pool is None:
            key = claimed()
            if key is not None:
                keep(key, work_on(stage, setup, folder, missing[key]))
        else:
            while len(running) < workers and (key := claimed()) is not None:
                running[pool.submit(_work, *_sent(stage, setup, folder, missing[key]))] = key
            for future in wait(running, _LOOK_AGAIN, FIRST_COMPLETED).done:
                keep(running.pop(future), future.result())
        if key is None and not running and missing:
            time.sleep(_LOOK_AGAIN)  # others have the rest
            catch_up()
    return [found[key] for key in keys]


_BENCH: dict[Any, Any] = {}  # of this process: the bench of its last job


def work_on(stage: Stage[Any], setup: Any, folder: Path, job: Any) -> Results:
    """Run one job in this process."""
    return _work(*_sent(stage, setup, folder, job))


def _sent(stage: Stage[Any], setup: Any, folder: Path, job: Any) -> tuple[Any, ...]:
    """What `_work` gets of a stage: that which a process can be sent."""
    return stage.work, stage.bench, stage.shares(job), setup, folder, job


def _work(
    work: Callable[[Any, Any], Results], bench: Callable[[Any, Any, Path], Any], shares: Hashable, setup: Any,
    folder: Path, job: Any,
) -> Results:  # fmt: skip
    """Run one job on the bench that is there or a new one."""
    place = (bench, setup, shares, folder)
    if _BENCH.get("place") != place:
        _BENCH.clear()
        _BENCH.update(place=place, bench=bench(setup, job, folder), fresh=True)
    result = work(_BENCH["bench"], job)
    if _BENCH["fresh"]:
        # A trainer collects garbage when it ends; what stays from one run to the next need not be searched each time.
        gc.collect()
        gc.freeze()
        _BENCH["fresh"] = False
    return result


@contextlib.contextmanager
def _pool(count: int, imports: Sequence[str]) -> Iterator[ProcessPoolExecutor | None]:
    """The processes of a study, if any; they import their libraries while the first stage runs elsewhere."""
    if not count:
        yield None
        return
    # Spawned, not forked: a fork of a process whose torch has started threads may hang.
    pool = ProcessPoolExecutor(max_workers=count, mp_context=multiprocessing.get_context("spawn"))
    try:
        for _ in range(count):
            pool.submit(_import_ahead, tuple(imports))
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _import_ahead(modules: Sequence[str]) -> None:
    for module in modules:
        importlib.import_module(module)
