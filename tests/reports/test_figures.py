from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.text import Text
from synthetic_study import GROUPS, MAKERS, METHODS, around

from mallowspo.errors import InputError
from mallowspo.reports.figure_style import METHOD_STYLES
from mallowspo.reports.figures import (
    Curve,
    frontier_figure,
    grouped_interval_figure,
    heat_map_figure,
    histogram_figure,
    index_scatter_figure,
    line_figure,
    panel_figure,
)
from mallowspo.reports.text import format_number
from mallowspo.stats.intervals import Interval

LONG = "A title that somebody wrote at length, because everything seemed important at the time: method, data and seed"


def texts_of(figure):
    """Every text that is drawn, with the box that it takes, in pixels."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    axes = figure.axes[0]
    ticks = [*axes.get_xticklabels(), *axes.get_yticklabels()]
    limits = {"x": sorted(axes.get_xlim()), "y": sorted(axes.get_ylim())}
    hidden = {
        id(label)
        for name, labels in (("x", axes.get_xticklabels()), ("y", axes.get_yticklabels()))
        for place, label in enumerate(labels)
        if not limits[name][0] <= label.get_position()[0 if name == "x" else 1] <= limits[name][1]
    }
    found = {id(text): text for text in [*figure.findobj(Text), *ticks]}.values()
    return [
        (text, text.get_window_extent(renderer))
        for text in found
        if text.get_text().strip() and text.get_visible() and id(text) not in hidden
    ]


def check_reads(figure):
    """Nothing is cut, nothing lies over something else, nothing is too small."""
    boxes = texts_of(figure)
    frame = figure.bbox
    for text, box in boxes:
        assert text.get_fontsize() >= 9, text
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= frame.width and box.y1 <= frame.height
        assert inside, f"{text.get_text()!r} is cut"
    for (one, first), (other, second) in combinations(boxes, 2):
        assert not first.overlaps(second), f"{one.get_text()!r} lies over {other.get_text()!r}"
    axes_box = figure.axes[0].get_window_extent()
    for legend in figure.legends:
        assert not legend.get_window_extent().overlaps(axes_box), "the legend lies over the data"
    return [text.get_text() for text, _ in boxes]


def bars(axes):
    return [c for c in axes.containers if isinstance(c, ErrorbarContainer)]


def whiskers(container, direction):
    """The ends of the error bars of one direction (0: x, 1: y), shape (N, 2)."""
    for lines in container.lines[2]:
        assert isinstance(lines, LineCollection)
        # A missing estimate has an empty segment.
        segments = np.stack([segment for segment in lines.get_segments() if len(segment)])
        if np.array_equal(segments[:, 0, 1 - direction], segments[:, 1, 1 - direction]):
            return segments[:, :, direction]
    raise AssertionError("no error bars in this direction")


@pytest.mark.parametrize("name", MAKERS)
def test_every_figure_reads(name):
    said = check_reads(MAKERS[name]())
    assert len(said) > 10


def test_figures_read_with_long_words_and_many_names():
    names = [*METHOD_STYLES][:9] + ["a run with a rather long name of its own, seed 3"]
    grouped = {name: around(np.linspace(-1, 1, 3), 0.5) for name in names}
    groups = ["Prompts on which people agree", "In between", "Contested prompts"]
    check_reads(grouped_interval_figure(grouped, groups, x_label="Difference", title=LONG, better="right"))
    lines = {name: Curve([0, 1], around([0.0, place], 0.1)) for place, name in enumerate(names)}
    check_reads(line_figure(lines, x_label="Step", y_label="Loss (nats)", title=LONG))
    points = {name: Curve(around([1.0, 2.0], 0.1), around([0.1, 0.2], 0.1)) for name in names}
    check_reads(frontier_figure(points, title=LONG))
    values = np.random.default_rng(0).normal(size=50)
    check_reads(histogram_figure(values, x_label="w", title=LONG))
    check_reads(
        index_scatter_figure(values, values, correlation=Interval(1, 1, 1), title=LONG, groups=list("abcde") * 10)
    )


def test_frontier_draws_points_intervals_and_optimum():
    x, y = Interval([2.0, 1.0], [1.5, 0.9], [2.7, 1.2]), Interval([0.6, 0.5], [0.55, 0.4], [0.7, 0.52])
    optimum = Curve([0.0, 3.0], [0.4, 0.8])
    figure = frontier_figure({"dpo": Curve(x, y)}, optimum=optimum)
    axes = figure.axes[0]
    (container,) = bars(axes)
    np.testing.assert_array_equal(container.lines[0].get_xydata(), [[1.0, 0.5], [2.0, 0.6]])
    np.testing.assert_allclose(whiskers(container, 0), [[0.9, 1.2], [1.5, 2.7]])
    np.testing.assert_allclose(whiskers(container, 1), [[0.4, 0.52], [0.55, 0.7]])
    (band,) = [c for c in axes.collections if isinstance(c, PolyCollection)]
    corners = band.get_paths()[0].vertices
    for corner in ([1.0, 0.4], [1.0, 0.52], [2.0, 0.55], [2.0, 0.7]):
        assert np.isclose(corners, corner).all(axis=1).any()
    assert any(np.array_equal(line.get_xydata(), [[0.0, 0.4], [3.0, 0.8]]) for line in axes.get_lines())
    assert {t.get_text() for t in figure.legends[0].get_texts()} == {"DPO", "Exact optimum"}
    assert "nats" in axes.get_xlabel()


def test_scatter_says_its_correlation_and_tells_groups_apart():
    truth, index = [2.0, 1.0, 3.0, 0.5], [0.2, 0.1, 0.3, 0.0]
    groups = ["agreed", "contested", "agreed", "contested"]
    figure = index_scatter_figure(index, truth, correlation=Interval(0.8, 0.7, 0.9), groups=groups, title="Sum")
    axes = figure.axes[0]
    assert figure.get_suptitle() == "Sum\nRank correlation 0.80 [0.70, 0.90], 4 prompts"
    clouds = [c for c in axes.collections if isinstance(c, PathCollection)]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["contested", "agreed"]
    np.testing.assert_array_equal(clouds[0].get_offsets(), [[1.0, 0.1], [0.5, 0.0]])
    np.testing.assert_array_equal(clouds[1].get_offsets(), [[2.0, 0.2], [3.0, 0.3]])
    assert clouds[0].get_paths()[0].vertices.shape != clouds[1].get_paths()[0].vertices.shape, "one marker for both"
    alone = index_scatter_figure(index, truth, correlation=Interval(0.8, 0.7, 0.9))
    assert not alone.legends


def test_grouped_intervals_stand_where_they_should():
    values = {name: around(np.array([0.1, -0.2, 0.0, np.nan]) + place, 0.05) for place, name in enumerate(METHODS[:3])}
    figure = grouped_interval_figure(values, GROUPS, x_label="Difference (share)", better="right")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == GROUPS
    assert axes.yaxis_inverted(), "groups run from the top"
    assert any(line.get_xdata()[0] == line.get_xdata()[1] == 0.0 for line in axes.get_lines()), "no zero line"
    assert axes.get_xlabel() == "Difference (share)\nbetter →"
    containers = bars(axes)
    assert len(containers) == 3
    for place, container in enumerate(containers):
        np.testing.assert_allclose(container.lines[0].get_xdata()[:3], np.array([0.1, -0.2, 0.0]) + place)
        ends = whiskers(container, 0)[:3]
        np.testing.assert_allclose(ends.mean(axis=1), np.array([0.1, -0.2, 0.0]) + place, atol=1e-12)
        np.testing.assert_allclose(np.ptp(ends, axis=1), 0.1)
        heights = container.lines[0].get_ydata()
        assert (np.abs(heights - np.arange(4)) < 0.5).all(), "a point left its group"
    tops = [container.lines[0].get_ydata()[0] for container in containers]
    assert tops == sorted(tops), "methods do not keep their order from the top"
    without = grouped_interval_figure(values, GROUPS, x_label="Share", zero_line=False).axes[0]
    assert len(without.get_lines()) == len(axes.get_lines()) - 1


def test_a_panel_has_one_yardstick_and_the_other_run_beside_each_method():
    ours = {"dpo": Interval(1.0, 0.5, 2.0), "ipo": Interval(-1.0, -2.0, 0.5)}
    figure = panel_figure(
        {"Consensus": ours, "Agreement": {"ipo": Interval(0.1, float("nan"), float("nan"))}},
        x_label="Points", title=LONG, series=("here", "there"),
        beside={"Consensus": {"ipo": Interval(-0.5, -1.0, 0.0)}},
    )  # fmt: skip
    first, second = figure.axes
    np.testing.assert_allclose([whiskers(one, 0)[0] for one in bars(first)], [[0.5, 2.0], [-1.0, 0.0], [-2.0, 0.5]])
    assert [label.get_text() for label in first.get_yticklabels()] == ["DPO", "IPO"]
    assert [one.lines[0].get_xdata().tolist() for one in bars(second)] == [[0.1]]  # a single seed is a point
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["here", "there"]
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    for axes in figure.axes:
        for text in (axes.title, axes._left_title, axes.xaxis.label, *axes.get_yticklabels()):
            box = text.get_window_extent(renderer)
            assert not text.get_text() or (box.x0 >= 0 and box.x1 <= figure.bbox.width), text


def test_histogram_counts_all_and_marks_quantiles():
    values = np.random.default_rng(5).normal(size=501)
    figure = histogram_figure(values, x_label="w")
    axes = figure.axes[0]
    assert sum(patch.get_height() for patch in axes.patches) == 501
    places = [line.get_xdata()[0] for line in axes.get_lines()]
    ordered = np.sort(values)
    assert places == pytest.approx([ordered[50], ordered[250], ordered[450]])
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    names = ("10% lie below", "Median", "90% lie below")
    assert said == [f"{name} {format_number(value)}" for name, value in zip(names, places, strict=True)]
    assert len({str(line._unscaled_dash_pattern) for line in axes.get_lines()}) == 3


def test_histogram_says_what_it_leaves_out():
    figure = histogram_figure([1.0, np.nan, np.inf, 1.0], x_label="w", title="Weights")
    assert figure.get_suptitle() == "Weights (2 values not finite, not shown)"
    check_reads(figure)
    spiky = histogram_figure(np.r_[np.linspace(0, 1e-6, 1000), 1.0], x_label="w")
    assert len(spiky.axes[0].patches) <= 60


def test_lines_have_bands_and_markers():
    steps = np.arange(100.0)
    curves = {name: Curve(steps, around(steps + place, 0.5)) for place, name in enumerate(["dpo", "ipo"])}
    axes = line_figure(curves, x_label="Step", y_label="Loss (nats)", zero_line=True).axes[0]
    bands = [c for c in axes.collections if isinstance(c, PolyCollection)]
    for place, band in enumerate(bands):
        corners = band.get_paths()[0].vertices
        assert np.isclose(corners, [50.0, 50.5 + place]).all(axis=1).any()
        assert np.isclose(corners, [50.0, 49.5 + place]).all(axis=1).any()
    lines = axes.get_lines()
    assert len(bands) == 2 and len(lines) == 3
    assert lines[1].get_marker() != lines[2].get_marker()
    assert lines[1].get_markevery() != lines[2].get_markevery()


def test_few_points_of_several_curves_stand_side_by_side():
    curves = {name: Curve([0.0, 10.0], around([1.0, 2.0], 0.5)) for name in ("dpo", "ipo")}
    figure = line_figure(curves, x_label="Flips", y_label="Gain")
    axes = figure.axes[0]
    first, second = bars(axes)
    ends = [whiskers(container, 1) for container in (first, second)]
    np.testing.assert_allclose(ends[0], [[0.5, 1.5], [1.5, 2.5]])
    np.testing.assert_allclose(ends[0], ends[1])
    figure.draw_without_rendering()
    places = [container.lines[0].get_transform().transform([0.0, 1.0]) for container in (first, second)]
    assert places[0][0] < places[1][0] - 2 and places[0][1] == places[1][1]
    assert axes.get_ylim()[0] < 0.5 and axes.get_ylim()[1] > 2.5


def test_a_level_has_its_name_in_the_legend():
    points = {"dpo": Curve(around([1.0, 2.0], 0.1), around([0.1, 0.2], 0.1))}
    figure = frontier_figure(points, level=("The start", 0.15))
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {"DPO", "The start"}
    assert any(set(line.get_ydata()) == {0.15} for line in figure.axes[0].get_lines())


def test_a_heat_map_has_every_number_and_marks_the_aim():
    values = {"one": [0.95, -0.5, 0.0], "another index": [0.896, 0.9, 1.0]}
    figure = heat_map_figure(values, ["a", "b", "c"], aim=0.9, title=LONG, colour_label="Correlation, " + LONG)
    check_reads(figure)
    drawn = {tuple(text.get_position()): text for text in figure.axes[0].texts}
    said = {place: text.get_text() for place, text in drawn.items()}
    assert said[0.5, 1.5] == "−0.50" and said[1.5, 0.5] == "0.90" and len(said) == 6
    assert {place for place, text in drawn.items() if text.get_weight() == "bold"} == {
        (0.5, 0.5), (1.5, 1.5), (1.5, 2.5)
    }  # fmt: skip
    with pytest.raises(InputError, match="heat_map_figure"):
        heat_map_figure(values, ["a"], aim=0.9, colour_label="r")


def test_one_curve_needs_no_legend():
    assert not line_figure({"dpo": Curve([0], around([1.0], 0))}, x_label="x", y_label="y").legends


CORRELATION = Interval(0.5, 0.4, 0.6)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Curve(around([1.0], 0), around([1.0, 2.0], 0)), "expected one length"),
        (lambda: Curve(around(1.0, 0), around(1.0, 0)), "expected one length"),
        (lambda: index_scatter_figure([1.0], [1.0, 2.0], correlation=CORRELATION), "expected one length"),
        (lambda: index_scatter_figure([1.0], [1.0], correlation=CORRELATION, groups=["a", "b"]), "2 groups"),
        (lambda: index_scatter_figure([], [], correlation=CORRELATION), "at least 1"),
        (
            lambda: grouped_interval_figure({"dpo": around([1.0], 0)}, ["a", "b"], x_label="x"),
            r"values\['dpo'\]: got shape \(1,\), expected \(2,\)",
        ),
        (lambda: histogram_figure([np.nan], x_label="x"), "none of the 1 values is finite"),
    ],
)
def test_mistakes_are_told(build, says):
    with pytest.raises(InputError, match=says):
        build()
