"""What is wrong with options and YAML is said by name, without the usage, before a model is loaded."""

import io
import os
import sys
import time
from pathlib import Path

import pytest

from cli.commands import refused
from mallowspo.cli.train_options import TrainParser
from mallowspo.cli.yaml_file import read_yaml
from mallowspo.errors import InputError
from mallowspo.progress import ProgressLines, progress_bar


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def recipe(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{own}: &{own} [{','.join([f'*{other}'] * 9)}]\n" for other, own in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (BOMB, "20,000 values"),
        ("a: " + "[" * 100_000, "nest"),
        ("".join(" " * level + "a:\n" for level in range(600)), "50 levels"),
        ("beta: 1\nseed: 3\nbeta: 2\n", "beta is there twice, in lines 1 and 3"),
        ("a: &a [*a]", "holds itself"),
        ("a: !!python/object/apply:os.getcwd []", "line 1"),
        ("a: !!binary aGk=", "line 1"),
        ("1: a", "line 1"),
        ("a: 1\n---\nb: 2", "2 documents"),
        ("a: " + "x" * (2 << 20), "1,048,576 bytes"),
        ("a: " + "9" * 5000, "not YAML"),
        ("- a", "mapping"),
        ("", "mapping"),
        ("a: \0", "not YAML"),
    ],
)
def test_yaml_that_grows_or_means_two_things(text, named, recipe):
    started = time.process_time()
    with pytest.raises(InputError, match="config") as error:
        read_yaml(recipe(text))
    assert named in str(error.value) and len(str(error.value)) < 500
    assert time.process_time() - started < 1.5


def test_a_date_is_the_text_that_was_written(recipe):
    path = recipe("run_name: 2026-11-30\nbeta: 0.1\nbase: &b {x: 1}\nother: {<<: *b, y: 2}")
    values = read_yaml(path)
    assert values["run_name"] == "2026-11-30" and values["other"] == {"x": 1, "y": 2}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("learning_rate: [1]", "learning_rate: got [1], expected a number"),
        ("beta: {a: 1}", "beta"),
        ("max_steps: 2.5", "max_steps: got 2.5, expected a whole number"),
        ("max_steps: 2026-11-30", "max_steps: got '2026-11-30'"),
        ("num_train_epochs: true", "num_train_epochs"),
        ("use_cpu: 3", "use_cpu: got 3, expected true or false"),
        ("output_dir: [a, b]", "output_dir"),
        ("output_dir: yes", "put text in quotes"),
        ("dispersion_clip: 3", "dispersion_clip"),
        ("env: [a]", "env"),
        ("lerning_rate: 1", "did you mean learning_rate"),
        ("num_procesess: 2", "did you mean num_processes"),
        ("max_prompt_length: 3", "max_length"),
    ],
)
def test_a_wrong_type_or_name_in_yaml(text, named, recipe):
    assert named in refused("train", "--config", recipe(text))


def test_yaml_means_the_text_that_was_written(recipe):
    parser = TrainParser()
    left = parser.set_defaults_from_file(
        str(recipe("eval_strategy: no\nresume_from_checkpoint: true\nrun_name: 2026\nnum_processes: 2\nbeta: 1e-1"))
    )
    assert left == ["--num_processes", "2"]
    read, _ = parser.parse_known_args([])
    assert str(getattr(read.eval_strategy, "value", read.eval_strategy)) == "no"
    assert (read.resume_from_checkpoint, read.run_name, read.beta) == ("true", "2026", 0.1)


def test_a_number_where_text_is_wanted_keeps_its_spelling(recipe, monkeypatch):
    monkeypatch.setenv("MALLOWSPO_TEST", "")
    left = TrainParser()
    arguments = left.set_defaults_from_file(
        str(
            recipe(
                "run_name: 007\nmodel_revision: 1.10\nmax_steps: 0x10\nbeta: 1_0.5\ndispersion_scale: .50\n"
                "dispersion_clip: [0, 1.50]\nmodel_init_kwargs: {a: 010}\nenv: {MALLOWSPO_TEST: 007}\n"
                "lora_target_modules: all-linear\nlora_modules_to_save: [a, 010]\n"
                "main_process_port: 007\nmulti_gpu: true\nuse_fsdp: false\nmixed_precision: no\n"
            )
        )
    )
    read, _ = left.parse_known_args([])
    assert (read.run_name, read.model_revision, read.dispersion_scale) == ("007", "1.10", ".50")
    assert (read.lora_target_modules, read.lora_modules_to_save) == (["all-linear"], ["a", "010"])
    # Elsewhere they are plain numbers of YAML.
    numbers = [read.max_steps, read.beta, *read.dispersion_clip, read.model_init_kwargs["a"]]
    assert numbers == [16, 10.5, 0, 1.5, 8] and {type(one) for one in numbers} == {int, float}
    assert os.environ["MALLOWSPO_TEST"] == "007"
    assert arguments == ["--main_process_port", "007", "--multi_gpu", "--mixed_precision", "no"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--lerning_rate", "1"], "did you mean --learning_rate"),
        (["--lerning_rate=1"], "did you mean --learning_rate"),
        (["--num_machnes", "1"], "did you mean --num_machines"),
        (["--max_prompt_length", "3"], "max_length"),
        (["--beta", "x"], "--beta"),
        (["--beta"], "--beta"),
        (["recipe.yaml"], "--config"),
        (["--config"], "--config"),
        (["--config", "."], "folder"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--config", "a.yaml", "--config=b.yaml"], "a.yaml and b.yaml"),
        (["--optim", "adamw_8bit"], "bitsandbytes"),
        (["--optim", "paged_adamw_32bit"], "bitsandbytes"),
        (["--optim", "galore_adamw"], "galore_torch"),
        (["--optim", "lion_8bit"], "bitsandbytes"),
        (["--optim", "schedule_free_adamw"], "schedulefree"),
        (["--optim", "adamw"], "optim"),
        (["--report_to", "wandb"], "report_to: none"),
        (["--report_to", "wndb"], "'wandb'"),
        (["--deepspeed", "zero3.json"], "deepspeed"),
        (["--use_liger_kernel"], "liger_kernel"),
        (["--load_in_4bit"], "bitsandbytes"),
        (["--attn_implementation", "spda"], "did you mean sdpa"),
    ],
)
def test_a_wrong_option_of_train(arguments, named):
    assert named in refused("train", *arguments)


