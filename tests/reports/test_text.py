from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mallowspo.reports.sections import table, verdict_line
from mallowspo.reports.text import (
    format_duration,
    format_interval,
    format_number,
    format_p,
    format_signed,
    interval_text,
    joined,
    percent,
    plural,
    points,
)


@given(st.floats(-1e6, 1e6), st.integers(0, 6))
def test_a_number_reads_back_to_half_a_digit(value, digits):
    back = float(format_number(value, digits).replace("−", "-"))
    assert abs(back - value) <= 0.5 * 10.0**-digits * (1 + 1e-9) + 1e-9


@given(st.floats(-1e6, 1e6), st.integers(0, 6))
def test_a_sign_is_shown_exactly_where_the_digits_are_not_zero(value, digits):
    text = format_signed(value, digits)
    shown = float(text.replace("−", "-"))
    assert text[0] in "+−" if shown else text[0] not in "+−"
    assert "-" not in text, "the hyphen is no minus sign"


@pytest.mark.parametrize(
    ("value", "plain", "signed"),
    [(math.nan, "–", "–"), (math.inf, "∞", "+∞"), (-math.inf, "−∞", "−∞"), (-0.0, "0.00", "0.00")],
)
def test_what_is_no_ordinary_number(value, plain, signed):
    assert format_number(value) == plain
    assert format_signed(value) == signed


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (format_interval(0.52, 0.49, 0.55), "0.52 [0.49, 0.55]"),
        (format_interval(-0.1, -0.2, 0.0, 1, signed=True), "−0.1 [−0.2, 0.0]"),
        (format_interval(0.5, math.nan, math.nan), "0.50 [–, –]"),
        (format_p(0.0), "p < 0.001"),
        (format_p(0.000999), "p < 0.001"),
        (format_p(0.001), "p = 0.001"),
        (format_p(0.0496), "p = 0.050"),
        (format_p(0.0994), "p = 0.099"),
        (format_p(0.0996), "p = 0.10"),
        (format_p(1.0), "p = 1.00"),
        (format_p(math.nan), "p = –"),
        (format_duration(0.0), "0.0 s"),
        (format_duration(59.94), "59.9 s"),
        (format_duration(59.96), "1 min 0 s"),  # never 60
        (format_duration(3599.4), "59 min 59 s"),
        (format_duration(3599.6), "1 h 0 min"),
        (format_duration(90000), "25 h 0 min"),
        (interval_text({"mean": 0.5, "low": 0.4, "high": 0.6}), "0.50 [0.40, 0.60]"),
        (interval_text([0.5, None, None], signed=True), "+0.50"),
        (interval_text(None), "–"),
        (points({"mean": 0.01, "low": 0.00004, "high": 0.02}), "+1.000 [+0.004, +2.000]"),
        (points([0.01, -0.01, 0.02]), "+1.00 [−1.00, +2.00]"),
        (percent(0.1234), "12.3%"),
        (percent(None), "–"),
        (plural(1, "pair"), "1 pair"),
        (plural(1200, "pair"), "1,200 pairs"),
        (joined(["a"]), "a"),
        (joined(["a", "b", "c"]), "a, b and c"),
    ],
)
def test_numbers_and_lists_in_words(said, text):
    assert said == text


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("better", "ahead of DPO"),
        ("worse", "behind DPO"),
        ("open", "no significant difference from DPO"),
        ("less", "less than DPO"),
    ],
)
def test_one_line_says_a_methods_verdict(verdict, said):
    row = {"verdict": verdict, "difference": {"mean": 0.1, "low": 0.0, "high": 0.2}}
    assert verdict_line("IPO", row, "+0.10 points") == f"*IPO*: {said}, +0.10 points."
    assert "nothing to compare" in verdict_line("IPO", {"verdict": "open", "difference": [None, None, None]}, "")


def test_a_table_shows_each_row_by_its_columns():
    assert table([{"x": 1.0}], {"name": lambda row: "one", "x": lambda row: f"{row['x']:g}"}).rows == [["one", "1"]]
