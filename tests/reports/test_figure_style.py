from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import matplotlib
import pytest
from matplotlib.text import Text
from PIL import Image
from synthetic_study import MAKERS

from mallowspo.errors import InputError
from mallowspo.reports import figure_style
from mallowspo.reports.figure_style import METHOD_STYLES, MethodStyle, new_figure, save_figure, styles_for
from mallowspo.reports.palette import BLUE, DARK_SCHEME, GRID, INK, MUTED, PAPER


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_every_method_of_the_library_has_its_look():
    methods = "dpo mallows_theta mallows_phi mallows_ipo mallows_simpo rainbow ipo simpo hinge".split()
    assert set(METHOD_STYLES) >= {*methods, "mallows_theta_true", "reference", "population", "optimum"}


def test_looks_can_be_told_apart_in_grey():
    for one, other in combinations(METHOD_STYLES.values(), 2):
        assert one.label != other.label
        # Lines in one figure, and points in one figure, where no line helps.
        assert (one.marker, one.filled) != (other.marker, other.filled), (one, other)


def luminance(color: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_and_lines_stand_out_from_the_paper_in_both_schemes():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    for ink in (INK, MUTED):
        assert contrast(ink, PAPER) >= 4.5
        assert contrast(DARK_SCHEME[ink], DARK_SCHEME[PAPER]) >= 4.5
    for style in METHOD_STYLES.values():
        dark = DARK_SCHEME.get(style.color, style.color)
        assert contrast(dark, DARK_SCHEME[PAPER]) >= 4.0, style
        assert contrast(style.color, PAPER) >= 2.2, style
    assert contrast(GRID, PAPER) < 1.5, "the grid stays behind the data"


def test_unknown_names_get_looks_that_nothing_else_in_the_figure_has():
    names = ["dpo", "mallows_theta", *(f"run {index}" for index in range(12))]
    looks = styles_for(names)
    assert list(looks) == names
    assert looks["run 0"].color not in {looks["dpo"].color, looks["mallows_theta"].color}
    seen = {(look.color, look.marker, look.filled) for look in looks.values()}
    assert len(seen) == len(names)
    assert styles_for(names) == looks


def test_own_looks_take_precedence():
    own = MethodStyle("Ours", BLUE, "*")
    assert styles_for(["dpo", "x"], {"dpo": own})["dpo"] is own


def test_bytes_depend_neither_on_the_process_nor_on_the_users_settings(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r});"
        "import matplotlib; before = dict(matplotlib.rcParams);"
        "from synthetic_study import MAKERS; from mallowspo.reports.figure_style import save_figure;"
        "[save_figure(make(), sys.argv[1], name) for name, make in MAKERS.items()];"
        "assert dict(matplotlib.rcParams) == before, 'settings changed';"
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot was imported'"
    )
    # An older matplotlib calls what a newer pyparsing has renamed.
    warnings = ("-W", "error", "-W", "ignore::DeprecationWarning")
    command = [sys.executable, *warnings, "-c", code, str(tmp_path / "there")]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "7", "MPLBACKEND": "svg"})
    theirs = {"font.size": 30.0, "axes.facecolor": "red", "lines.marker": "x", "svg.hashsalt": "other"}
    with matplotlib.rc_context(theirs):
        for name, make in MAKERS.items():
            save_figure(make(), tmp_path / "here", name)
        assert matplotlib.rcParams["font.size"] == 30.0
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
    for name in MAKERS:
        svg = (tmp_path / "here" / f"{name}.svg").read_text(encoding="utf-8")
        assert "<dc:date>" not in svg and figure_style.HOUSE_MARK in svg
        assert b"Software" not in (tmp_path / "here" / f"{name}.png").read_bytes()


def test_pixels_have_the_stated_density(tmp_path):
    figure, _ = new_figure(height=2.0)
    with Image.open(save_figure(figure, tmp_path, "a").png) as image:
        assert image.size == (1152, 320)


def test_saving_replaces_whole_files_and_leaves_no_others(tmp_path):
    figure, _ = new_figure(title="One")
    first = save_figure(figure, tmp_path / "new", "a")
    before = first.svg.read_bytes()
    figure.suptitle("Two")
    assert save_figure(figure, tmp_path / "new", "a") == first
    assert first.svg.read_bytes() != before
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["a.png", "a.svg"]


def test_a_figure_that_cannot_be_drawn_leaves_the_old_files(tmp_path):
    figure, axes = new_figure(title="One")
    paths = save_figure(figure, tmp_path, "a")
    before = contents(tmp_path)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, place: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_figure(figure, tmp_path, "a")
    assert contents(tmp_path) == before and paths.png.exists()


@pytest.mark.parametrize("name", ["", "a/b", "..", "/x"])
def test_a_name_with_folders_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="expected a file name without folders"):
        save_figure(new_figure()[0], tmp_path, name)


def test_names_with_dollar_signs_and_underscores_show_as_they_are(tmp_path):
    figure, axes = new_figure(title="$run_1$ and $x_2$")
    assert not figure.findobj(Text, include_self=False)[0].get_parse_math() and not axes.xaxis.label.get_parse_math()
    handles = [matplotlib.lines.Line2D([], []) for _ in range(2)]
    legend = figure_style.outside_legend(figure, handles, ["_a", "$b$ $c$"])
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["_a", "$b$ $c$"]
    assert figure_style.outside_legend(figure, [], []) is None
