"""The pages of the studies, made from the committed runs: the same each time, and what they say is what is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mallowspo.reports.markdown import render_markdown
from mallowspo.studies import STUDIES
from mallowspo.studies.pages import figure_of, interval, kl_range, limits, over_seeds, plain, point_interval, value
from mallowspo.studies.study import write_page

RUNS = Path(__file__).resolve().parents[2] / "docs/experiments"


def committed(name):
    return json.loads((RUNS / name / "results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["controllable", "noise"])
def test_a_page_is_made_again_from_its_file_and_needs_nothing_else(name, tmp_path):
    for folder in ("first", "again"):
        write_page(STUDIES[name](), tmp_path / folder, committed(name))
    made = [sorted((tmp_path / folder).rglob("*.svg")) for folder in ("first", "again")]
    assert made[0] and [path.read_bytes() for path in made[0]] == [path.read_bytes() for path in made[1]]
    html = (tmp_path / "first/report.html").read_text(encoding="utf-8")
    assert "<script" not in html and "http://" not in html.replace("http://www.w3.org", "")


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_opens_with_its_verdicts_and_ends_with_its_settings(name):
    study = STUDIES[name]()
    page, drawn = study.page(committed(name)), study.figures(committed(name))
    assert page.verdicts is not None and page.verdicts.rows
    shown = set(re.findall(r"\(there/(\w+)\.png\)", render_markdown(page, figures="there")))
    assert shown == set(drawn)
    assert any(part.heading == "Settings of the run" for section in page.sections for part in section.subsections)


@pytest.mark.parametrize(("word", "says"), [("better", "ahead"), ("worse", "behind"), ("open", "no significant")])
@pytest.mark.parametrize(
    ("name", "which", "who"),
    [
        ("world", {"method": "ipo_sum", "quantity": "agreement", "pairs": 12}, "IPO (summed)"),
        ("controllable", {"method": "mallows_phi", "baseline": "dpo"}, "MallowsPO-φ"),
        ("noise", {"method": "ipo", "quantity": "agreement", "flipped": 0.0}, "IPO"),
    ],
)
def test_a_page_says_what_its_intervals_say(name, which, who, word, says):
    results = committed(name)
    centre = {"better": 0.1, "worse": -0.1, "open": 0.0}[word]
    for row in results["comparisons"]:
        if which.items() <= row.items():
            row["difference"] = {"mean": centre, "low": centre - 0.05, "high": centre + 0.05}
            row["verdict"] = word
    shown = STUDIES[name]().page(results)
    assert any(says in str(cell) for row in shown.verdicts.rows if row[0] == who for cell in row)
    lines = [line for part in shown.sections for block in part.body for line in getattr(block, "items", ())]
    said = [line for line in lines if isinstance(line, str) and line.startswith(f"*{who}*")]
    assert any(says in line for line in said) or (name in ("noise", "world") and not said)


def test_cells_read_a_row_by_its_path():
    row = {"a": {"b": [{"mean": 0.5, "low": 0.4, "high": 0.6}]}, "n": 1234, "x": 0.25, "kl_low": 0.1, "kl_high": None}
    assert value(row, "a.b.0.mean") == 0.5 and value(row, "a.c.d") is None
    assert interval("a.b.0", scale=100)(row) == "50.00 [40.00, 60.00]" and interval("a.c")(row) == "–"
    assert point_interval("a.b.0")(row) == "+50.00 [+40.00, +60.00]" and point_interval("a.c")(row) == "–"
    assert (plain("n")(row), plain("x")(row), figure_of("x", 1, scale=100)(row)) == ("1,234", "0.25", "25.0")
    assert kl_range()(row) == "0.100––"
    assert over_seeds(3) == "3 seeds" and "decides nothing" in over_seeds(1)


def test_settings_are_shown_but_not_where_or_by_how_many_processes():
    results = {"config": {"output_dir": "x", "workers": 2, "setup": {"steps": [1, 2.5], "name": None}, "rate": 1e-4}}
    [part] = limits(results, "One.").subsections
    assert part.body[0].rows == [["setup.steps", "1, 2.5"], ["setup.name", "None"], ["rate", "0.0001"]]
