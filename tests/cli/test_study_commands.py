"""`mallowspo quickstart` and `mallowspo experiment NAME` as their users call them."""

import json
import sys
from dataclasses import replace

import pytest

from cli.commands import call, refused
from dialogue_world import dialogue_world
from mallowspo import __version__
from mallowspo.studies import study
from mallowspo.studies.estimator.study import ESTIMATOR
from mallowspo.studies.world.study import WORLD
from mallowspo.world.reference import ReferenceTraining
from studies.controllable_inputs import write_classifier, write_texts
from tiny import save_tiny


def written(folder, *arguments):
    """The results of a command that has written its page and said so."""
    code, said, err = call(*arguments, "--output_dir", folder)
    assert code == 0, err
    assert f"{folder}/report.html" in said and "<html" in (folder / "report.html").read_text(encoding="utf-8")
    return json.loads((folder / "results.json").read_text())


def smaller(monkeypatch, preset, out, **setup):
    """Let a preset of the study `world` be one of seconds; the whole of it runs in `studies/test_world.py`."""
    settings = WORLD.presets[preset](str(out))
    reference = ReferenceTraining(hidden_size=32, layers=1, steps=10)
    small = replace(settings, setup=replace(settings.setup, reference=reference, **setup))
    monkeypatch.setitem(WORLD.presets, preset, {str(out): small}.__getitem__)


def test_quickstart(tmp_path, monkeypatch):
    smaller(monkeypatch, "quickstart_fast", tmp_path / "out", train_prompts=48)
    code, said, err = call("quickstart", "--fast", "--output_dir", tmp_path / "out")
    first, second, third, opened = said.splitlines()
    assert code == 0 and "consensus" in first and "random person" in second and "intervals" in third
    assert f"{tmp_path}/out/report.html" in opened and "Training the policies: 8 of 8" in err
    assert json.loads((tmp_path / "out/results.json").read_text())["index"]


def test_world(tmp_path, monkeypatch):
    out = tmp_path / "out"
    smaller(monkeypatch, "fast", out)
    options = ["--methods", "dpo,mallows_phi", "--betas", "0.5,4", "--seeds", 1, "--learning_rate", "4e-4",
               "--parts", "comparison,phi,pairs", "--pairs", "1"]  # fmt: skip
    results = written(out, "experiment", "world", "--fast", *options)
    ran = {(row["method"], row["pairs"], row["beta"], row["learning_rate"]) for row in results["runs"]}
    trained = {("dpo", 2), ("mallows_phi", 2), ("dpo", 1)}
    assert ran == {(*one, beta, 4e-4) for one in trained for beta in (0.5, 4.0)}


def test_bandit(tmp_path):
    options = ["--fast", "--seeds", "4", "--training_seeds", "3", "--pairs", "16"]
    results = written(tmp_path / "out", "experiment", "bandit", *options)
    assert results["config"]["design"]["seeds"] == 4 and results["provenance"]["date"]
    assert {row["regime"] for row in results["verdicts"]} == {
        "single_exact", "many_exact", "single_steps", "many_shared", "many_separate",
    }  # fmt: skip
    single = next(row for row in results["verdicts"] if row["method"] == "mallows_theta_true")
    assert single["regime"] == "single_exact" and set(single["collapse"]) == {"the same"}  # theta is DPO there
    assert all(job["facts"]["largest_slope"] < 1e-11 for job in results["exact"])
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    for part in ("One state, exact minimiser", "Many states, Adam, shared parameters", "MallowsPO-φ, true index"):
        assert part in page
    figures = tmp_path / "out/figures"
    assert len(list(figures.glob("*.svg"))) == len(list(figures.glob("*.png"))) >= 5


def test_the_papers_bandit(tmp_path):
    results = written(tmp_path / "out", "experiment", "bandit", "--preset", "paper_fast", "--seeds", "3")
    assert results["config"]["design"]["sets"] == 3 and [row["name"] for row in results["paper"]][0] == "dpo"
    assert results["redrawn"][1]["equal_kl"]["own"] is not None
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "15.87 at KL 0.3" in page and "Is it the method or the draw?" in page


def test_dialogue(tmp_path):
    data = [part for name, path in dialogue_world(tmp_path).items() for part in (f"--{name}", path)]
    results = written(tmp_path / "out", "experiment", "dialogue", "--fast", "--use_cpu", *data)
    assert set(results["tests"]) == {"test", "ood", "votes"} and results["judge"]["name"] == "heldout"
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "MallowsPO-θ" in page and "heldout" in page


def test_estimator(monkeypatch):
    ran = []
    monkeypatch.setattr(study, "run_study", lambda declared, settings, progress: ran.append((declared, settings)))
    given = ["--conditions", "careless, style_all+careless", "--downstream", "none", "--model_name_or_path", "M",
             "--votes", "a=b.json", "--votes", "c=d=e.json", "--trust_remote_code", "--workers", "2"]  # fmt: skip
    code, said, _ = call("experiment", "estimator", *given, "--seeds", "3", "--output_dir", "here")
    assert code == 0 and "here/report.html" in said
    declared, settings = ran[0]
    assert declared is ESTIMATOR and settings.output_dir == "here" and settings.seeds == (1, 2, 3)
    assert settings.conditions == ("careless", "style_all+careless") and settings.downstream_conditions == ()
    assert (settings.model, settings.data) == ("M", {"a": "b.json", "c": "d=e.json"})
    assert settings.trust_remote_code and settings.workers == 2
    for preset, options in (("fast", ["--fast"]), ("fast", ["--preset", "fast"]), ("default", [])):
        assert call("experiment", "estimator", *options)[0] == 0
        assert ran[-1][1] == ESTIMATOR.presets[preset]("output/estimator")


