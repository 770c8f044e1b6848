"""What every study shares: jobs run once, whoever runs them and however often a study is stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mallowspo.errors import InputError
from mallowspo.reports.blocks import Meta, Report, Section
from mallowspo.reports.markdown import render_markdown
from mallowspo.reports.sections import picture, table
from mallowspo.studies.study import Stage, Study, run_study


@dataclass(frozen=True)
class Setup:
    marks: str
    factor: float = 1.0


@dataclass(frozen=True)
class Settings:
    output_dir: str
    setup: Setup
    numbers: tuple[int, ...] = (2, 1, 2)
    workers: int = 0


@dataclass(frozen=True)
class Job:
    x: int


def open_bench(setup, job, folder):
    with (Path(setup.marks) / "opened").open("a") as marks:
        marks.write(f"{job.x % 2}\n")
    return setup, folder


def work(bench, job):
    """Leaves a mark of every run; a job of 3 fails while a file says so."""
    setup, folder = bench
    marks = Path(setup.marks)
    if job.x == 3 and (marks / "fail").exists():
        raise RuntimeError("stopped")
    with (marks / "ran").open("a") as ran:
        ran.write(f"{job.x}\n")
    (folder / f"{job.x}.bin").touch()
    return {"y": setup.factor * job.x, "nothing": float("nan")}


def square(bench, job):
    return {"y": job.x**2}


def numbers(settings, done):
    return [Job(x) for x in settings.numbers]


def planned(settings, done):
    """A stage may plan from the one before."""
    return [Job(int(result["y"])) for result in done["first"]]


def setup_of(settings, done):
    return settings.setup


def parity(job):
    return job.x % 2


def left(setup, job, folder):
    return [folder / f"{job.x}.bin"]


def summarise(settings, done):
    return {name: [result["y"] for result in results] for name, results in done.items()}


def figures(results):
    from mallowspo.reports.figures import new_figure

    return {"empty": new_figure(title="Nothing")[0]}


def page(results):
    shown = table(results["first"], {"y": lambda y: f"{y:g}"})
    section = Section("Numbers", [shown, picture("empty", "Nothing yet.")])
    return Report("A study", "It *works*.", [section], Meta(seeds=[1]), verdicts=shown)


def preset(output_dir):
    return Settings(output_dir, Setup(output_dir))


STUDY = Study(
    name="toy",
    version=1,
    stages=(
        Stage("first", "First", numbers, setup_of, work, bench=open_bench, shares=parity, files=left),
        Stage("second", "Second", planned, setup_of, square),
    ),
    summarise=summarise,
    figures=figures,
    page=page,
    presets={"default": preset},
    imports=(),
)


def ran(folder, name="ran"):
    return sorted((folder / name).read_text().split())


@pytest.fixture
def settings(tmp_path):
    return Settings(str(tmp_path / "out"), Setup(str(tmp_path)))


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_the_order_of_the_jobs_and_every_job_runs_once(tmp_path, settings, workers):
    seen = []
    found = run_study(STUDY, replace(settings, workers=workers), progress=lambda *call: seen.append(call))
    assert found["first"] == [2.0, 1.0, 2.0] and found["second"] == [4, 1, 4]
    assert ran(tmp_path) == ["1", "2"]
    assert seen[0] == ("First", 0, 2) and ("Second", 2, 2) in seen and seen[-1] == ("Writing the report", 1, 1)


def test_jobs_that_share_a_bench_open_it_once(tmp_path, settings):
    run_study(STUDY, replace(settings, numbers=(2, 4, 6, 1, 3)))
    assert ran(tmp_path, "opened") == ["0", "1"]


def test_a_stopped_study_goes_on_where_it_was(tmp_path, settings):
    settings = replace(settings, numbers=(1, 3, 4))
    (tmp_path / "fail").touch()
    with pytest.raises(RuntimeError, match="stopped"):
        run_study(STUDY, settings)
    (tmp_path / "fail").unlink()
    assert run_study(STUDY, settings)["first"] == [1, 3, 4]
    assert ran(tmp_path) == ["1", "3", "4"]


def test_what_a_job_left_is_looked_for_before_the_job_is_believed(tmp_path, settings):
    run_study(STUDY, settings)
    (tmp_path / "out/2.bin").unlink()
    run_study(STUDY, settings)
    assert ran(tmp_path) == ["1", "2", "2"]


def test_the_setup_and_the_version_are_part_of_every_key_and_the_name_of_a_function_is_not(tmp_path, settings):
    assert run_study(STUDY, settings)["first"][0] == 2
    assert run_study(STUDY, replace(settings, setup=replace(settings.setup, factor=5.0)))["first"][0] == 10
    again = replace(STUDY, stages=(replace(STUDY.stages[0], work=square), STUDY.stages[1]))
    assert run_study(again, settings)["first"] == [2.0, 1.0, 2.0], "a function's name reruns nothing"
    assert run_study(replace(again, version=2), settings)["first"] == [4, 1, 4]


def test_what_cannot_be_used_is_refused(tmp_path, settings):
    with pytest.raises(InputError, match="workers: got -1"):
        run_study(STUDY, replace(settings, workers=-1))
    (tmp_path / "file").touch()
    for name in ("file", "file/inside"):
        with pytest.raises(InputError, match="output_dir"):
            run_study(STUDY, replace(settings, output_dir=str(tmp_path / name)))


def test_results_say_where_they_come_from_and_the_page_says_what_they_hold(tmp_path, settings):
    stored = run_study(STUDY, settings)
    assert stored["study"] == "toy" and stored["version"] == 1 and stored["config"]["numbers"] == [2, 1, 2]
    assert set(stored["provenance"]) == {"command", "date", "machine", "versions"} and stored["seconds"]["total"] > 0
    assert stored == json.loads((tmp_path / "out/results.json").read_text())
    html = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "It <em>works</em>" in html and "data:image/svg+xml" in html and html.count("<table>") == 2
    assert (tmp_path / "out/figures/empty.png").is_file()
    text = render_markdown(page(stored), figures="toy/figures")
    assert "## Numbers" in text and "![Nothing yet.](toy/figures/empty.png)" in text and text.count("| y |") == 2


_TWO = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from dataclasses import dataclass, replace
from studies import test_study as t
from mallowspo.studies.study import run_study

def slow(bench, job):
    setup, folder = bench
    with (Path(setup.marks) / "ran").open("a") as ran:
        ran.write(f"{job.x}:{sys.argv[3]}\\n")
    while sys.argv[4] == "hang" and job.x == 2:
        time.sleep(0.05)
    time.sleep(0.1)
    return {"y": setup.factor * job.x}

if __name__ == "__main__":
    first = replace(t.STUDY.stages[0], work=slow, files=lambda setup, job, folder: ())
    settings = t.Settings(sys.argv[2] + "/out", t.Setup(sys.argv[2]), tuple(range(12)), workers=0)
    run_study(replace(t.STUDY, stages=(first,)), settings)
"""


