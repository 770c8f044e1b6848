"""`mallowspo check` as its users call it: exit codes, files and the table."""

import json
from pathlib import Path

import pytest

from cli.commands import call, refused
from forks import run_program
from tiny import tiny_llama, tiny_tokenizer


def rows(n=30):
    found = []
    for i in range(n):
        long, short = f" seven wizards jump over the pond {i}", f" no {i} brown fox"
        chosen, rejected = (long, short) if i % 2 else (short, long)
        found.append({"prompt": f"Question {i}: how are you?", "chosen": chosen, "rejected": rejected})
    return found


def write(path, data):
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    return path


def check(*arguments):
    """The exit code, and what was said on each stream."""
    return call("check", *arguments)


def test_clean_data_as_a_process(model, tmp_path):
    write(tmp_path / "rows.jsonl", rows())
    arguments = ["check", "rows.jsonl", "--model_name_or_path", model]
    done = run_program(arguments, tmp_path / "log", cwd=tmp_path)
    # Without a terminal there are lines of progress, and nothing else.
    assert done.returncode == 0 and all(
        line.startswith(("mallowspo check: ", "Checking ")) for line in done.stderr.splitlines()
    )
    assert "Nothing was found." in done.stdout and "longer response is preferred in 50.0 %" in done.stdout
    record = json.loads((tmp_path / "output/check/check.json").read_text())
    assert (record["data"], record["rows"], record["exit_code"], record["findings"]) == ("rows.jsonl", 30, 0, [])
    assert record["settings"]["max_length"] == 1024


def test_ids_that_the_model_has_no_row_for_are_errors(tmp_path):
    tokenizer = tiny_tokenizer()
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(tmp_path / "model")
    data = rows()
    data[4]["chosen"] += " <tool>"
    path = write(tmp_path / "rows.jsonl", data)
    code, said, _ = check(path, "--model_name_or_path", tmp_path / "model", "--output_dir", tmp_path / "out")
    found = json.loads((tmp_path / "out/check.json").read_text())["findings"]
    assert code == 1 and [(f["kind"], f["count"]) for f in found if f["severity"] == "error"] == [
        ("unknown_token_id", 1)
    ]
    assert "resize_token_embeddings" in said


def test_errors_give_code_1_a_table_a_page_and_a_cleaned_set(model, tmp_path):
    bad = rows()
    bad[4]["chosen"] = bad[4]["rejected"]
    data = write(tmp_path / "rows.jsonl", bad)
    folder = tmp_path / "splits"
    folder.mkdir()
    write(folder / "test.jsonl", rows()[7:8])
    common = ["--model_name_or_path", model, "--output_dir", tmp_path / "out", "--eval_data", folder]
    code, shown, _ = check(data, *common, "--fix", tmp_path / "clean.jsonl", "--html", "--max_length", 0)
    assert code == 1 and "identical_pair" in shown and "prompt_in_eval" in shown and "row 5: " in shown
    record = json.loads((tmp_path / "out/check.json").read_text())
    assert [(f["kind"], f["count"]) for f in record["findings"]] == [("identical_pair", 1), ("prompt_in_eval", 1)]
    assert record["findings"][0]["examples"][0]["row"] == 5
    assert record["settings"]["max_length"] is None and record["fix"]["dropped"] == 2
    page = (tmp_path / "out/check.html").read_text()
    assert "identical pair" in page and "how are you?" in page
    assert check(tmp_path / "clean.jsonl", *common)[0] == 0


def test_warnings_alone_give_code_0(model, tmp_path):
    data = rows()
    data[3]["chosen"] += " \ufffd"
    path = write(tmp_path / "rows.jsonl", data)
    code, said, _ = check(path, "--model_name_or_path", model, "--output_dir", tmp_path)
    assert code == 0 and "replacement_character" in said


def test_bad_input_gives_code_2_and_one_message(model, tmp_path):
    data = write(tmp_path / "rows.jsonl", rows())
    other = write(tmp_path / "other.jsonl", [{"question": "a", "answer": "b"}])
    given = ["--model_name_or_path", model, "--output_dir", tmp_path / "out"]
    for arguments, message in [
        ([tmp_path / "none.jsonl", *given], "there is no file or folder"),
        ([other, *given], "rename yours"),
        ([data, "--model_name_or_path", tmp_path / "no-model"], "no folder"),
        ([data, "--model_name_or_path", tmp_path], "gives no tokenizer"),
        ([data, *given, "--split", "test"], "only has 'train'"),
        ([data, *given, "--max_length", "1"], "max_length"),
        ([data, *given, "--max_length", "-5"], "max_length"),
        ([data, *given, "--truncation_mode", "middle"], "truncation_mode"),
        ([data, *given, "--near_duplicate_threshold", "2"], "near_duplicate_threshold"),
        ([data, *given, "--fix", tmp_path / "clean.txt"], "expected one of"),
        ([data, *given, "--eval_data", tmp_path / "none.jsonl"], "there is no file or folder"),
    ]:
        assert message in refused("check", *arguments)
    assert not (tmp_path / "out").exists()


def test_a_line_that_is_no_row_is_a_finding(model, tmp_path):
    data = write(tmp_path / "rows.jsonl", rows())
    data.write_text(data.read_text() + "oops\n")
    code, said, _ = check(data, "--model_name_or_path", model, "--output_dir", tmp_path)
    assert code == 1 and "row 31: not valid JSON" in said


@pytest.mark.shared
def test_the_committed_findings_are_what_it_finds(shared, tmp_path):
    """docs/check/helpful_train.json was written by the command in docs/check.md."""
    root = Path(__file__).resolve().parent.parent.parent
    committed = json.loads((root / "docs/check/helpful_train.json").read_text())
    code, _, _ = check(
        shared / "data/hh/helpful_train.jsonl.gz", "--model_name_or_path", shared / "models/stories-260k",
        "--eval_data", shared / "data/hh/helpful_test.jsonl.gz", "--max_length", 512, "--output_dir", tmp_path,
    )  # fmt: skip
    assert code == 1
    found = json.loads((tmp_path / "check.json").read_text())
    assert found["findings"] == committed["findings"] and found["statistics"] == committed["statistics"]
