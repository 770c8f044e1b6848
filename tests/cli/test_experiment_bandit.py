"""`mallowspo experiment bandit` as its users call it."""

import json

import pytest

from mallowspo.cli.main import main


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main(["experiment", "bandit", *arguments])
    return stop.value.code


def test_it_writes_numbers_figures_and_a_page(tmp_path, capsys):
    folder = tmp_path / "out"
    arguments = ("--fast", "--seeds", "4", "--training_seeds", "3", "--pairs", "16", "--output_dir", str(folder))
    assert run(*arguments) == 0
    assert "report.html" in capsys.readouterr().out
    results = json.loads((folder / "results.json").read_text())
    assert results["config"]["design"]["seeds"] == 4 and results["provenance"]["date"]
    assert {row["regime"] for row in results["verdicts"]} == {
        "single_exact", "many_exact", "single_steps", "many_shared", "many_separate",
    }  # fmt: skip
    single = next(row for row in results["verdicts"] if row["method"] == "mallows_theta_true")
    assert single["regime"] == "single_exact" and set(single["collapse"]) == {"the same"}  # theta is DPO there
    assert all(job["facts"]["largest_slope"] < 1e-11 for job in results["exact"])
    page = (folder / "report.html").read_text(encoding="utf-8")
    for part in (
        "One state, exact minimiser",
        "Many states, Adam, shared parameters",
        "MallowsPO-φ, true index",
    ):
        assert part in page
    assert len(list((folder / "figures").glob("*.svg"))) == len(list((folder / "figures").glob("*.png"))) >= 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seeds", "1"], "--seeds"),
        (["--arms", "9"], "arms: got 9, expected 3 to 6"),
        (["--phi", "1.5"], "phi: got 1.5"),
        (["--pairs", "64", "--pairs", "16"], "rising order"),
        (["--sedes", "3"], "--sedes"),
    ],
)
def test_a_mistake_is_answered_with_code_two(arguments, said, tmp_path, capsys):
    assert run(*arguments, "--output_dir", str(tmp_path / "out")) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("--fast", "--output_dir", str(tmp_path / "file")) == 2
    assert "is a file" in capsys.readouterr().err
