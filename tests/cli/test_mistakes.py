"""Mistakes of a user and refusals of the machine: one message, exit code 2, no traceback, nothing half-written."""

import errno
import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from mallowspo.cli.exits import exit_code_of, message_of
from mallowspo.cli.main import main
from mallowspo.errors import InputError
from mallowspo.outputs import writable_file, writable_folder
from tiny import tiny_llama, tiny_tokenizer

ROWS = [{"prompt": f"Question {i}?", "chosen": f" fine, {i}", "rejected": f" no {i} no"} for i in range(12)]


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """A command in this process, in an empty folder, with somebody who says yes to everything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))

    def command(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return end.value.code, captured.out, captured.err

    return command


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer()
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row | {"votes": [3, 1]}) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="module")
def foreign(model, tmp_path_factory):
    """A model folder whose configuration names code beside it, which leaves a mark when it is imported."""
    folder = tmp_path_factory.mktemp("foreign")
    marker = folder / "the code has run"
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for name, keys in (
        ("config.json", {"model_type": "foreign", "architectures": ["Foreign"]}),
        ("tokenizer_config.json", {"tokenizer_class": "ForeignTokenizer"}),
    ):
        own = {
            "AutoConfig": "foreign.Foreign",
            "AutoModelForCausalLM": "foreign.Foreign",
            "AutoModelForSequenceClassification": "foreign.Foreign",
            "AutoTokenizer": ["foreign.Foreign", None],
        }
        value = json.loads((folder / name).read_text()) | keys | {"auto_map": own}
        (folder / name).write_text(json.dumps(value))
    (folder / "foreign.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Foreign: pass\n")
    return folder, marker


def commands(model, pairs, out):
    """Every command that writes, in a small form."""
    dialogue = [f"--{name}" for name in ("train_data", "test_data", "ood_data")]
    return {
        "check": ["check", pairs, "--model_name_or_path", model, "--output_dir", out],
        "reference": ["reference", "--model_name_or_path", model, "--dataset_name", pairs, "--output_dir", out],
        "dispersion": ["dispersion", "--votes", pairs, "--output_dir", out],
        "evaluate": ["evaluate", "--model", model, "--baseline", "column:chosen", "--prompts", pairs, "--judge",
                     f"reward:{model}", "--output_dir", out],
        "train": ["train", "--model_name_or_path", model, "--dataset_name", pairs, "--output_dir", out, "--use_cpu",
                  "--report_to", "none"],
        "quickstart": ["quickstart", "--fast", "--output_dir", out],
        "bandit": ["experiment", "bandit", "--fast", "--output_dir", out],
        "world": ["experiment", "world", "--fast", "--output_dir", out],
        "estimator": ["experiment", "estimator", "--fast", "--output_dir", out],
        "controllable": ["experiment", "controllable", "--fast", "--model_name_or_path", model, "--dataset_name",
                         pairs, "--text_column", "chosen", "--reward_model", model, "--output_dir", out],
        "dialogue": ["experiment", "dialogue", "--fast", "--model_name_or_path", model,
                     *(part for name in dialogue for part in (name, pairs)), "--votes_data", "", "--output_dir", out],
    }  # fmt: skip


COMMANDS = ("check", "reference", "dispersion", "evaluate", "train", "quickstart", "bandit", "world", "estimator",
            "controllable", "dialogue")  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_an_output_below_a_file_is_refused_before_the_work(name, run, model, pairs, tmp_path):
    (tmp_path / "taken").write_text("mine")
    code, _, told = run(*commands(model, pairs, tmp_path / "taken/out")[name])
    assert code == 2 and "output_dir" in told and str(tmp_path / "taken/out") in told
    assert [path.name for path in tmp_path.iterdir()] == ["taken"] and (tmp_path / "taken").read_text() == "mine"


def test_a_proof_leaves_nothing_behind(tmp_path):
    assert writable_folder(tmp_path / "a/b", "output_dir") == tmp_path / "a/b"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "kept").mkdir()
    writable_folder(tmp_path / "kept/new", "output_dir")
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]
    with pytest.raises(InputError, match="export_trl"):
        writable_file(tmp_path / "kept", "export_trl")
    with pytest.raises(InputError, match="output_dir"):
        writable_folder("/proc/nowhere/new", "output_dir")
    with pytest.raises(InputError, match="output_dir"):
        writable_folder(tmp_path / ("long" * 100), "output_dir")


CODE = ("check", "reference", "train", "evaluate", "controllable", "dialogue", "estimator")


def with_code(name, folder, pairs, out):
    given = commands(folder, pairs, out)[name]
    if name == "estimator":
        given = [*given, "--conditions", "plain", "--downstream", "none", "--model_name_or_path", folder, "--votes",
                 f"x={pairs}"]  # fmt: skip
    return given


@pytest.mark.parametrize("name", [name for name in CODE if name != "estimator"])
def test_code_of_a_model_never_runs_unasked(name, run, foreign, pairs, tmp_path):
    folder, marker = foreign
    code, _, told = run(*with_code(name, folder, pairs, tmp_path / "out"))
    assert code == 2 and "trust_remote_code" in told and "[y/N]" not in told, told
    assert not marker.exists()


def test_code_of_a_model_never_runs_in_the_study_of_indexes(foreign, pairs, tmp_path):
    from mallowspo.experiments.estimator import EstimatorConfig, run_estimator_study

    folder, marker = foreign
    with pytest.raises(InputError, match="trust_remote_code"):
        run_estimator_study(EstimatorConfig(model=str(folder), data={"x": str(pairs)}, output_dir=str(tmp_path)))
    assert not marker.exists()


def test_code_of_a_model_runs_where_it_is_asked_for(run, foreign, pairs, tmp_path, monkeypatch):
    folder, marker = foreign
    code, _, _ = run(*with_code("check", folder, pairs, tmp_path / "out"), "--trust_remote_code")
    assert code == 2 and marker.exists()  # the class is no tokenizer
    marker.unlink()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "out/model.safetensors"),
        PermissionError(errno.EACCES, "Permission denied", "out/model.safetensors"),
        OSError(errno.EROFS, "Read-only file system", "out/model.safetensors"),
        OSError("[Errno 28] Error writing bytes to out/model.safetensors. Detail: No space left on device"),
    ],
)
def test_what_the_machine_refuses_is_one_message(error, capsys):
    def command():
        raise error

    assert exit_code_of(command) == 2
    told = capsys.readouterr().err
    assert told.lstrip().startswith("mallowspo: ") and told.strip().count("\n") == 0


def test_a_full_disk_names_the_file():
    told = message_of(OSError(errno.ENOSPC, "No space left on device", "out/a.json"))
    assert told.startswith("out/a.json: ") and "space" in told


def test_our_own_mistakes_keep_their_traceback(tmp_path):
    for error in (KeyError("x"), OSError(errno.EBADF, "Bad file descriptor"), ValueError("x"), RuntimeError("x")):
        assert message_of(error) is None
    missing = FileNotFoundError(errno.ENOENT, "No such file", str(tmp_path / "in/a.json"))
    assert message_of(missing, ["check", "elsewhere"]) is None
    assert str(tmp_path / "in/a.json") in message_of(missing, ["check", str(tmp_path / "in")])
    assert message_of(missing, ["train", f"--dataset_name={tmp_path / 'in'}"]) is not None


@pytest.mark.parametrize("error", [MemoryError(), RecursionError(), UnicodeEncodeError("utf-8", "a\ud800", 1, 2, "x")])
def test_what_was_read_is_too_much(error):
    assert message_of(error) is not None


def test_too_many_open_files_are_told(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    kept = []

    def command():
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 2, hard))
        while True:
            kept.append((tmp_path / "x").open("w"))

    try:
        code = exit_code_of(command)
    finally:
        for file in kept:
            file.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert code == 2


def test_a_file_that_does_not_fit_is_named_and_not_left(tmp_path):
    """With the system's own limit on the size of a file in the place of a full disk."""
    program = (
        "import resource, signal, sys\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from mallowspo.cli.exits import exit_code_of\nfrom mallowspo.files import write_text\n"
        "sys.exit(exit_code_of(lambda: write_text(sys.argv[1], 'x' * 5000)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a.json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and f"{tmp_path / 'a.json'}: File too large" in done.stderr
    assert "Traceback" not in done.stderr and list(tmp_path.iterdir()) == []


PROGRAM = [sys.executable, "-m", "mallowspo.cli.main"]


@pytest.mark.parametrize("arguments", [["--version"], ["train", "--help"], ["dispersion", "--help"]], ids=" ".join)
def test_standard_output_on_a_full_disk(arguments):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*PROGRAM, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2 and "standard output" in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_standard_error_on_a_full_disk():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*PROGRAM, "check", "--nonsense"], stdout=subprocess.PIPE, stderr=full, check=False)
    assert done.returncode == 2


def test_a_reader_that_goes_away_is_no_error():
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run([*PROGRAM, "--version"], stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    os.close(theirs)
    assert done.returncode == 141 and done.stderr == ""


def test_a_terminal_without_our_letters(tmp_path):
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*PROGRAM, "dispersion", "--help"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_train_and_reference_agree_on_a_precision_where_none_is_given(tmp_path):
    from mallowspo import MallowsPOConfig

    assert MallowsPOConfig(str(tmp_path), use_cpu=True).bf16 is False
    assert MallowsPOConfig(str(tmp_path), use_cpu=True, bf16=True).bf16 is True
