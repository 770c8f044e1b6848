"""Files that we read back, and files of others: checked for what they may hold, matched by what they say."""

import json
import resource

import numpy as np
import pytest

from mallowspo.dispersion.calibration import Calibration, calibrate
from mallowspo.errors import InputError
from mallowspo.evaluation.generation import answers_from_file
from mallowspo.evaluation.json_log import JsonLog
from mallowspo.evaluation.judge import CallableJudge, check_verdict
from mallowspo.evaluation.length_control import match_alpaca_rows
from mallowspo.evaluation.prompts import EvaluationPrompt, answer_text, as_text, read_dispersion
from mallowspo.evaluation.win_rates import check_orders, no_result

PROMPT = EvaluationPrompt(0, "Hi")


@pytest.mark.parametrize("value", [None, 5, True, ["a"], {"a": 1}])
def test_an_answer_that_is_no_text_is_refused_with_its_row(tmp_path, value):
    rows = [{"instruction": "x", "output": "fine"}, {"instruction": "Hi", "output": value}]
    (tmp_path / "o.json").write_text(json.dumps(rows))
    with pytest.raises(InputError, match=r"baseline: .*row 1 has .* as 'output'"):
        answers_from_file(tmp_path / "o.json", [PROMPT], option="baseline")
    with pytest.raises(InputError, match="expected a text or a list of messages"):
        as_text(value)


def test_an_answer_does_not_repeat_its_prompt():
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    assert answer_text(talk, PROMPT) == answer_text(talk[1:], PROMPT) == answer_text("Yes?", PROMPT) == "Yes?"
    with pytest.raises(InputError, match="that is not the prompt's"):
        answer_text(talk, EvaluationPrompt(0, "Ho"))


def test_difficulties_go_with_the_baselines_answers():
    lengths, difficulty = [10, 20, 20, 30], [0.1, 0.2, 0.4, 0.5]
    assert match_alpaca_rows(lengths, difficulty, lengths).tolist() == difficulty
    assert match_alpaca_rows(lengths, difficulty, [30, 20, 10, 20]) == pytest.approx([0.5, 0.3, 0.1, 0.3])
    for other in ([10, 20, 30, 31], [10, 20, 30, 30], [10, 20, 30]):
        with pytest.raises(InputError, match="alpaca_tables"):
            match_alpaca_rows(lengths, difficulty, other)


def test_a_dispersion_without_names_is_not_joined_by_its_order(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mallowspo.evaluation.prompts import load_prompts

    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    pq.write_table(pa.table({"dispersion": [0.1, 0.2]}), tmp_path / "d.parquet")
    with pytest.raises(InputError, match="dispersion_column"):
        read_dispersion(tmp_path / "d.parquet", load_prompts(str(tmp_path / "p.jsonl")))


def test_a_dispersion_with_columns_that_no_row_can_hold_is_joined_by_the_others(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mallowspo.evaluation.prompts import load_prompts

    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    twice = pa.StructArray.from_arrays([pa.array([1, 2])] * 2, names=["x", "x"])
    columns = {"prompt": ["b", "a"], "dispersion": [0.1, 0.2]}
    pq.write_table(pa.table(columns | {"note": twice}), tmp_path / "d.parquet")
    prompts = load_prompts(str(tmp_path / "p.jsonl"))
    assert read_dispersion(tmp_path / "d.parquet", prompts).tolist() == [0.2, 0.1]
    pq.write_table(pa.table({"prompt": [["a"], ["b"]], "dispersion": [0.1, 0.2]}), tmp_path / "d.parquet")
    with pytest.raises(InputError, match="'prompt'"):
        read_dispersion(tmp_path / "d.parquet", prompts)
    pq.write_table(pa.table({"prompt_id": twice, "dispersion": [0.1, 0.2]}), tmp_path / "d.parquet")
    with pytest.raises(InputError, match="dispersion"):
        read_dispersion(tmp_path / "d.parquet", prompts)


@pytest.mark.parametrize("verdict", [7, -0.5, float("nan"), True, None, "C", ["A"], {}])
def test_a_verdict_out_of_range_is_named_by_its_line(tmp_path, verdict):
    records = [{"key": "a", "verdict": 0.25}, {"key": "b", "verdict": verdict}]
    (tmp_path / "verdicts.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    with pytest.raises(InputError, match=r"verdicts\.jsonl: line 2"):
        CallableJudge("mine:judge", "", lambda *_: "A").judge([], tmp_path)
    with pytest.raises(InputError, match="here .*the verdict"):
        check_verdict(records[1], "here")


def test_a_failed_write_leaves_no_half_line(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with JsonLog(tmp_path / "v.jsonl") as log:
        log.append({"key": "a"})
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
            with pytest.raises(InputError, match=r"v\.jsonl: cannot be written .*1 lines before are whole"):
                log.append({"key": "b" * 500})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        log.append({"key": "c"})
    with JsonLog(tmp_path / "v.jsonl") as log:
        assert log.records == [{"key": "a"}, {"key": "c"}]


@pytest.mark.parametrize(
    ("field", "value"),
    [("scale", -3.0), ("scale", float("nan")), ("clip", [5, 1]), ("clip", [0]), ("per", "x"), ("rows", -1)],
)
def test_a_calibration_out_of_range_is_refused(field, value):
    written = json.loads(json.dumps(calibrate([0.5, 1.0], source="column").to_dict()))
    assert Calibration.from_dict(written).scale == pytest.approx(4 / 3)
    with pytest.raises(InputError, match=f"calibration: .* as {field}"):
        Calibration.from_dict(written | {field: value})


def test_a_judge_that_contradicts_itself_has_no_result():
    first, second = np.ones(50), np.zeros(50)
    second[:4] = 1
    said = no_result(check_orders(first, second), 50)
    assert "no result" in said and "8% of 50 pairs" in said and "first in 96%" in said
    assert no_result(check_orders([1, 1, 0, 1], [1, 1, 0, 0]), 4) is None
    assert "90 of 100" in no_result(check_orders([0.5] * 50, [0.5] * 50), 50, missing=90)
