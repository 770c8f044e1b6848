"""`mallowspo experiment world` as its users call it."""

import json
from dataclasses import replace

import pytest

from mallowspo.cli.main import main
from mallowspo.studies.world.study import WORLD
from mallowspo.world.reference import ReferenceTraining


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(["experiment", "world", *map(str, arguments)])
    return stop.value.code


def test_options_change_what_is_run(tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    fast = WORLD.presets["fast"](str(out))
    reference = ReferenceTraining(hidden_size=32, layers=1, steps=10)
    small = replace(fast, setup=replace(fast.setup, reference=reference))
    monkeypatch.setitem(WORLD.presets, "fast", {str(out): small}.__getitem__)
    code = run("--fast", "--output_dir", out, "--methods", "dpo,mallows_phi", "--betas", "0.5,4", "--seeds", 1,
               "--learning_rates", "4e-4")  # fmt: skip
    assert code == 0 and "report.html" in capsys.readouterr().out
    results = json.loads((out / "results.json").read_text())
    ran = {(row["seed"], row["method"], row["beta"], row["learning_rate"]) for row in results["runs"]}
    assert ran == {(1, method, beta, 4e-4) for method in ("dpo", "mallows_phi") for beta in (0.5, 4.0)}
    assert "<html" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "dpo,kto"], "methods: got 'kto'"),
        (["--betas", "one"], "betas: got 'one'"),
        (["--learning_rates", "1e-3,1e-3"], "none twice"),
        (["--seeds", "0"], "--seeds"),
        (["--beta", "1"], "--beta"),
    ],
)
def test_a_mistake_is_answered_with_code_two(arguments, said, capsys):
    assert run("--fast", *arguments) == 2
    assert said in capsys.readouterr().err


def test_an_output_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("--fast", "--output_dir", tmp_path / "file") == 2
    assert "is a file" in capsys.readouterr().err
