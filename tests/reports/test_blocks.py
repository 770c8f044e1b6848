from __future__ import annotations

import pytest

from mallowspo.errors import InputError
from mallowspo.reports.blocks import Callout, Figure, Report, Section, Table
from mallowspo.reports.markdown import render_markdown


def test_columns_of_numbers_are_set_right_and_words_left():
    table = Table(
        ["method", "value", "difference", "p", "mixed", "none"],
        [["DPO", 0.5, "+0.03 [−0.01, 0.07]", "< 0.001", "0.5", ""], ["IPO", "12 %", "–", "0.04", "fails", "x"]],
    )
    assert table.alignment == "lrrrll"
    assert Table(["a", "b"], [["x", "y"]], align="cr").alignment == "cr"
    assert Table(["a"], []).alignment == "l"


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Table([], []), "header is empty"),
        (lambda: Table(["a", "b"], [["x", 1], ["y"]]), r"row 1 is \['y'\], expected 2 cells"),
        (lambda: Table(["a", "b"], ["xy"]), "row 0 is 'xy'"),
        (lambda: Table(["a", "b"], [], align="l"), "align is 'l', expected 2 letters"),
        (lambda: Table(["a"], [], align="x"), "align is 'x'"),
        (lambda: Callout("hint", "x"), "kind: got 'hint', expected one of 'note'"),
        (lambda: Figure("a.png", alt=" "), "alt is empty"),
        (lambda: Section(" "), "heading is empty"),
        (lambda: Section("a", [], [Section("b", [], [Section("c")])]), "'b' is nested more than two deep"),
    ],
)
def test_mistakes_are_told_where_they_are_made(build, says):
    with pytest.raises(InputError, match=says):
        build()


def test_a_page_is_markdown_too():
    table = Table(["method", "gain"], [["a|b", "0.1"]], "At β = 1.")
    sections = [Section("Numbers", [table, Figure("figures/a.svg", "A line", "It rises.")], [Section("More")])]
    said = render_markdown(Report("A study", "It *works*.", sections), figures="there")
    assert said.split("\n\n") == [
        "It *works*.", "## Numbers", "At β = 1.", "| method | gain |\n|---|---|\n| a\\|b | 0.1 |",
        "![A line](there/a.png)", "It rises.", "### More",
    ]  # fmt: skip
    assert "More" not in render_markdown(Report("A study", "", sections), figures="there", details=False)
