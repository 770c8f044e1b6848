"""`--fix`: what is left passes, a second run changes nothing, and the log names every row that went."""

import gzip
import json
import random

import pyarrow.parquet as pq
import pytest
from data_rows import as_chat, clean_rows, pair, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mallowspo.data import load_preferences, validate_rows
from mallowspo.data.lint import CheckSettings, check_preferences, cleaning, write_cleaned
from mallowspo.errors import InputError
from tiny import CHAT_TEMPLATE, tiny_tokenizer

CLEAN = clean_rows(30)
FAULTS = {
    "unparsable": "not a row",
    "malformed_row": pair(1, " a", " b"),
    "empty_response": pair("p one", "", " b"),
    "identical_pair": pair("p two", " b", " b"),
    "near_identical_pair": pair("p 3", " yes, the same words", " Yes, the same words"),
    "duplicate_row": CLEAN[2],
    "both_orders": pair(CLEAN[3]["prompt"], CLEAN[3]["rejected"], CLEAN[3]["chosen"]),
    "bos_doubled": pair("<s>p", " one two", " no"),
    "eos_doubled": pair("p 4", " one two</s> ", " no"),
    "boundary_merge": pair("Question: what is the be", "st way", " no, none"),
    "prompt_too_long": pair("p " * 200, " yes", " no"),
    "mojibake": pair("p 5", " cafÃ©", " coffee"),
    "unpaired_surrogate": pair("p 6", " \ud83d", " b"),
}
SETTINGS = CheckSettings(max_length=128)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_cleaned_set_has_the_sound_rows_and_the_log_the_others(tmp_path, tokenizer):
    path = write(tmp_path / "rows.jsonl", [*CLEAN, *FAULTS.values()])
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


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(sorted(FAULTS)), max_size=25), st.integers(1, 30), st.randoms(use_true_random=False))
def test_a_second_run_finds_no_error_and_drops_nothing(tmp_path, tokenizer, faults, sound, shuffle):
    rows = [*CLEAN[:sound], *(FAULTS[fault] for fault in faults)]
    random.Random(shuffle.random()).shuffle(rows)
    path = write(tmp_path / "rows.jsonl", rows)
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
    report = check_preferences(write(tmp_path / "rows.jsonl", rows), tokenizer)
    cleaned = write_cleaned(report, tmp_path / "clean.jsonl")
    assert (cleaned.kept, cleaned.dropped, cleaned.left_alone) == (29, 1, ("eos_missing",))


def test_packed_and_parquet_output(tmp_path, tokenizer):
    rows = [row | {"source": f"s{i}", "votes": [i, 0]} for i, row in enumerate(CLEAN)]
    report = check_preferences(write(tmp_path / "rows.jsonl", [*rows, "broken"]), tokenizer)
    write_cleaned(report, tmp_path / "clean.jsonl.gz")
    unpacked = gzip.decompress((tmp_path / "clean.jsonl.gz").read_bytes()).decode()
    assert [json.loads(line) for line in unpacked.splitlines()] == rows
    write_cleaned(report, tmp_path / "clean.parquet")
    assert pq.read_table(tmp_path / "clean.parquet").to_pylist() == rows


def test_outputs_that_cannot_be(tmp_path, tokenizer):
    path = write(tmp_path / "rows.jsonl", CLEAN)
    report = check_preferences(path, tokenizer)
    with pytest.raises(InputError, match="expected one of"):
        write_cleaned(report, tmp_path / "clean.csv")
    with pytest.raises(InputError, match=r"^fix: .*rows\.jsonl holds what is read"):
        write_cleaned(report, path)
    nothing = check_preferences(write(tmp_path / "bad.jsonl", [FAULTS["identical_pair"]]), tokenizer)
    with pytest.raises(InputError, match="none of the 1 rows"):
        write_cleaned(nothing, tmp_path / "clean.jsonl")
    write(path, CLEAN[:5])
    write(path, ["", *CLEAN])
    with pytest.raises(InputError, match="the data changed"):
        write_cleaned(report, tmp_path / "clean.jsonl")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.jsonl", "rows.jsonl"]


def test_parquet_output_in_several_groups(tmp_path, tokenizer, monkeypatch):
    """A later group may lack a column, and Arrow's cast of `tools` to its own type breaks it."""
    monkeypatch.setattr(cleaning, "_PARQUET_ROWS", 2)
    tools = [{"name": name, "strict": None} for name in "fg"]
    rows = [pair(f"p{i}", f" yes {i}", " no", tools=tools, **({"note": "x"} if i < 2 else {})) for i in range(5)]
    report = check_preferences(write(tmp_path / "rows.jsonl", rows), tokenizer)
    write_cleaned(report, tmp_path / "clean.parquet")
    expected = [row | {"note": row.get("note")} for row in rows]
    assert pq.read_table(tmp_path / "clean.parquet").to_pylist() == expected
