"""Mistakes of a user and refusals of the machine: one message, exit code 2, no traceback, nothing half-written."""

import errno
import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cli.commands import call
from mallowspo.cli.exits import exit_code_of, message_of
from mallowspo.errors import InputError
from mallowspo.loading import check_saved_model
from mallowspo.outputs import writable_file, writable_folder


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A command in an empty folder, with somebody who says yes to everything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))

    def command(*arguments):
        code, out, err = call(*arguments)
        assert "Traceback" not in err
        return code, out, err

    return command


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
        "noise": ["experiment", "noise", "--fast", "--output_dir", out],
        "estimator": ["experiment", "estimator", "--fast", "--output_dir", out],
        "controllable": ["experiment", "controllable", "--fast", "--model_name_or_path", model, "--dataset_name",
                         pairs, "--text_column", "chosen", "--reward_model", model, "--output_dir", out],
        "dialogue": ["experiment", "dialogue", "--fast", "--model_name_or_path", model,
                     *(part for name in dialogue for part in (name, pairs)), "--votes_data", "", "--output_dir", out],
    }  # fmt: skip


@pytest.mark.parametrize("name", commands("model", "pairs", "out"))
def test_an_output_below_a_file_is_refused_before_the_work(name, run, model, pairs, tmp_path):
    (tmp_path / "taken").write_text("mine")
    code, _, told = run(*commands(model, pairs, tmp_path / "taken/out")[name])
    assert code == 2 and "output_dir" in told and str(tmp_path / "taken/out") in told
    assert [path.name for path in tmp_path.iterdir()] == ["taken"] and (tmp_path / "taken").read_text() == "mine"


VOTES = [
    {"prompt": f"p{i}", "first": "a b", "second": "b", "vote": vote, "responses": ["a b", "b"]}
    for i in range(3)
    for vote in (1, 2, 1)
]


@pytest.mark.parametrize(
    ("option", "file", "arguments"),
    [
        ("fix", "a.jsonl", ["check", "FILE", "--model_name_or_path", "MODEL", "--fix", "FILE"]),
        ("fix", "a.jsonl",
         ["check", "PAIRS", "--model_name_or_path", "MODEL", "--eval_data", "FILE", "--fix", "FILE"]),
        ("export_trl", "a.jsonl",
         ["reference", "--model_name_or_path", "MODEL", "--dataset_name", "FILE", "--export_trl", "FILE"]),
        ("write_preferences", "a.jsonl", ["dispersion", "--votes", "FILE", "--write_preferences", "FILE"]),
        ("output_dir", "dispersion.parquet", ["dispersion", "--votes", "FILE"]),
        ("output_dir", "lists.jsonl",
         ["evaluate", "--prompts", "FILE", "--model", "column:responses", "--rank", "2", "--judge", "json:loads"]),
    ],
)  # fmt: skip
def test_no_command_writes_over_what_it_reads(option, file, arguments, run, model, pairs, tmp_path):
    file = tmp_path / file
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(VOTES), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in VOTES))
    before = file.read_bytes()
    words = {"FILE": file, "MODEL": model, "PAIRS": pairs}
    code, _, told = run(*(words.get(word, word) for word in arguments), "--output_dir", tmp_path)
    assert code == 2 and f"mallowspo: {option}: {file}" in told
    assert file.read_bytes() == before


def test_a_proof_leaves_nothing_behind(tmp_path):
    assert writable_folder(tmp_path / "a/b", "output_dir") == tmp_path / "a/b"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "kept").mkdir()
    writable_folder(tmp_path / "kept/new", "output_dir")
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]
    with pytest.raises(InputError, match="export_trl"):
        writable_file(tmp_path / "kept", "export_trl")
    for nowhere in ("/proc/nowhere/new", ""):
        with pytest.raises(InputError, match="^output_dir: "):
            writable_folder(nowhere, "output_dir")
    with pytest.raises(InputError, match="output_dir"):
        writable_folder(tmp_path / ("long" * 100), "output_dir")


