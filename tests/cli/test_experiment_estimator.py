"""`mallowspo experiment estimator` as its users call it."""

import pytest

from mallowspo.cli.main import main
from mallowspo.studies import study
from mallowspo.studies.estimator.study import ESTIMATOR


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(["experiment", "estimator", *arguments])
    return stop.value.code


def test_options_change_what_is_run(capsys, monkeypatch):
    ran = []
    monkeypatch.setattr(study, "run_study", lambda declared, settings, progress: ran.append((declared, settings)))
    given = ["--conditions", "careless, style_all+careless", "--downstream", "none", "--model_name_or_path", "M",
             "--votes", "a=b.json", "--votes", "c=d=e.json", "--trust_remote_code", "--workers", "2"]  # fmt: skip
    assert run(*given, "--seeds", "3", "--output_dir", "here") == 0
    assert "here/report.html" in capsys.readouterr().out
    declared, settings = ran[0]
    assert declared is ESTIMATOR and settings.output_dir == "here" and settings.seeds == (1, 2, 3)
    assert settings.conditions == ("careless", "style_all+careless") and settings.downstream_conditions == ()
    assert (settings.model, settings.data) == ("M", {"a": "b.json", "c": "d=e.json"})
    assert settings.trust_remote_code and settings.workers == 2
    assert run("--fast") == 0 and ran[1][1] == ESTIMATOR.presets["fast"]("output/estimator")
    assert run() == 0 and ran[2][1] == ESTIMATOR.presets["default"]("output/estimator")


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
