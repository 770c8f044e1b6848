"""Every recipe: each field by the parser of `mallowspo train`, then three steps on stand-ins of the same shapes.

Where bitsandbytes is not installed, a QLoRA recipe runs on whole weights.
"""

import importlib.util
import json
import math
import re
import socket
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from cli.commands import call
from forks import finish, program, run_program
from mallowspo.cli.train_options import TrainParser
from mallowspo.objectives import OBJECTIVES
from mallowspo.objectives.presets import Objective
from recipes.stand_ins import ROOT, script

RECIPES = sorted(path.relative_to(ROOT / "recipes") for path in (ROOT / "recipes").glob("*/*.yaml"))
RECIPES = [path for path in RECIPES if path.parent.name != "launch"]
# Those run on `../shared` elsewhere: docs/runs/run_recipes.py.
ELSEWHERE = ("stories-260k", "stories-3m")


def test_the_files_are_those_that_the_script_writes():
    assert script("make").main(["--check"]) == 0
    made = {recipe.path for recipe in script("make").recipes()}
    assert made == {str(path) for path in RECIPES if path.parent.name not in ELSEWHERE}


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_every_field_reaches_the_run(recipe, tmp_path):
    path = ROOT / "recipes" / recipe
    text = path.read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    parser = TrainParser()
    assert parser.set_defaults_from_file(str(path)) == []  # nothing is left over, for the launcher or nobody
    arguments = [] if values.get("use_cpu") else ["--use_cpu", "--bf16", "false"]
    parsed = parser.parse_args_into_dataclasses(arguments)
    reached = {field.name: getattr(group, field.name) for group in parsed for field in fields(group)}
    for name in set(values) - ({"bf16"} if arguments else set()):
        got = getattr(reached[name], "value", reached[name])
        assert got == values[name], name

    training = parsed[1]
    preset = OBJECTIVES[values["objective"]]
    axes = {field.name for field in fields(Objective)} & set(values)
    for field in fields(Objective):
        expected = values[field.name] if field.name in axes else getattr(preset, field.name)
        assert getattr(training.resolved_objective, field.name) == expected, field.name
    assert training.resolved_dispersion == preset.dispersion

    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    assert "\n# Hardware: " in header and f"\n# Run: mallowspo train --config recipes/{recipe}" in header
    if recipe.parent.name in ELSEWHERE:
        record = ROOT / f"docs/runs/{recipe.parent.name}-{recipe.stem}.json"
        assert f"# Time: {json.loads(record.read_text())['seconds']} s, measured" in header
        assert "# Every number is chosen here" in header
        return
    assert re.search("^# Time: about .* an estimate", header, re.MULTILINE)
    marks = set(re.findall(r"^#   \[(.)\] ", header, re.MULTILINE))
    for line in text.splitlines():
        value = next(iter((yaml.safe_load(line) or {"": ""}).values()))
        if isinstance(value, int | float) and not isinstance(value, bool):
            source = re.search(r" # \[(.)\]", line)
            assert source and source[1] in marks, line


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("recipe", [path for path in RECIPES if path.parent.name not in ELSEWHERE], ids=str)
def test_three_steps(recipe, stand_in, tmp_path):
    run_three_steps(recipe, stand_in, tmp_path)


# What the headers propose beside the file itself.
PROPOSED = {
    "qwen3-4b-ultrafeedback/lora.yaml": ["--objective dpo", "--objective mallows_norm --beta 10"],
    "llama-3-8b-ultrafeedback/mallows_simpo.yaml": ["--margin 0.3 --num_train_epochs 1"],
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("recipe", "added"), [(name, one) for name, more in PROPOSED.items() for one in more])
def test_what_a_header_proposes(recipe, added, stand_in, tmp_path):
    assert added in (ROOT / "recipes" / recipe).read_text(encoding="utf-8").replace("\n# ", " ")
    run_three_steps(Path(recipe), stand_in, tmp_path, added.split())


def run_three_steps(recipe, stand_in, tmp_path, added=()):
    model, data = stand_in(recipe.parent.name)
    values = yaml.safe_load((ROOT / "recipes" / recipe).read_text(encoding="utf-8"))
    here = ["--use_cpu", "--bf16", "false", "--max_steps", "3", "--report_to", "none"]
    if values.get("load_in_4bit") and not importlib.util.find_spec("bitsandbytes"):
        here += ["--load_in_4bit", "false"]
    code, _, err = call(
        "train", "--config", ROOT / "recipes" / recipe, "--model_name_or_path", model, "--dataset_name", data,
        "--dataset_train_split", "train", "--output_dir", tmp_path / "out", "--logging_steps", "1", *here, *added,
    )  # fmt: skip
    assert code == 0, err
    record = json.loads((tmp_path / "out/run.json").read_text())
    logged = [entry for entry in record["log_history"] if "loss" in entry]
    assert [entry["step"] for entry in logged] == [1, 2, 3]
    assert all(math.isfinite(entry["loss"]) and entry["grad_norm"] > 0 for entry in logged)
    saved_as = "adapter_config.json" if values.get("use_peft") else "config.json"
    assert (tmp_path / "out" / saved_as).is_file()


@pytest.mark.slow
def test_two_machines_train_as_one(stand_in, tmp_path):
    """The launch file as it is but for the addresses, the number of processes and the precision of a processor."""
    model, data = stand_in("llama-3-8b-ultrafeedback")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def options(folder):
        return [
            "train", "--config", ROOT / "recipes/llama-3-8b-ultrafeedback/dpo.yaml", "--model_name_or_path", model,
            "--dataset_name", data, "--output_dir", tmp_path / folder, "--use_cpu", "--bf16", "false", "--max_steps",
            "3", "--report_to", "none", "--logging_steps", "1", "--learning_rate", "1e-2", "--warmup_steps", "0",
        ]  # fmt: skip

    machines = [
        program(
            [
                *options("two"), "--gradient_accumulation_steps", "2", "--accelerate_config",
                ROOT / "recipes/launch/two_nodes.yaml", "--num_processes", "2", "--machine_rank", rank,
                "--main_process_ip", "127.0.0.1", "--main_process_port", port, "--mixed_precision", "no",
            ],
            tmp_path / f"{rank}.log",
        )
        for rank in (0, 1)
    ]  # fmt: skip
    for rank, machine in enumerate(machines):
        assert finish(machine, tmp_path / f"{rank}.log").returncode == 0, (tmp_path / f"{rank}.log").read_text()
    alone = run_program([*options("one"), "--gradient_accumulation_steps", "4"], tmp_path / "one.log")
    assert alone.returncode == 0, alone.stderr
    losses = [
        [
            entry["loss"]
            for entry in json.loads((tmp_path / folder / "run.json").read_text())["log_history"]
            if "loss" in entry
        ]
        for folder in ("two", "one")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0][0] > losses[0][-1]
