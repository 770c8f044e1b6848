"""What a batch job's log holds: lines, and no bar of any library."""

import json
import os
import subprocess
import sys

import pytest

from cli.commands import save_tiny
from mallowspo.progress import lines_for_a_log

# One process for all, since importing the libraries is most of the time.
_PROGRAM = """
import json, sys
from mallowspo.cli.main import main
for command in json.loads(sys.argv[1]):
    try:
        main(command)
    except SystemExit as end:
        if end.code:
            raise
"""


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """The standard error stream, in a file, of the commands that work long."""
    folder = tmp_path_factory.mktemp("log")
    save_tiny(folder / "model")
    rows = [{"prompt": f"Q {i}?", "chosen": f" fine, {i}", "rejected": f" no {i} no"} for i in range(8)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "judges.py").write_text("def longer(prompt, a, b):\n    return 'A' if len(a) > len(b) else 'tie'\n")
    data = ["--model_name_or_path", "model", "--dataset_name", "pairs.jsonl"]
    commands = [
        ["check", "pairs.jsonl", "--model_name_or_path", "model"],
        ["reference", *data, "--output_dir", "store", "--use_cpu", "--export_trl", "trl.jsonl"],
        ["dispersion", "--reference", "store", "--output_dir", "dispersion"],
        ["train", *data, "--output_dir", "out", "--use_cpu", "--report_to", "none", "--max_steps", "2",
         "--dataset_test_split", "train", "--eval_strategy", "steps", "--eval_steps", "1"],
        ["evaluate", "--model", "model", "--baseline", "column:chosen", "--prompts", "pairs.jsonl", "--judge",
         "judges:longer", "--max_new_tokens", "2", "--use_cpu", "--output_dir", "evaluation"],
    ]  # fmt: skip
    path = folder / "log"
    with path.open("wb") as file:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, json.dumps(commands)],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=file,
            check=False,
        )
    text = path.read_bytes().decode()
    assert done.returncode == 0, text
    return text


def test_a_log_has_no_carriage_return_and_no_bar(log):
    assert "\r" not in log and "it/s" not in log and "|##" not in log and "█" not in log


@pytest.mark.parametrize("command", ["check", "reference", "dispersion", "train", "evaluate"])
def test_a_log_has_a_line_at_the_start_and_at_the_end(command, log):
    lines = log.splitlines()
    begun, done = lines.index(f"mallowspo {command}: begun"), f"mallowspo {command}: done"
    assert sum(line.startswith(done) for line in lines) == 1
    assert any(line.startswith(done) for line in lines[begun:])


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    monkeypatch.setenv("TQDM_DISABLE", "0")
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    with lines_for_a_log():
        assert os.environ["TQDM_DISABLE"] == "0" and os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
    assert os.environ["TQDM_DISABLE"] == "0" and "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with lines_for_a_log():
        assert "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ
