"""What the pages show is what the code does."""

import re
from pathlib import Path

import pytest

from forks import run_script
from mallowspo.objectives import OBJECTIVES
from tiny import tiny_llama, tiny_tokenizer

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def example(kind):
    found = re.search(rf"<!-- test: {kind} -->\n```{kind}\n(.*?)```", README, re.DOTALL)
    assert found, kind
    return found[1]


@pytest.fixture
def model(tmp_path):
    tokenizer = tiny_tokenizer()
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_tables_are_those_of_the_code(tmp_path):
    done = run_script(ROOT / "docs/make_tables.py", "--check", log=tmp_path / "log")
    assert done.returncode == 0, done.stderr


def test_every_preset_is_in_the_readme_and_in_the_paper_index():
    index = (ROOT / "docs/paper-index.md").read_text(encoding="utf-8")
    for name in OBJECTIVES:
        assert f"| `{name}` |" in README and f"| `{name}` |" in index


# As printed, it leaves the choice of the device to the machine; where there is no accelerator, torch says so.
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
def test_the_python_example_runs(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = example("python").replace('"Qwen/Qwen2.5-0.5B-Instruct"', repr(model))
    exec(compile(code, "README.md", "exec"), {})


def test_the_yaml_example_is_accepted(tmp_path):
    from mallowspo.cli.train_options import TrainParser

    path = tmp_path / "recipe.yaml"
    path.write_text(example("yaml") + "use_cpu: true\nbf16: false\n")
    script, training, model, _ = TrainParser().parse_args_and_config(["--config", str(path)])
    assert training.objective == "mallows_theta" and script.dataset_name == "pairs.jsonl"


def test_links_between_the_pages_lead_somewhere():
    for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
