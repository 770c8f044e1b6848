"""`mallowspo experiment controllable` as its users call it."""

import json
import sys

import pytest

from mallowspo.cli.main import main
from studies.controllable_inputs import write_classifier, write_policy, write_texts


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(["experiment", "controllable", *map(str, arguments)])
    return stop.value.code


@pytest.fixture
def given(tmp_path):
    return [
        "--model_name_or_path",
        write_policy(tmp_path / "policy"),
        "--dataset_name",
        write_texts(tmp_path / "texts.txt"),
        "--output_dir",
        tmp_path / "out",
        "--use_cpu",
        "--fast",
    ]


def test_it_writes_a_report_and_its_numbers(given, tmp_path, capsys):
    classifier = write_classifier(tmp_path / "classifier", ("joy", "anger"))
    options = ["--reward_model", classifier, "--reward_label", "joy", "--preferences", "bradley_terry"]
    assert run(*given, *options) == 0
    assert "<html" in (tmp_path / "out/report.html").read_text(encoding="utf-8")
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert len(results["runs"]) == 8 and results["learning_rate"]["chosen"] in (1e-4, 3e-4)
    assert results["facts"]["reward"] == f"probability of 'joy' by {classifier}"
    assert "report.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--betas", "a,b"], "betas: got 'a,b'"),
        (["--betas", "1"], "a frontier is a line"),
        (["--opening", "Never"], "no text that begins with 'Never'"),
        (["--preferences", "coin"], "'sign', 'bradley_terry'"),
        (["--response_tokens", "600", "--prompt_tokens", "16"], "512 positions"),
        (["--seeds", "0"], "--seeds"),
    ],
)
def test_a_mistake_is_answered_with_code_two(given, options, said, capsys):
    pytest.importorskip("vaderSentiment")
    fast = ["--fast"] if "--response_tokens" in options else []
    assert run(*(part for part in given if part not in fast), *options) == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err


def test_a_missing_package_is_answered_with_what_to_install(given, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    assert run(*given) == 2
    assert "pip install" in capsys.readouterr().err
