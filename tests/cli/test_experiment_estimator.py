"""`mallowspo experiment estimator` as its users call it."""

import json

import pytest

from mallowspo.cli.main import main
from mallowspo.experiments.estimator_indexes import INDEXES


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(["experiment", "estimator", *arguments])
    return stop.value.code


def test_the_fast_run_shows_every_part(tmp_path, capsys):
    assert run("--fast", "--output_dir", str(tmp_path / "out")) == 0
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert [row["condition"] for row in found["stress"]] == ["mixed_length", "style_agreed"]
    assert set(INDEXES) < set(found["stress"][0]["rank"]) and len(found["downstream"]) == 5
    assert found["people"] is None and len(found["paper"]) == 4
    assert "Verdict and limits" in (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert (tmp_path / "out/figures/ranks.png").stat().st_size > 10_000
    assert "report.html" in capsys.readouterr().out
    # Finished jobs are kept: the same command writes the same findings without training anything.
    log = (tmp_path / "out/references.jsonl").read_bytes()
    assert run("--fast", "--output_dir", str(tmp_path / "out")) == 0
    assert (tmp_path / "out/references.jsonl").read_bytes() == log
    again = json.loads((tmp_path / "out/results.json").read_text())
    assert again["stress"] == found["stress"] and again["downstream"] == found["downstream"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--conditions", "nowhere"], "nowhere"),
        (["--conditions", ""], "conditions"),
        (["--seeds", "0"], "--seeds"),
        (["--votes", "file.json"], "NAME=FILE"),
        (["--model_name_or_path", "M"], "model and data"),
        (["--votes", "a=b.json"], "model and data"),
        (["--output", "x"], "--output"),
    ],
)
def test_a_mistake_is_answered_with_code_two(arguments, said, capsys):
    assert run(*arguments) == 2
    assert said in capsys.readouterr().err
