"""Tables and figures of the benchmarks, from the CSV files of their results.

    python benchmarks/summary.py           # writes the tables of docs/performance.md and its figures
    python benchmarks/summary.py --check   # exit code 1 if the page shows other tables

A ratio is taken between steps on the same pairs in the same round, and the median of these is quoted with the 20% and
80% quantiles. Memory is the peak while training above that of the process before a model was loaded.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from measure import read_lines
from workload import REAL_REGIME, REGIMES, ROOT

RESULTS = ROOT / "benchmarks/results"
PAGE = ROOT / "docs/performance.md"
FIGURES = ROOT / "docs/performance"

ARM_NAMES = {
    "trl_live": "TRL, reference live",
    "trl_stored": "TRL, reference precomputed",
    "trl_compact_tuned": "TRL compact, allocator tuned",
    "trl_compact_tuned_accumulated": "the same, 1 pair × 8",
    "ours_live": "ours, reference live",
    "ours_stored": "ours, reference stored",
}
# Who against whom, in which cells, what is at least to be reached, and the aim.
GOALS = (
    ("speed", "trl_stored", "ours_stored", ("A a", "A b", "A c"), 4.0, 8.0),
    ("speed", "trl_compact_tuned", "ours_stored", ("A a", "C a"), 2.0, 2.8),
    ("memory", "trl_stored", "ours_stored", ("A a", "A b", "A c", "C a", "C b", "C c"), 6.0, 10.0),
    ("memory", "trl_compact_tuned", "ours_stored", ("A a", "A b", "A c", "C a", "C b", "C c"), 4.0, 6.0),
)
FLOOR_GOAL = (1.6, 1.3)
Line = Mapping[str, str]


def by_cell(lines: Iterable[Line]) -> dict[str, dict[str, list[Line]]]:
    """Lines by cell (`A a`) and arm."""
    found: dict[str, dict[str, list[Line]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        found[f"{line['model']} {line['regime']}"][line["arm"]].append(line)
    return found


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, 20% and 80% quantile."""
    cuts = statistics.quantiles(values, n=5, method="inclusive") if len(values) > 1 else [values[0]] * 4
    return statistics.median(values), cuts[0], cuts[-1]


def paired(left: Sequence[Line], right: Sequence[Line], value: Callable[[Line], float]) -> list[float]:
    """Ratios of the same step in the same round."""
    others = {(line["round"], line["step"]): value(line) for line in right}
    return [value(line) / others[key] for line in left if (key := (line["round"], line["step"])) in others]


def seconds(line: Line) -> float:
    """Wall-clock seconds of a step."""
    return float(line["seconds"])


def memory(line: Line) -> float:
    """GB above the bare process."""
    return float(line["peak_gb"]) - float(line["bare_gb"])


def floor(line: Line) -> float:
    """Seconds of the products that cannot be avoided, at the speed of a product in the same process."""
    return float(line["floor_operations"]) / float(line["product_flops"])


def over_floor(lines: Iterable[Line]) -> list[float]:
    """Each step's seconds over those of the floor."""
    return [seconds(line) / floor(line) for line in lines]


def print_steps(lines: Iterable[Line]) -> None:
    """The medians of every cell, in the terminal."""
    for cell, arms in by_cell(lines).items():
        print(f"\n{cell}")
        print(
            f"{'arm':32s} {'s a step':>9s} {'20%':>7s} {'80%':>7s} {'GB above':>9s} {'before s':>9s} {'x floor':>8s}"
        )
        for arm, found in arms.items():
            middle, low, high = spread([seconds(line) for line in found])
            before = statistics.median(float(line["before_training_s"]) for line in found)
            times = statistics.median(over_floor(found))
            above = statistics.median(map(memory, found))
            print(f"{arm:32s} {middle:9.3f} {low:7.3f} {high:7.3f} {above:9.2f} {before:9.1f} {times:8.2f}")


def cells_in_order(cells: Iterable[str]) -> list[str]:
    """Models in order of their names, regimes as they are listed."""
    order = [*REGIMES, REAL_REGIME]
    return sorted(cells, key=lambda cell: (cell.split()[0], order.index(cell.split()[1])))