def start(tmp_path, name, way):
    script = tmp_path / "two.py"
    script.write_text(_TWO)
    command = [sys.executable, str(script), str(Path(__file__).resolve().parent.parent), str(tmp_path), name, way]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finished(*processes):
    for process in processes:
        told = process.communicate(timeout=120)[1]
        assert process.returncode == 0, told


def jobs_by(tmp_path):
    pairs = [line.split(":") for line in ran(tmp_path)] if (tmp_path / "ran").exists() else []
    return [int(x) for x, _ in pairs], {who for _, who in pairs}


def test_two_processes_take_jobs_from_one_list_and_do_none_twice(tmp_path):
    finished(*(start(tmp_path, name, "on") for name in "ab"))
    jobs, workers = jobs_by(tmp_path)
    assert sorted(jobs) == list(range(12)) and workers == {"a", "b"}
    stored = json.loads((tmp_path / "out/results.json").read_text())
    assert stored["first"] == [float(x) for x in range(12)]


def test_the_job_of_a_process_that_was_killed_is_taken_over(tmp_path):
    dead = start(tmp_path, "a", "hang")
    deadline = time.monotonic() + 60
    while 2 not in jobs_by(tmp_path)[0]:
        assert time.monotonic() < deadline and dead.poll() is None
        time.sleep(0.05)
    alive = start(tmp_path, "b", "on")
    while len(jobs_by(tmp_path)[0]) < 12:  # b has done all others, and leaves alone what a holds
        assert time.monotonic() < deadline and alive.poll() is None
        time.sleep(0.05)
    time.sleep(1.5)
    assert alive.poll() is None and jobs_by(tmp_path)[0].count(2) == 1
    os.kill(dead.pid, signal.SIGKILL)
    dead.communicate()
    finished(alive)
    assert jobs_by(tmp_path)[0].count(2) == 2 and len(jobs_by(tmp_path)[0]) == 13
