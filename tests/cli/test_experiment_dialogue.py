"""`mallowspo experiment dialogue` as its users call it."""

import json

import pytest

from dialogue_world import dialogue_world
from mallowspo.cli.main import main


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(["experiment", "dialogue", *arguments])
    return stop.value.code


def test_it_writes_a_report_and_its_numbers(tmp_path, capsys):
    data = [part for name, path in dialogue_world(tmp_path).items() for part in (f"--{name}", path)]
    out = tmp_path / "out"
    assert run("--fast", "--use_cpu", "--output_dir", str(out), *data) == 0
    found = json.loads((out / "results.json").read_text())
    assert set(found["tests"]) == {"test", "ood", "votes"} and found["judge"]["name"] == "heldout"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "MallowsPO-θ" in page and "heldout" in page
    assert "report.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--betas", "high"], "betas: got 'high'"),
        (["--methods", "theta"], "methods: got 'theta'"),
        (["--seeds", "0"], "--seeds"),
        (["--judge", "somebody", "--model_name_or_path", "tiny"], "judge: got 'somebody'"),
        (["--judge", "http://localhost:1/v1", "--model_name_or_path", "tiny"], "model-name"),
        (["--train_data", "nowhere.jsonl", "--model_name_or_path", "tiny"], "nowhere.jsonl"),
        (["--model_name_or_path", "./nowhere"], "nowhere"),
        (["--votes", "x"], "--votes"),
    ],
)
def test_a_mistake_is_answered_with_code_two_and_one_message(arguments, said, tmp_path, capsys):
    if "tiny" in arguments:
        arguments = [dialogue_world(tmp_path)["model_name_or_path"] if a == "tiny" else a for a in arguments]
    assert run("--fast", "--output_dir", str(tmp_path / "out"), *arguments) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
