"""`mallowspo quickstart` as its users call it."""

import json
from dataclasses import replace

import pytest

from mallowspo.cli.main import main
from mallowspo.studies.world.study import WORLD
from mallowspo.world.reference import ReferenceTraining


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return stop.value.code


def test_it_writes_a_report_and_its_numbers(tmp_path, capsys, monkeypatch):
    """The study that is begun is a smaller one; the whole of it runs in `studies/test_world.py`."""
    out = str(tmp_path / "out")
    fast = WORLD.presets["quickstart_fast"](out)
    reference = ReferenceTraining(hidden_size=32, layers=1, steps=10)
    small = replace(fast, setup=replace(fast.setup, train_prompts=48, reference=reference))
    monkeypatch.setitem(WORLD.presets, "quickstart_fast", {out: small}.__getitem__)
    assert run("quickstart", "--fast", "--output_dir", str(tmp_path / "out")) == 0
    assert "<html" in (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "out/results.json").read_text())["index"]
    assert "report.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["quickstart", "--outputdir", "x"], "--outputdir"),
        (["quickstart", "--seeds", "none"], "--seeds"),
        (["quickstart", "--seeds", "0"], "--seeds"),
        (["quickstrat"], "quickstrat"),
    ],
)
def test_a_mistake_is_answered_with_code_two(arguments, said, capsys):
    assert run(*arguments) == 2
    assert said in capsys.readouterr().err


def test_an_output_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("quickstart", "--fast", "--output_dir", str(tmp_path / "file")) == 2
    assert "is a file" in capsys.readouterr().err


def test_version(capsys):
    assert run("--version") == 0 and "mallowspo 0.1.0" in capsys.readouterr().out
