"""What the dialogue study's page shows is what its committed run holds; the preparation of HH for the full size."""

import importlib.util
import json
from pathlib import Path

from dialogue_world import dialogue_rows, write_lines

from forks import run_script

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_shows_the_committed_run(tmp_path):
    done = run_script(ROOT / "docs/runs/dialogue_study.py", "--check", log=tmp_path / "log")
    assert done.returncode == 0, done.stderr
    page = (ROOT / "docs/experiments/dialogue.md").read_text(encoding="utf-8")
    for part in page.split("](dialogue/")[1:]:
        assert (ROOT / "docs/experiments/dialogue" / part.split(")")[0]).is_file()


def test_single_turns_of_whole_dialogues(tmp_path):
    spec = importlib.util.spec_from_file_location("hh_single_turn", ROOT / "docs/runs/hh_single_turn.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rows = dialogue_rows(12, turns=2)
    (tmp_path / "hh").mkdir()
    for split in ("train", "test"):
        whole = [{side: row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in rows]
        write_lines(tmp_path / f"hh/{split}.jsonl", whole)
    module.main(str(tmp_path / "hh"), str(tmp_path / "out"))
    single = [row for row in rows if row["prompt"].count("Human:") == 1]
    read = [json.loads(line) for line in (tmp_path / "out/test.jsonl").read_text().splitlines()]
    assert read == single and len(single) == 8
    sft = [json.loads(line) for line in (tmp_path / "out/sft/train.jsonl").read_text().splitlines()]
    assert sft == [{"prompt": row["prompt"], "completion": row["chosen"]} for row in single]