def step_table(cells: Mapping[str, Mapping[str, Sequence[Line]]]) -> list[str]:
    """Seconds and memory of every arm in every cell."""
    names = cells_in_order(cells)
    rows = ["| | " + " | ".join(f"{name.replace(' ', '·')}" for name in names) + " |", "|---|" + "---|" * len(names)]
    for arm, text in ARM_NAMES.items():
        if not any(cells[name].get(arm) for name in names):
            continue
        row = [f"| {text} "]
        for name in names:
            found = cells[name].get(arm)
            if not found:
                row.append("| ")
                continue
            middle, low, high = spread([seconds(line) for line in found])
            row.append(f"| {middle:.2f} [{low:.2f}, {high:.2f}] s, {statistics.median(map(memory, found)):.2f} GB ")
        rows.append("".join(row) + "|")
    ours = [cells[name].get("ours_stored", ()) for name in names]
    floors = [f"{statistics.median(map(floor, found)):.2f} s" if found else "" for found in ours]
    rows.append("| floor | " + " | ".join(floors) + " |")
    over = ["{:.2f} [{:.2f}, {:.2f}]".format(*spread(over_floor(found))) if found else "" for found in ours]
    rows.append("| ours, stored, over the floor | " + " | ".join(over) + " |")
    return rows


def _judged(value: float, least: float, aim: float, *, smaller: bool = False) -> str:
    sign = -1 if smaller else 1
    if sign * value >= sign * aim:
        return "aim reached"
    return "reached" if sign * value >= sign * least else "**missed**"


