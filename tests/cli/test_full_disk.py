"""A disk that fills up while a command writes: exit code 2, one message, and no half of a file under its name."""

import json
import os
import resource
import signal
import sys
from pathlib import Path
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest

from cli.commands import save_tiny
from forks import in_child

WORDS = "one two three four five six".split()
JUDGE = "def longer(prompt, a, b):\n    return 'A' if len(a) > len(b) else 'B'\n"


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A model, rows, a store of them, and a judge."""
    folder = tmp_path_factory.mktemp("given")
    save_tiny(folder / "model")
    rows = [{"prompt": f"Say {one}:", "chosen": f" {one} fine", "rejected": f" no {one}"} for one in WORDS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "judges_of_lengths.py").write_text(JUDGE)
    assert run(commands(folder, folder / "store")["reference"])[0] == 0
    return folder


def commands(given, out):
    rows = ["--dataset_name", given / "rows.jsonl", "--output_dir", out]
    return {
        "reference": ["reference", "--model_name_or_path", given / "model", *rows, "--use_cpu", "--shard_rows", "2"],
        "dispersion": ["dispersion", "--reference", given / "store", *rows],
        "evaluate": [
            *(
                "evaluate",
                "--model",
                given / "model",
                "--baseline",
                given / "model",
                "--prompts",
                given / "rows.jsonl",
            ),
            *("--judge", "judges_of_lengths:longer", "--output_dir", out, "--use_cpu", "--max_new_tokens", "4"),
            *("--temperature", "1", "--resamples", "20"),
        ],
    }


def run(arguments, limit=None):
    """The exit code and the messages of the program in a child, in which no file may be longer than `limit` bytes."""
    ours, theirs = os.pipe()

    def work():
        os.dup2(theirs, 2)
        sys.stderr = os.fdopen(2, "w")
        os.chdir(Path(arguments[2]).parent)  # where the judge is looked for
        if limit is not None:
            import mallowspo.outputs

            mallowspo.outputs._PROBE_BYTES = 0  # what fills up later is not foreseen
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        from mallowspo.cli.main import main

        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            sys.stderr.flush()
            os._exit(end.code)

    child = in_child(work)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


def files(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def require_whole(path):
    """Read a file as its users do."""
    if path.suffix == ".parquet":
        pq.read_table(path)
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".jsonl":
        content = path.read_text()
        assert content == "" or content.endswith("\n")
        assert all(isinstance(json.loads(line), dict) for line in content.splitlines())
    elif path.suffix == ".html":
        assert path.read_text().rstrip().endswith("</html>")
    elif path.suffix == ".svg":
        ElementTree.parse(path)
    elif path.suffix == ".pdf":
        assert path.read_bytes().rstrip().endswith(b"%%EOF")
    elif path.suffix == ".png":
        assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    else:
        raise AssertionError(f"{path}: nobody has said how to read it")


@pytest.mark.parametrize("command", ["reference", "dispersion", "evaluate"])
def test_a_disk_that_is_full_leaves_whole_files_and_the_same_command_then_ends(given, tmp_path, command):
    whole = tmp_path / "whole"
    assert run(commands(given, whole)[command])[0] == 0
    written = files(whole)
    sizes = sorted({(whole / name).stat().st_size for name in written} - {0})
    assert len(sizes) > 1
    for place in {len(sizes) // 2, len(sizes) - 1}:
        out = tmp_path / f"full-{place}"
        code, said = run(commands(given, out)[command], limit=sizes[place] - 1)
        assert code == 2 and "Traceback" not in said and "mallowspo:" in said, said
        for name in files(out):
            require_whole(out / name)
        assert len(files(out)) < len(written)
        code, said = run(commands(given, out)[command])
        assert code == 0, said
        assert files(out) == written
