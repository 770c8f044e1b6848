"""What the pages show is what the code does."""

import ast
import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trl
import yaml

from cli.commands import PAIRS, call
from doc_examples import ROOT, SHELL, blocks, commands
from forks import run_script
from mallowspo.cli.main import COMMANDS
from mallowspo.cli.options import read_known, read_options, take_config
from mallowspo.cli.plan import PlanOptions
from mallowspo.cli.preflight import check_options
from mallowspo.cli.train_options import TrainParser, refuse_unknown
from mallowspo.errors import InputError
from mallowspo.objectives import OBJECTIVES
from tiny import tiny_llama, tiny_tokenizer

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = blocks()
# What is public. The modules of `evaluation` are imported one by one; those of its commands' insides are not public.
PUBLIC = ("training", "objectives", "dispersion", "scoring", "maths", "maths.links", "evaluation")
INSIDE = {"__init__", "endpoint", "json_log", "judge_prompt", "judging", "local_model", "server_reply"}


def of(treated):
    return [pytest.param(block, id=str(block)) for block in BLOCKS if block.treated == treated]


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """What the examples name, tiny: models under the names of real ones, pairs, votes, a recipe, an export for TRL."""
    folder = tmp_path_factory.mktemp("stand_ins")
    tokenizer = tiny_tokenizer(chat=True)
    for name in ("Qwen/Qwen2.5-0.5B-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "my-model"):
        tiny_llama(vocab_size=len(tokenizer)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    lines = "".join(json.dumps(row | {"votes": [3, 1]}) + "\n" for row in PAIRS)
    for name in ("pairs.jsonl", "votes.jsonl"):
        (folder / name).write_text(lines)
    recipe = {"model_name_or_path": "my-model", "dataset_name": "pairs.jsonl", "output_dir": "out"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code, _, said = call(
        "reference", "--model_name_or_path", folder / "my-model", "--dataset_name", folder / "pairs.jsonl",
        "--output_dir", folder / "store", "--export_trl", folder / "pairs.parquet",
    )  # fmt: skip
    assert code == 0, said
    for name in ("docs", "recipes"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture
def here(stand_ins, tmp_path, monkeypatch):
    """A copy of the stand-ins to work in."""
    folder = tmp_path / "here"
    shutil.copytree(stand_ins, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def test_every_block_is_of_a_known_kind():
    """A new block is run or read by its language, or says why not; see doc_examples.py."""
    assert not [str(block) for block in BLOCKS if block.treated == "unknown"]
    assert all(len(block.note) > 20 for block in BLOCKS if block.treated == "not run")


# As printed, an example leaves the choice of the device to the machine; without an accelerator torch says so.
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS if block.treated == "run"}))
def test_the_examples_of_a_page_run(page, here, monkeypatch):
    # TRL takes bfloat16 unless it is told that there is no accelerator.
    monkeypatch.setattr(trl, "DPOConfig", partial(trl.DPOConfig, use_cpu=True, bf16=False))
    for block in BLOCKS:
        if block.page != page or block.treated not in ("run", "parsed"):
            continue
        if block.treated == "parsed":
            if block.note:
                Path(block.note).write_text(block.text, encoding="utf-8")
            continue
        if block.language == "bash":
            for words in commands(block.text):
                if words[0] == "python":
                    done = subprocess.run([sys.executable, *words[1:]], check=False, capture_output=True, text=True)
                    assert done.returncode == 0, done.stderr
                else:
                    code, out, err = call(*words[1:])
                    assert words[0] == "mallowspo" and code == 0, f"{block}: {' '.join(words)}\n{out}{err}"
            continue
        scripts = [block.text]
        if block.language == "diff":
            scripts = [re.sub(rf"^{gone}.*\n|^.", "", block.text, flags=re.MULTILINE) for gone in (r"\+", "-")]
        for script in scripts:
            exec(compile(script, str(block), "exec"), {})


@pytest.mark.parametrize("block", of("parsed"))
def test_the_commands_and_recipes_of_the_pages_are_accepted(block, here):
    if block.language == "yaml":
        Path("example.yaml").write_text(block.text, encoding="utf-8")
        parse_train(["--config", "example.yaml"])
        return
    for words in commands(block.text):
        accept(words)


def accept(words):
    """Read a command as its own program would, with every option."""
    program, *rest = words
    if program == "mallowspo" and rest[0] == "train":
        parse_train(rest[1:])
    elif program == "mallowspo" and rest[0] == "plan":
        parse_train(read_known(PlanOptions, rest[1:], "mallowspo plan", {})[1])
    elif program == "mallowspo":
        count = 2 if rest[0] == "experiment" else 1
        name, arguments = " ".join(rest[:count]), rest[count:]
        assert name in COMMANDS, f"there is no command {name}"
        if set(arguments) != {"--help"}:
            read_options(COMMANDS[name][0], arguments, f"mallowspo {name}")
    elif program == "make":
        targets = re.findall(r"^([\w-]+)(?: [\w-]+)*:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        targets += re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
        assert rest[0] in targets, f"there is no target {rest[0]}"
    elif program == "pip":
        extras = set(re.findall(r"mallowspo\[([\w,-]+)\]|\.\[([\w,-]+)\]", " ".join(rest)))
        said = (ROOT / "pyproject.toml").read_text()
        assert rest[0] == "install" and all(
            re.search(rf"^{name} = ", said, re.M) for pair in extras for name in ",".join(pair).split(",") if name
        )
    elif program in ("python", "pytest") or "/" in program:
        script = next(word for word in words if word.endswith((".py", ".sh")))
        text = (ROOT / script).read_text(encoding="utf-8")
        assert program == "pytest" or all(word in text for word in rest if word.startswith("--")), words
    elif program == "trl":
        assert rest[0] == "sft"
        kinds = (trl.ScriptArguments, trl.SFTConfig, trl.ModelConfig, trl.DatasetMixtureConfig)
        trl.TrlParser(kinds).parse_args_and_config([*rest[1:], "--use_cpu", "--bf16", "false"])
    else:
        assert program in SHELL, f"{program}: what is that?"


def parse_train(arguments):
    """As `train_command` reads them, up to where it would load a model."""
    path, options = take_config(arguments)
    parser = TrainParser()
    left = parser.set_defaults_from_file(path) if path is not None else []
    namespace, more = parser.parse_known_args([*options, "--use_cpu", "--bf16", "false"])
    refuse_unknown(parser, left, more, path)
    try:
        check_options(namespace)
    except InputError as error:
        # Extras such as bitsandbytes need not be installed for a page to be right.
        if "needs the package" not in str(error):
            raise
    *_, unknown = parser.parse_args_into_dataclasses([*options, "--use_cpu"], return_remaining_strings=True)
    assert unknown == more


def test_tables_are_those_of_the_code(tmp_path):
    done = run_script(ROOT / "docs/make_tables.py", "--check", log=tmp_path / "log")
    assert done.returncode == 0, done.stderr


def test_every_preset_is_in_the_readme_and_in_the_paper_index():
    index = (ROOT / "docs/paper-index.md").read_text(encoding="utf-8")
    for name in OBJECTIVES:
        assert f"| `{name}` |" in README and f"| `{name}` |" in index


def test_links_between_the_pages_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_verdicts_are_said_in_plain_words():
    for page in ROOT.glob("docs/**/*.md"):
        said = re.findall(r"(?:not|none) told apart|indistinguishable|told from", page.read_text(encoding="utf-8"))
        assert not said, f"{page.name}: {said}: say that there is no significant difference"


def test_the_site_builds_strictly_and_has_every_public_name(tmp_path):
    """Links, anchors and navigation are those of `mkdocs build --strict`."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said = "".join(page.read_text(encoding="utf-8") for page in (tmp_path / "site/api").glob("*.html"))
    shown = set(re.findall(r'id="mallowspo\.([\w.]+)"', said))
    assert {f"{module}.{name}" for module, name in public_names()} <= shown
    remote = re.findall(r"<(?:script|link|img)[^>]* (?:src|href)=\"?https?://[^\" >]+", said)
    assert not remote, "the site reads something from elsewhere"


def public_names():
    """Every name of `__all__` that is public, with its module."""
    for package in PUBLIC:
        path = ROOT / "src/mallowspo" / package.replace(".", "/")
        files = [path / "__init__.py"] if path.is_dir() else [path.with_suffix(".py")]
        if package == "evaluation":
            files = [file for file in sorted(path.glob("*.py")) if file.stem not in INSIDE]
        for file in files:
            module = package if package != "evaluation" else f"evaluation.{file.stem}"
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                    yield from ((module, name) for name in ast.literal_eval(node.value))