def goal_table(cells: Mapping[str, Mapping[str, Sequence[Line]]]) -> list[str]:
    """What was to be reached, and what was."""
    rows = [
        "| goal | cell | median of paired ratios [20%, 80%] | at least | aim | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for what, left, right, names, least, aim in GOALS:
        value = seconds if what == "speed" else memory
        sense = "times faster than" if what == "speed" else "times less memory than"
        for name in names:
            if name in cells and cells[name].get(left) and cells[name].get(right):
                middle, low, high = spread(paired(cells[name][left], cells[name][right], value))
                rows.append(
                    f"| {ARM_NAMES[right]}: {sense} {ARM_NAMES[left]} | {name.replace(' ', '·')} "
                    f"| {middle:.2f} [{low:.2f}, {high:.2f}] | {least:g} | {aim:g} | {_judged(middle, least, aim)} |"
                )
    for name in cells_in_order(cells):
        if name.split()[1] in REGIMES and cells[name].get("ours_stored"):
            middle, low, high = spread(over_floor(cells[name]["ours_stored"]))
            least, aim = FLOOR_GOAL
            rows.append(
                f"| {ARM_NAMES['ours_stored']}: seconds over the floor | {name.replace(' ', '·')} "
                f"| {middle:.2f} [{low:.2f}, {high:.2f}] | {least:g} | {aim:g} "
                f"| {_judged(middle, least, aim, smaller=True)} |"
            )
    return rows


def origin_line(lines: Sequence[Line]) -> str:
    """Where the lines were measured."""
    names = ("machine", "threads", "torch", "transformers", "trl", "date")
    shown = {name: ", ".join(sorted({line[name] for line in lines})) for name in names}
    commits = list(dict.fromkeys(line["commit"] for line in lines))
    commit = f"commit {commits[0]}" if len(commits) == 1 else f"{len(commits)} commits, the last {commits[-1]}"
    return (
        f"{shown['machine']}, {shown['threads']} {'thread' if shown['threads'] == '1' else 'threads'}; torch "
        f"{shown['torch']}, transformers {shown['transformers']}, TRL {shown['trl']}; {commit}, {shown['date']}."
    )


def step_block() -> list[str]:
    """The part of the page on a step."""
    lines = read_lines(RESULTS / "step.csv")
    if not lines:
        return ["Not measured yet."]
    cells = by_cell(lines)
    measured = len(next(iter(cells.values()))["ours_stored"])
    caption = f"Medians [20%, 80%] over {measured} steps of an arm, and peak memory above the bare process:"
    return [*goal_table(cells), "", caption, "", *step_table(cells), "", origin_line(lines)]


def scaling_block() -> list[str]:
    """The part of the page on how a step's cost grows."""
    lines = read_lines(RESULTS / "scaling.csv")
    if not lines:
        return ["Not measured yet."]
    rows = ["| what grows | from … to | arm | seconds a step | GB above the bare process |", "|---|---|---|---|---|"]
    for axis in dict.fromkeys(line["axis"] for line in lines):
        for arm in dict.fromkeys(line["arm"] for line in lines if line["axis"] == axis):
            found: dict[str, list[Line]] = defaultdict(list)
            for line in lines:
                if (line["axis"], line["arm"]) == (axis, arm):
                    found[line["value"]].append(line)
            values = sorted(found, key=float)
            times = ", ".join(f"{statistics.median(map(seconds, found[value])):.2f}" for value in values)
            sizes = ", ".join(f"{statistics.median(map(memory, found[value])):.2f}" for value in values)
            rows.append(f"| {axis} | {', '.join(values)} | {ARM_NAMES[arm]} | {times} | {sizes} |")
    return [*rows, "", origin_line(lines)]


def reference_block() -> list[str]:
    """The part of the page on what entropies cost in the reference's pass."""
    lines = read_lines(RESULTS / "reference.csv")
    if not lines:
        return ["Not measured yet."]
    rows = [
        "| model, regime | with entropies, s | without, s | ratio [20%, 80%] | at least | aim | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    cells: dict[str, dict[str, list[Line]]] = by_cell(lines)
    for name in cells_in_order(cells):
        with_, without = cells[name]["with"], cells[name]["without"]
        middle, low, high = spread(paired(with_, without, seconds))
        rows.append(
            f"| {name.replace(' ', '·')} | {statistics.median(map(seconds, with_)):.2f} "
            f"| {statistics.median(map(seconds, without)):.2f} | {middle:.3f} [{low:.3f}, {high:.3f}] | 1.05 | 1.01 "
            f"| {_judged(middle, 1.05, 1.01, smaller=True)} |"
        )
    return [*rows, "", origin_line(lines)]


def profile_block() -> list[str]:
    """The part of the page on where the time of a step goes."""
    lines = read_lines(RESULTS / "profile.csv")
    if not lines:
        return ["Not measured yet."]
    models = list(dict.fromkeys(line["model"] for line in lines))
    rows = ["| | " + " | ".join(f"{model}·a" for model in models) + " |", "|---|" + "---|" * len(models)]
    for kind in dict.fromkeys(line["kind"] for line in lines):
        shares = [float(line["share"]) for line in lines if line["kind"] == kind]
        rows.append(f"| {kind} | " + " | ".join(f"{share:.0%}" for share in shares) + " |")
    return [*rows, "", origin_line(lines)]


def readme_block() -> list[str]:
    """What the README says of speed: the range over the random models' regimes."""
    lines = read_lines(RESULTS / "step.csv")
    if not lines:
        return ["Not measured yet."]
    cells = {name: arms for name, arms in by_cell(lines).items() if name.split()[1] in REGIMES}

    def ratios(left: str, value: Callable[[Line], float]) -> str:
        found = [
            statistics.median(paired(arms[left], arms["ours_stored"], value))
            for arms in cells.values()
            if arms.get(left)
        ]
        return f"{min(found):.1f} to {max(found):.1f}"

    over = [statistics.median(over_floor(arms["ours_stored"])) for arms in cells.values()]
    stored, compact = "trl_stored", "trl_compact_tuned"
    words = (
        "On two cores, in float32, a step of MallowsPO-θ is {} times as fast as one of TRL's `DPOTrainer` with a",
        "precomputed reference, in {} times less memory. Where TRL's head is kept to response positions and its",
        "allocator tuned, it is {} times as fast, in {} times less. It takes {:.1f} to {:.1f} times the products that",
        "no layout avoids. Medians over two random Llamas, one of them with most of its work in the head, and three",
        "shapes of data: [docs/performance.md](docs/performance.md). Nothing has run on a GPU yet:",
        "[docs/gpu.md](docs/gpu.md).{}",
    )
    whole, start = import_module("whole"), ""
    if measured := whole.by_arm(read_lines(RESULTS / "whole.csv")):
        times = whole.times_faster(measured, "mallowspo train, mallows_theta")
        start = f" A whole run of 2,000 rows, command to saved model, is {times:.1f} times as fast as `trl dpo`."
    figures = [ratios(left, value) for left in (stored, compact) for value in (seconds, memory)]
    return "\n".join(words).format(*figures, min(over), max(over), start).splitlines()


def own_block(name: str) -> list[str]:
    """A benchmark whose own script makes the table."""
    lines = read_lines(RESULTS / f"{name}.csv")
    # Some of them import this module.
    return [*import_module(name).table(lines), "", origin_line(lines)] if lines else ["Not measured yet."]


BLOCKS: dict[str, Callable[[], list[str]]] = {
    "step": step_block,
    "profile": profile_block,
    "scaling": scaling_block,
    "reference": reference_block,
    "whole": partial(own_block, "whole"),
    "preparation": partial(own_block, "preparation"),
    "long": partial(own_block, "long"),
}


def with_blocks(page: Path, blocks: Mapping[str, Callable[[], list[str]]]) -> str:
    """A page with its tables written anew."""
    text = page.read_text(encoding="utf-8")
    for name, make in blocks.items():
        body = "\n".join(make())
        text, count = re.subn(
            rf"(<!-- begin {name}[^>]*-->\n).*?(<!-- end {name} -->)",
            lambda found, body=body: f"{found[1]}{body}\n{found[2]}",
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            raise SystemExit(f"{page} has no block {name!r}")
    return text


def draw() -> None:
    """The figures of the page."""
    from mallowspo.reports.figure_style import save_figure

    lines = read_lines(RESULTS / "step.csv")
    if lines:
        save_figure(_ratios(by_cell(lines)), FIGURES, "step")
    lines = read_lines(RESULTS / "scaling.csv")
    if lines:
        save_figure(_growth(lines), FIGURES, "scaling")
    for path in FIGURES.glob("*.svg"):
        path.unlink()  # the page shows the PNG


COLOURS = {"trl_compact_tuned": "#E69F00", "ours_stored": "#0072B2"}
# Against what each is drawn: the arm, its opponent, colour and marker.
RATIOS = (
    ("ours_stored", "trl_stored", "#0072B2", "o"),
    ("ours_live", "trl_live", "#56B4E9", "s"),
    ("ours_stored", "trl_compact_tuned", "#D55E00", "^"),
)


def _ratios(cells: Mapping[str, Mapping[str, Sequence[Line]]]) -> object:
    """How many times as fast as TRL, in how many times less memory: medians of paired ratios with their 20% to 80%."""
    from matplotlib.figure import Figure

    from mallowspo.reports.figure_style import house_style

    names = cells_in_order(cells)
    with house_style():
        figure = Figure(figsize=(7.2, 5.4), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        panels[0].set_xlabel("times as fast as TRL")
        panels[1].set_xlabel("times less memory than TRL")
        for panel, value in zip(panels, (seconds, memory), strict=True):
            panel.axvline(1.0, color="#222222", linewidth=1.0, label="TRL itself")
            for place, (arm, opponent, colour, marker) in enumerate(RATIOS):
                at = [n for n, name in enumerate(names) if cells[name].get(arm) and cells[name].get(opponent)]
                found = [spread(paired(cells[names[n]][opponent], cells[names[n]][arm], value)) for n in at]
                middle = [mid for mid, _, _ in found]
                panel.errorbar(
                    middle,
                    [n + (place - 1) * 0.24 for n in at],
                    xerr=[[mid - low for mid, low, _ in found], [high - mid for mid, _, high in found]],
                    color=colour, marker=marker, linestyle="none", elinewidth=1.4,
                    label=f"{ARM_NAMES[arm]}, against {ARM_NAMES[opponent]}",
                )  # fmt: skip
            panel.set_xlim(left=0)
            for n in range(1, len(names)):
                panel.axhline(n - 0.5, color="#d9dde2", linewidth=1.2)
            panel.grid(visible=False, axis="y")
            panel.tick_params(axis="y", length=0)
        panels[0].set_yticks(range(len(names)), [_cell_label(name) for name in names])
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=1, frameon=False)
    return figure


def _cell_label(name: str) -> str:
    model, regime = name.split()
    if regime in REGIMES:
        prompt, response = REGIMES[regime]
        return f"model {model}\n{prompt}/{response} tokens"
    return f"{model}\nHH dialogues"


def _growth(lines: Sequence[Line]) -> object:
    """Seconds of a step as one thing grows: medians with their 20% to 80%."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    from mallowspo.reports.figure_style import house_style

    axes_names = list(dict.fromkeys(line["axis"] for line in lines))
    with house_style():
        figure = Figure(figsize=(7.2, 5.0), layout="constrained")
        places = figure.subplots(2, 3).ravel()
        for place, axis in zip(places, axes_names, strict=False):
            for arm in dict.fromkeys(line["arm"] for line in lines if line["axis"] == axis):
                found: dict[float, list[float]] = defaultdict(list)
                for line in lines:
                    if (line["axis"], line["arm"]) == (axis, arm):
                        found[float(line["value"])].append(seconds(line))
                values = sorted(found)
                middle, low, high = zip(*(spread(found[value]) for value in values), strict=True)
                arms = [
                    [m - a for m, a in zip(middle, low, strict=True)],
                    [b - m for m, b in zip(middle, high, strict=True)],
                ]
                place.errorbar(
                    values, middle, yerr=arms, elinewidth=1.2, color=COLOURS[arm], label=ARM_NAMES[arm],
                    marker="^" if arm.startswith("trl") else "o",
                )  # fmt: skip
            place.set_xlabel(axis)
            place.set_ylim(bottom=0)
            place.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            place.xaxis.set_major_formatter(EngFormatter(sep=""))
        for place in (places[0], places[3]):
            place.set_ylabel("seconds a step")
        for place in places[len(axes_names) :]:
            place.set_axis_off()
        figure.legend(*places[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def main() -> None:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only compare; exit code 1 where the page differs")
    args = parser.parse_args()
    pages = {PAGE: BLOCKS, ROOT / "README.md": {"speed": readme_block}}
    made = {page: with_blocks(page, blocks) for page, blocks in pages.items()}
    if args.check:
        other = [page.name for page, text in made.items() if text != page.read_text(encoding="utf-8")]
        sys.exit(f"{', '.join(other)}: other tables than the results give" if other else 0)
    for page, text in made.items():
        page.write_text(text, encoding="utf-8")
    draw()


if __name__ == "__main__":
    main()