@pytest.mark.parametrize("given", [["--use_cpu", "true"], ["--use_cpu=True"], ["--use_cpu"]])
def test_a_truth_value_is_taken_as_train_takes_it(given):
    """And what stands behind it is not taken for one, nor one behind `--` or in the place of a file."""
    from mallowspo.cli.options import arguments_of, read_options
    from mallowspo.cli.reference import ReferenceOptions

    named = ["--model_name_or_path", "m", "--dataset_name", "d"]
    options = read_options(ReferenceOptions, [*named, *given], "mallowspo reference")
    assert options.use_cpu and "--use_cpu" in arguments_of(options)
    off = read_options(ReferenceOptions, [*named, *given, "--use_cpu", "false"], "mallowspo reference")
    assert not off.use_cpu
    with pytest.raises(InputError, match="^maybe: "):
        read_options(ReferenceOptions, [*named, *given[:1], "maybe"], "mallowspo reference")
    with pytest.raises(InputError, match="^false: "):  # the second of two
        read_options(ReferenceOptions, [*named, "--use_cpu", "true", "false"], "mallowspo reference")


def test_a_folder_with_a_short_name_is_no_truth_value():
    from mallowspo.cli.check import CheckOptions
    from mallowspo.cli.options import read_options

    for name in ("t", "1", "no"):
        options = read_options(CheckOptions, ["--model_name_or_path", "m", "--html", name], "mallowspo check")
        assert options.html and str(options.data) == name
    options = read_options(CheckOptions, ["--model_name_or_path", "m", "--html=true", "false"], "mallowspo check")
    assert options.html and str(options.data) == "false"


def test_our_options_come_first_in_the_help():
    lines = TrainParser().format_help().splitlines()
    assert max(map(len, lines)) <= 100
    first = ("objective", "dataset_name", "model_name_or_path", "learning_rate")
    places = [next(n for n, line in enumerate(lines) if line.startswith(f"  --{name} ")) for name in first]
    assert places == sorted(places) and places[0] < 30
    text = " ".join(" ".join(lines).split())
    assert "mallows_theta, mallows_phi" in text and "One of: no, steps, epoch" in text
    every = {f"--{action.dest}" for action in TrainParser()._actions} - {"--help"}
    assert every <= {line.split()[0] for line in lines if line.startswith("  --")}


def test_a_log_without_a_terminal_has_lines(monkeypatch):
    told = io.StringIO()
    monkeypatch.setattr("sys.stderr", told)
    with ProgressLines("mallowspo test", every=0.2) as lines:
        lines.show("Working", 0, 4)
        time.sleep(0.6)  # the work itself says nothing
        for done in range(1, 5):
            lines.show("Working", done, 4)
    said = told.getvalue().splitlines()
    assert said[:2] == ["mallowspo test: begun", "Working: 0 of 4, 0 s"]
    assert 1 <= said[2:-2].count("Working: 0 of 4, 0 s") + sum("0 of 4, 1 s" in line for line in said) <= 4
    assert said[-2].startswith("Working: 4 of 4") and said[-1].startswith("mallowspo test: done")


def test_a_stage_that_begins_again_and_again_is_said_once(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    with ProgressLines("x", every=60.0) as lines:
        for _ in range(5):
            lines.show("inner", 0, 2)
            lines.show("inner", 2, 2)
    assert out.getvalue().count("inner") == 2  # its first beginning and its first end


def test_a_log_that_cannot_be_written_ends_no_work(monkeypatch):
    full = Path("/dev/full").open("wb", buffering=0)
    monkeypatch.setattr("sys.stderr", io.TextIOWrapper(full, write_through=True))
    with progress_bar("mallowspo test") as show:
        show("Working", 0, 1)
        show("Working", 1, 1)


def test_a_number_where_a_list_is_wanted_is_told_so(recipe):
    with pytest.raises(InputError, match="dispersion_clip: got 3, expected a list of numbers"):
        TrainParser().set_defaults_from_file(recipe("dispersion_clip: 3"))
