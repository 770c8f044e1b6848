"""Jobs run once, whoever runs them and however often a study is stopped."""

import json
from dataclasses import dataclass

import pytest

from mallowspo.errors import InputError
from mallowspo.experiments.jobs import run_jobs
from mallowspo.experiments.study import open_folder, write_results


@dataclass(frozen=True)
class Shared:
    folder: str
    factor: float = 1.0


@dataclass(frozen=True)
class Job:
    x: int


def work(shared, job):
    """Leaves a mark of every run; a job of 3 fails while a file says so."""
    from pathlib import Path

    folder = Path(shared.folder)
    if job.x == 3 and (folder / "fail").exists():
        raise RuntimeError("stopped")
    with (folder / "ran").open("a") as marks:
        marks.write(f"{job.x}\n")
    return {"y": shared.factor * job.x, "nothing": float("nan")}


def ran(tmp_path):
    return sorted((tmp_path / "ran").read_text().split())


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_the_order_of_the_jobs_and_every_job_runs_once(tmp_path, workers):
    seen = []
    jobs = [Job(2), Job(1), Job(2)]
    found = run_jobs(
        work, Shared(str(tmp_path)), jobs, tmp_path / "jobs.jsonl", workers=workers,
        progress=lambda *a: seen.append(a), stage="s",
    )  # fmt: skip
    assert found == [{"y": 2.0, "nothing": None}, {"y": 1.0, "nothing": None}, {"y": 2.0, "nothing": None}]
    assert ran(tmp_path) == ["1", "2"]
    assert seen[0] == ("s", 0, 2) and seen[-1] == ("s", 2, 2)


def test_a_stopped_study_goes_on_where_it_was(tmp_path):
    shared, log = Shared(str(tmp_path)), tmp_path / "jobs.jsonl"
    (tmp_path / "fail").touch()
    with pytest.raises(RuntimeError, match="stopped"):
        run_jobs(work, shared, [Job(1), Job(3), Job(4)], log)
    (tmp_path / "fail").unlink()
    assert [r["y"] for r in run_jobs(work, shared, [Job(1), Job(3), Job(4)], log)] == [1, 3, 4]
    assert ran(tmp_path) == ["1", "3", "4"]


def test_what_all_jobs_share_is_part_of_every_key(tmp_path):
    log = tmp_path / "jobs.jsonl"
    assert run_jobs(work, Shared(str(tmp_path)), [Job(2)], log)[0]["y"] == 2
    assert run_jobs(work, Shared(str(tmp_path), factor=5.0), [Job(2)], log)[0]["y"] == 10


def test_what_cannot_be_used_is_refused(tmp_path):
    with pytest.raises(InputError, match="workers: got -1"):
        run_jobs(work, Shared(str(tmp_path)), [], tmp_path / "jobs.jsonl", workers=-1)
    (tmp_path / "file").touch()
    for name in ("file", "file/inside"):
        with pytest.raises(InputError, match="output_dir"):
            open_folder(str(tmp_path / name))


def test_results_say_where_they_come_from(tmp_path):
    stored = write_results(open_folder(str(tmp_path / "a" / "b")), {"x": float("inf")})
    assert stored["x"] is None and set(stored["provenance"]) == {"date", "machine", "versions"}
    assert stored == json.loads((tmp_path / "a" / "b" / "results.json").read_text())