@pytest.fixture
def no_weights(monkeypatch):
    """Loading a model's weights fails the test: what is wrong must be told before."""
    from transformers import PreTrainedModel

    def loaded(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", loaded)


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [
        ("reference", ["--attn_implementation", "nonsense"], "attn_implementation: got 'nonsense'"),
        ("reference", ["--attn_implementation", "flash_attention_2", "--use_cpu"], "attn_implementation"),
        ("reference", ["--mixed_precision", "fp16", "--use_cpu"], "mixed_precision: fp16"),
        ("reference", ["--mixed_precision", "half"], "mixed_precision: got 'half'"),
        ("train", ["--attn_implementation", "nonsense"], "attn_implementation: got 'nonsense'"),
        ("train", ["--fp16"], "fp16: "),
        ("evaluate", ["--dtype", "half"], "dtype: got 'half'"),
        ("evaluate", [], "judge: "),  # the judge of `commands` is a language model: its rewards would be random
        ("controllable", ["--bf16"], "bf16: "),
        ("controllable", ["--dtype", "half"], "dtype: got 'half'"),
    ],
)
def test_what_this_machine_has_not_is_told_before_a_model_is_loaded(
    name, options, wanted, run, model, pairs, tmp_path, no_weights, monkeypatch
):
    import torch

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    code, _, told = run(*commands(model, pairs, tmp_path / "out")[name], *options)
    assert code == 2 and told.count("mallowspo: ") == 1
    assert told.splitlines()[-1].startswith(f"mallowspo: {wanted}"), told


@pytest.mark.parametrize("name", ["reference", "train", "evaluate", "controllable", "dialogue"])
def test_a_package_that_the_weights_need_is_missed_before_a_model_is_loaded(
    name, run, model, pairs, tmp_path, no_weights, monkeypatch
):
    from transformers.quantizers import quantizer_bnb_4bit

    monkeypatch.setattr(quantizer_bnb_4bit, "is_bitsandbytes_available", lambda: False)
    folder = tmp_path / "quantised"
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    code, _, told = run(*commands(folder, pairs, tmp_path / "out")[name])
    assert code == 2 and told.count("mallowspo: ") == 1
    assert "bitsandbytes" in told and str(folder) in told


def test_the_base_model_of_an_adapter_is_looked_at_too(foreign, tmp_path):
    folder, marker = foreign
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folder)}))
    with pytest.raises(InputError, match="trust_remote_code"):
        check_saved_model("model", str(tmp_path))
    assert not marker.exists()


def saved_as(kind, model, folder, **config):
    """A random model of another class of transformers, with the tokenizer of the tests' model."""
    import transformers

    cls = getattr(transformers, kind)
    size = {"vocab_size": 400, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2} | config
    cls(cls.config_class(**size, pad_token_id=0)).save_pretrained(folder)
    for file in model.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("kind", "config", "said"),
    [
        ("T5ForConditionalGeneration", {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1}, "decoder"),
        ("BartForConditionalGeneration", {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1}, "decoder"),
        ("BertForMaskedLM", {"intermediate_size": 16}, "no next token"),
        ("LlamaForSequenceClassification", {"intermediate_size": 16}, "no next token"),
        ("LlamaModel", {"intermediate_size": 16}, "no next token"),
        ("OpenAIGPTLMHeadModel", {}, "gradient_checkpointing: "),
    ],
)
def test_a_model_that_cannot_be_trained_is_told_before_its_weights_are_read(
    kind, config, said, run, model, pairs, tmp_path, no_weights
):
    folder = saved_as(kind, model, tmp_path / "model", **config)
    for name in ("train", *(["reference", "evaluate"] if said == "decoder" else [])):
        code, _, told = run(*commands(folder, pairs, tmp_path / "out")[name])
        assert code == 2 and said in told.splitlines()[-1] and told.count("mallowspo: ") == 1, told


def test_a_configuration_without_a_class_is_told(run, model, pairs, tmp_path, no_weights):
    folder = saved_as("LlamaForCausalLM", model, tmp_path / "model", intermediate_size=16)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": None}))
    code, _, told = run(*commands(folder, pairs, tmp_path / "out")["train"])
    assert code == 2 and "architectures" in told
    assert told.splitlines()[-1].startswith("mallowspo: model_name_or_path: ")


@pytest.mark.parametrize("name", ["reference", "evaluate"])
def test_weights_that_are_not_there_are_not_drawn_at_random(name, run, model, pairs, tmp_path):
    folder = saved_as("LlamaModel", model, tmp_path / "model", intermediate_size=16)
    (tmp_path / "judges.py").write_text("def tie(prompt, a, b):\n    return 'tie'\n")
    given = [*commands(folder, pairs, tmp_path / "out")[name], *(["--judge", "judges:tie"] * (name == "evaluate"))]
    code, _, told = run(*given)
    assert code == 2 and "lm_head.weight" in told and "at random" in told, told


CODE = ("check", "reference", "train", "evaluate", "controllable", "dialogue", "estimator")


