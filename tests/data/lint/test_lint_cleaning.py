"""`--fix`: what is left passes, a second run changes nothing, and the log names every row that went."""

import gzip
import json
import random

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lint_rows import as_chat, clean_rows, write_lines

from mallowspo.data import load_preferences, validate_rows
from mallowspo.data.lint import CheckSettings, check_preferences, cleaning, write_cleaned
from mallowspo.errors import InputError
from tiny import CHAT_TEMPLATE, tiny_tokenizer

CLEAN = clean_rows(30)
FAULTS = {
    "unparsable": "not a row",
    "malformed_row": {"prompt": 1, "chosen": " a", "rejected": " b"},
    "empty_response": {"prompt": "p one", "chosen": "", "rejected": " b"},
    "identical_pair": {"prompt": "p two", "chosen": " b", "rejected": " b"},
    "near_identical_pair": {"prompt": "p 3", "chosen": " yes, the same words", "rejected": " Yes, the same words"},
    "duplicate_row": CLEAN[2],
    "both_orders": CLEAN[3] | {"chosen": CLEAN[3]["rejected"], "rejected": CLEAN[3]["chosen"]},
    "bos_doubled": {"prompt": "<s>p", "chosen": " one two", "rejected": " no"},
    "eos_doubled": {"prompt": "p 4", "chosen": " one two</s> ", "rejected": " no"},
    "boundary_merge": {"prompt": "Question: what is the be", "chosen": "st way", "rejected": " no, none"},
    "prompt_too_long": {"prompt": "p " * 200, "chosen": " yes", "rejected": " no"},
    "mojibake": {"prompt": "p 5", "chosen": " cafÃ©", "rejected": " coffee"},
    "unpaired_surrogate": {"prompt": "p 6", "chosen": " \ud83d", "rejected": " b"},
}  # fmt: skip
SETTINGS = CheckSettings(max_length=128)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_cleaned_set_has_the_sound_rows_and_the_log_the_others(tmp_path, tokenizer):
    path = write_lines(tmp_path / "rows.jsonl", [*CLEAN, *FAULTS.values()])
    report = check_preferences(path, tokenizer, SETTINGS)
    assert report.has_errors
    cleaned = write_cleaned(report, tmp_path / "out" / "clean.jsonl")
    assert lines_of(tmp_path / "out/clean.jsonl") == [row for i, row in enumerate(CLEAN) if i != 3]
    logged = {entry["row"]: entry["reasons"] for entry in lines_of(tmp_path / "out/clean.dropped.jsonl")}
    expected = {31 + i: [kind] for i, kind in enumerate(FAULTS)} | {4: ["both_orders"]}
    assert logged == expected
    assert (cleaned.kept, cleaned.dropped, cleaned.left_alone) == (29, len(FAULTS) + 1, ())
    assert cleaned.reasons == {kind: 1 for kind in FAULTS} | {"both_orders": 2}
    # Rows that this project's own loader takes without a complaint.
    assert len(validate_rows(load_preferences(tmp_path / "out/clean.jsonl").dataset).dataset) == 29


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(sorted(FAULTS)), max_size=25), st.integers(1, 30), st.randoms(use_true_random=False))
def test_a_second_run_finds_no_error_and_drops_nothing(tmp_path, tokenizer, faults, sound, shuffle):
    rows = [*CLEAN[:sound], *(FAULTS[fault] for fault in faults)]
    random.Random(shuffle.random()).shuffle(rows)
    path = write_lines(tmp_path / "rows.jsonl", rows)
    first = write_cleaned(check_preferences(path, tokenizer, SETTINGS), tmp_path / "once.jsonl")
    report = check_preferences(tmp_path / "once.jsonl", tokenizer, SETTINGS)
    assert {f.kind for f in report.findings if f.severity == "error"} == set(first.left_alone)
    second = write_cleaned(report, tmp_path / "twice.jsonl")
    assert (second.kept, second.dropped) == (first.kept, 0)
    assert (tmp_path / "twice.jsonl").read_text() == (tmp_path / "once.jsonl").read_text()
    assert first.kept + first.dropped == len(rows)


def test_a_template_at_fault_is_told_apart_from_rows_at_fault(tmp_path):
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.chat_template = "{{ bos_token }}" + CHAT_TEMPLATE.replace("</s>", "")
    rows = as_chat(CLEAN)
    rows[3]["chosen"] = rows[3]["rejected"]
    report = check_preferences(write_lines(tmp_path / "rows.jsonl", rows), tokenizer)
    cleaned = write_cleaned(report, tmp_path / "clean.jsonl")
    assert (cleaned.kept, cleaned.dropped, cleaned.left_alone) == (29, 1, ("eos_missing",))


def test_packed_and_parquet_output(tmp_path, tokenizer):
    rows = [row | {"source": f"s{i}", "votes": [i, 0]} for i, row in enumerate(CLEAN)]
    report = check_preferences(write_lines(tmp_path / "rows.jsonl", [*rows, "broken"]), tokenizer)
    write_cleaned(report, tmp_path / "clean.jsonl.gz")
    unpacked = gzip.decompress((tmp_path / "clean.jsonl.gz").read_bytes()).decode()
    assert [json.loads(line) for line in unpacked.splitlines()] == rows
    write_cleaned(report, tmp_path / "clean.parquet")
    assert pq.read_table(tmp_path / "clean.parquet").to_pylist() == rows


def test_outputs_that_cannot_be(tmp_path, tokenizer):
    path = write_lines(tmp_path / "rows.jsonl", CLEAN)
    report = check_preferences(path, tokenizer)
    with pytest.raises(InputError, match="expected one of"):
        write_cleaned(report, tmp_path / "clean.csv")
    with pytest.raises(InputError, match="the data itself"):
        write_cleaned(report, path)
    nothing = check_preferences(write_lines(tmp_path / "bad.jsonl", [FAULTS["identical_pair"]]), tokenizer)
    with pytest.raises(InputError, match="none of the 1 rows"):
        write_cleaned(nothing, tmp_path / "clean.jsonl")
    write_lines(path, CLEAN[:5])
    write_lines(path, ["", *CLEAN])
    with pytest.raises(InputError, match="the data changed"):
        write_cleaned(report, tmp_path / "clean.jsonl")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.jsonl", "rows.jsonl"]


def test_parquet_output_in_several_groups(tmp_path, tokenizer, monkeypatch):
    """A later group may lack a column, and Arrow's cast of `tools` to its own type breaks it."""
    monkeypatch.setattr(cleaning, "_PARQUET_ROWS", 2)
    tools = [{"name": name, "strict": None} for name in "fg"]
    rows = [
        {"prompt": f"p{i}", "chosen": f" yes {i}", "rejected": " no", "tools": tools}
        | ({"note": "x"} if i < 2 else {})
        for i in range(5)
    ]
    report = check_preferences(write_lines(tmp_path / "rows.jsonl", rows), tokenizer)
    write_cleaned(report, tmp_path / "clean.parquet")
    expected = [row | {"note": row.get("note")} for row in rows]
    assert pq.read_table(tmp_path / "clean.parquet").to_pylist() == expected
