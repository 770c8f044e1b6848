"""The commands of docs/recipes.md: each is parsed by what will read it, and the Llama section runs on stand-ins."""

import re
import shlex

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

from cli.commands import call
from mallowspo.cli.main import COMMANDS
from mallowspo.cli.options import read_options, take_config
from mallowspo.cli.train_options import TrainParser, refuse_unknown
from mallowspo.compat import accelerate_launch_arguments
from recipes.stand_ins import ROOT, script

PAGE = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
LOOP = re.compile(r"for (\w+) in ([^;]+); do\n((?:(?!for \w+ in ).)*?)\n *done", re.DOTALL)


def commands_of(text):
    """The commands of a shell script, its loops written out."""
    while found := LOOP.search(text):
        name, values, body = found.groups()
        written = "\n".join(body.replace(f"${name}", value) for value in values.split())
        text = text[: found.start()] + written + text[found.end() :]
    return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
BLOCKS += [f"{line}\n" for line in re.findall(r"`(mallowspo train [^`]*)`", PAGE) if "--config R" in line]
EVERY = [command for block in BLOCKS for command in commands_of(block)]
EVERY = [[part.replace("RECIPE.yaml", "recipes/pythia-2.8b-hh/dpo.yaml") for part in command] for command in EVERY]


def read_train(arguments):
    """What `mallowspo train` would train, and what it would give to the launcher."""
    path, options = take_config(arguments)
    parser = TrainParser()
    left = parser.set_defaults_from_file(path)
    read, from_line = parser.parse_known_args(options)
    refuse_unknown(parser, left, from_line, path)
    launch = accelerate_launch_arguments([*left, *from_line])
    launched = launch_command_parser().parse_args([*launch, "--module", "x"])
    assert launched.training_script == "x" and launched.training_script_args == []
    if launched.config_file:
        load_config_from_file(launched.config_file)  # refuses what it does not know
    return read


def made_and_read(command):
    """The paths that a command writes, and those that it needs."""
    if command[:2] == ["mallowspo", "train"]:
        read = read_train(command[2:])
        return [read.output_dir], [read.model_name_or_path, read.dataset_name, read.reference_store]
    if command[0] == "mallowspo":
        words = 2 if command[1] == "experiment" else 1
        options = read_options(COMMANDS[" ".join(command[1 : 1 + words])][0], command[1 + words :], "x")
        names = "data model_name_or_path dataset_name reference model baseline prompts".split()
        return [options.output_dir], [getattr(options, name, None) for name in names]
    if command[:2] == ["trl", "sft"]:
        from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig, TrlParser

        kinds = (ScriptArguments, SFTConfig, ModelConfig, DatasetMixtureConfig)
        data, training, model, _ = TrlParser(kinds).parse_args_into_dataclasses(
            [*command[2:], "--use_cpu", "--bf16", "false"]
        )
        return [training.output_dir], [data.dataset_name, model.model_name_or_path]
    if command[:2] == ["python", "recipes/prepare.py"]:
        given = script("prepare").options().parse_args(command[2:])
        return [given.output], [given.source]
    assert command[:2] in (["hf", "download"], ["pip", "install"]), command
    return [command[command.index("--local-dir") + 1]] if "--local-dir" in command else [], []


def test_every_command_is_read_and_needs_only_what_one_before_it_made(monkeypatch):
    monkeypatch.chdir(ROOT)
    made = []
    for command in EVERY:
        writes, needs = made_and_read(command)
        for path in map(str, filter(None, needs)):
            known = not path.startswith("output/") or any(path == one or path.startswith(f"{one}/") for one in made)
            assert known, (path, command)
        made += map(str, writes)
    assert len(EVERY) > 60
    named = {part for command in EVERY for part in command if part.startswith("recipes/") and part.endswith(".yaml")}
    exist = {str(path.relative_to(ROOT)) for path in (ROOT / "recipes").glob("*/*.yaml")}
    # Every file that is written by make.py is on the page, by its command or in the table.
    assert named <= exist
    for recipe in script("make").recipes():
        folder, _, name = recipe.path.partition("/")
        assert f"`{folder}`" in PAGE and f"`{name.removesuffix('.yaml')}`" in PAGE


@pytest.mark.parametrize(
    "name", ["single_gpu", "multi_gpu", "fsdp2", "zero2", "zero3", "two_nodes", "two_nodes_zero3"]
)
def test_a_launch_profile_says_what_the_page_says(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    given = name if "nodes" not in name else f"recipes/launch/{name}.yaml"
    path = accelerate_launch_arguments(["--accelerate_config", given])[1]
    assert accelerate_launch_arguments([f"--accelerate_config={given}"]) == ["--config_file", path]
    profile = load_config_from_file(path)
    expected = {"single_gpu": "NO", "multi_gpu": "MULTI_GPU", "fsdp2": "FSDP", "two_nodes": "MULTI_GPU"}
    assert str(profile.distributed_type).rpartition(".")[2] == expected.get(name, "DEEPSPEED")
    assert profile.num_machines == (2 if "nodes" in name else 1) and profile.mixed_precision == "bf16"
    if name == "fsdp2":
        assert str(profile.fsdp_config["fsdp_version"]) == "2"
    if "zero" in name:
        assert profile.deepspeed_config["zero_stage"] == int(name[-1])
    if name == "two_nodes_zero3":  # as TRL's for one machine, but for the machines
        theirs = yaml.safe_load(open(accelerate_launch_arguments(["--accelerate_config", "zero3"])[1]))
        assert profile.deepspeed_config == theirs["deepspeed_config"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_from_the_check_to_the_training(stand_in, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    model, data = stand_in("llama-3-8b-ultrafeedback")
    block = re.search(r"<!-- test: chain -->\n```bash\n(.*?)```", PAGE, re.DOTALL)[1]
    added = {
        "check": [],
        "reference": ["--use_cpu", "--mixed_precision", "no", "--model_name_or_path", model, "--dataset_name", data],
        "dispersion": [],
        "train": ["--use_cpu", "--bf16", "false", "--max_steps", "3", "--report_to", "none",
                  "--model_name_or_path", model, "--dataset_name", data],
    }  # fmt: skip
    for command in commands_of(block.replace("--num_processes 8", "").replace("--accelerate_config zero3", "")):
        arguments = [
            {"meta-llama/Meta-Llama-3-8B-Instruct": model, "princeton-nlp/llama3-ultrafeedback-armorm": data}.get(
                part, part
            )
            for part in command[1:]
        ]
        code, out, err = call(*arguments, *added[command[1]])
        assert code == 0 or (code == 1 and command[1] == "check"), (out, err)
    assert "reference_store" in err or "output/llama-3-8b-ultrafeedback/reference" in err
    assert (tmp_path / "output/llama-3-8b-ultrafeedback/dispersion/report.html").is_file()
    assert (tmp_path / "output/llama-3-8b-ultrafeedback/mallows_norm/model.safetensors").is_file()