def with_code(name, folder, pairs, out):
    given = commands(folder, pairs, out)[name]
    if name == "estimator":
        given = [*given, "--model_name_or_path", folder, "--votes", f"x={pairs}"]
    return given


@pytest.mark.parametrize("name", CODE)
def test_code_of_a_model_never_runs_unasked(name, run, foreign, pairs, tmp_path):
    folder, marker = foreign
    code, _, told = run(*with_code(name, folder, pairs, tmp_path / "out"))
    assert code == 2 and "trust_remote_code" in told and "[y/N]" not in told, told
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("evaluate", "--baseline", "{}"),
        ("evaluate", "--judge", "reward:{}"),
        ("dialogue", "--judge", "reward:{}"),
        ("dialogue", "--judge_base", "{}"),
        ("controllable", "--reward_model", "{}"),
    ],
)
def test_code_of_a_second_model_never_runs_unasked(
    name, option, value, run, model, foreign, pairs, tmp_path, no_weights
):
    folder, marker = foreign
    code, _, told = run(*commands(model, pairs, tmp_path / "out")[name], option, value.format(folder))
    assert code == 2 and option[2:] in told and "trust_remote_code" in told and str(folder) in told, told
    assert not marker.exists()


def test_code_of_a_model_runs_where_it_is_asked_for(run, foreign, pairs, tmp_path, monkeypatch):
    folder, marker = foreign
    code, _, _ = run(*with_code("check", folder, pairs, tmp_path / "out"), "--trust_remote_code")
    assert code == 2 and marker.exists()  # the class is no tokenizer
    marker.unlink()


@pytest.mark.parametrize("name", ["check", "reference", "train"])
def test_a_tokenizer_that_knows_no_word_is_named_and_not_the_rows(name, run, model, pairs, tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path / "model"
    folder.mkdir()
    for file in model.iterdir():
        if "token" not in file.name:
            (folder / file.name).write_bytes(file.read_bytes())
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), eos_token="</s>").save_pretrained(folder)
    code, _, told = run(*commands(folder, pairs, tmp_path / "out")[name])
    last = told.splitlines()[-1]
    assert code == 2 and last.startswith("mallowspo: tokenizer: ") and str(folder) in last and "row" not in last


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "out/model.safetensors"),
        PermissionError(errno.EACCES, "Permission denied", "out/model.safetensors"),
        OSError(errno.EROFS, "Read-only file system", "out/model.safetensors"),
        OSError("[Errno 28] Error writing bytes to out/model.safetensors. Detail: No space left on device"),
        Exception("No space left on device (os error 28)"),  # tokenizers, which is written in Rust
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


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("[Errno 28] No space left on device", "this machine"),
        ("[Errno 28] Error writing bytes to out/a. Detail: No space left on device", "Error writing bytes to out/a"),
        ("Error writing bytes to file. Detail: [errno 28] No space left on device", "Error writing bytes to file"),
        ("I/O error: No space left on device (os error 28)", "I/O error"),
        ("[Errno 28] No space left on device: 'out/a'", "'out/a'"),
    ],
)
def test_what_the_system_says_is_said_once(said, wanted):
    told = message_of(OSError(said))
    assert told.startswith(f"{wanted}: No space left on device; ") and told.count("No space left") == 1
    assert "28" not in told and "Detail" not in told


def test_our_own_mistakes_keep_their_traceback(tmp_path):
    for error in (
        Exception("x"),
        Exception("(os error x)"),
        KeyError("x"),
        OSError(errno.EBADF, "Bad file descriptor"),
        ValueError("x"),
        RuntimeError("x"),
    ):
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


def test_a_table_whose_reader_goes_away_is_no_error(model, pairs, tmp_path):
    """As `mallowspo check … | head -1`: rich, which prints the table, ends in a way of its own."""
    ours, theirs = os.pipe()
    os.close(ours)
    command = ["check", pairs, "--model_name_or_path", model, "--output_dir", tmp_path]
    done = subprocess.run([*PROGRAM, *command], stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    os.close(theirs)
    assert done.returncode == 141 and "mallowspo: " not in done.stderr, done.stderr


def test_a_terminal_without_our_letters(tmp_path):
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*PROGRAM, "dispersion", "--help"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_train_and_reference_agree_on_a_precision_where_none_is_given(tmp_path):
    from mallowspo import MallowsPOConfig

    assert MallowsPOConfig(str(tmp_path), use_cpu=True).bf16 is False
    assert MallowsPOConfig(str(tmp_path), use_cpu=True, bf16=True).bf16 is True