@pytest.fixture
def controllable(tmp_path):
    """The least that the command needs."""
    model = ["--model_name_or_path", save_tiny(tmp_path / "policy")]
    data = ["--dataset_name", write_texts(tmp_path / "texts.txt")]
    return ["experiment", "controllable", *model, *data, "--use_cpu"]


def test_controllable(controllable, tmp_path):
    """With preferences that are drawn, and a classifier for the reward."""
    classifier = write_classifier(tmp_path / "classifier", ("joy", "anger"))
    options = ["--fast", "--reward_model", classifier, "--reward_label", "joy", "--preferences", "bradley_terry"]
    results = written(tmp_path / "out", *controllable, *options)
    assert len(results["runs"]) == 8 and results["learning_rate"]["chosen"] in (1e-4, 3e-4)
    assert results["facts"]["reward"] == f"probability of 'joy' by {classifier}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--fast", "--betas", "a,b"], "betas: got 'a,b'"),
        (["--fast", "--betas", "1"], "a frontier is a line"),
        (["--fast", "--opening", "Never"], "no text that begins with 'Never'"),
        (["--fast", "--preferences", "coin"], "'sign', 'bradley_terry'"),
        (["--response_tokens", "600", "--prompt_tokens", "16"], "512 positions"),
    ],
)
def test_a_mistake_in_controllable(controllable, options, said, tmp_path):
    pytest.importorskip("vaderSentiment")
    assert said in refused(*controllable, "--output_dir", tmp_path / "out", *options)


def test_a_missing_package_is_answered_with_what_to_install(controllable, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    assert "pip install" in refused(*controllable, "--fast", "--output_dir", tmp_path / "out")


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        ("bandit", ["--seeds", "1"], "--seeds"),
        ("bandit", ["--arms", "9"], "arms: got 9, expected 3 to 6"),
        ("bandit", ["--phi", "1.5"], "phi: got 1.5"),
        ("bandit", ["--pairs", "64", "--pairs", "16"], "rising order"),
        ("bandit", ["--preset", "papr"], "did you mean paper"),
        ("bandit", ["--preset", "paper", "--fast"], "preset"),
        ("bandit", ["--preset", "paper", "--arms", "4"], "arms"),
        ("noise", ["--preset", "quickstart"], "preset"),
        ("efficiency", ["--repetitions", "2"], "--repetitions"),
        ("world", ["--methods", "dpo,kto"], "methods: got 'kto'"),
        ("world", ["--betas", "one"], "betas: got 'one'"),
        ("world", ["--learning_rate", "0"], "learning_rate: got 0"),
        ("world", ["--parts", "rho"], "parts: got rho"),
        ("world", ["--pairs", "2,2"], "pairs: got (2, 2)"),
        ("estimator", ["--conditions", "nowhere"], "nowhere"),
        ("estimator", ["--conditions", ""], "conditions"),
        ("estimator", ["--votes", "file.json"], "NAME=FILE"),
        ("estimator", ["--model_name_or_path", "M"], "model and data"),
        ("estimator", ["--people_only", "--votes", "a=b.json"], "people_only"),
        ("estimator", ["--people_only", "--seeds", "3"], "seeds"),
        ("estimator", ["--sampled_prompts", "4"], "sampled_prompts"),
        ("estimator", ["--instruction", "a=b"], "instruction"),
        ("controllable", ["--model_name_or_path", "M", "--dataset_name", "t.txt", "--methods", "dpo,kto"], "kto"),
        ("dialogue", ["--prompt_format", "auto"], "prompt_format: got 'auto'"),
        ("estimator", ["--votes", "a=b.json"], "model and data"),
        ("dialogue", ["--betas", "high"], "betas: got 'high'"),
        ("dialogue", ["--methods", "theta"], "methods: got 'theta'"),
        ("dialogue", ["--judge", "somebody", "--model_name_or_path", "TINY"], "judge: got 'somebody'"),
        ("dialogue", ["--judge", "http://localhost:1/v1", "--model_name_or_path", "TINY"], "model-name"),
        (
            "dialogue",
            ["--train_data", "nowhere.jsonl", "--model_name_or_path", "TINY"],
            "train_data: there is no file",
        ),
        ("dialogue", ["--model_name_or_path", "./nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_answered_before_the_work(command, options, said, tmp_path):
    given = [dialogue_world(tmp_path)["model_name_or_path"] if one == "TINY" else one for one in options]
    fast = [] if command == "bandit" or "--preset" in options else ["--fast"]
    assert said in refused("experiment", command, *fast, "--output_dir", tmp_path / "out", *given)
    assert command == "dialogue" or not (tmp_path / "out").exists()


def test_version():
    assert call("--version")[:2] == (0, f"mallowspo {__version__}\n")
