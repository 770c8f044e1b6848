"""The page of the study `noise` and its figure, made from `results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mallowspo.reports.blocks import BulletList, Meta, Report, Section, Table
from mallowspo.reports.curves import LineCurve
from mallowspo.reports.figures import line_figure
from mallowspo.reports.sections import Columns, comparison, picture, table
from mallowspo.reports.text import format_duration, format_number, interval_text, points, verdict_word
from mallowspo.stats.intervals import Interval
from mallowspo.studies.policies import BASELINE, label

__all__ = ["figures", "page"]

Results = Mapping[str, Any]


def _rows(results: Results, quantity: str, method: str | None = None) -> list[Mapping[str, Any]]:
    return [
        row
        for row in results["comparisons"]
        if row["quantity"] == quantity and row["learning_rate"] is None and method in (None, row["method"])
    ]


def figures(results: Results) -> dict[str, Any]:
    """Draw the figure: each method's difference from DPO against the share of flipped labels."""
    methods = [method for method in results["config"]["methods"] if method != BASELINE]
    curves = {}
    for method in methods:
        rows = _rows(results, "agreement", method)
        curves[method] = LineCurve(
            [100 * row["flipped"] for row in rows], Interval.stack([row["difference"] for row in rows], scale=100.0)
        )
    figure = line_figure(
        curves,
        x_label="Flipped labels (%)",
        y_label="Agreement at equal KL, minus DPO's (points)",
        title="Who stands flipped labels better than DPO",
        zero_line=True,
    )
    return {"noise": figure}


def page(results: Results) -> Report:
    """What the page says."""
    config, setup = results["config"], results["config"]["setup"]
    text = (
        f"In each of {len(config['seeds'])} worlds every method trains on the same {setup['pairs_per_prompt']} pairs "
        f"of {setup['train_prompts']} prompts, of which the named share has its labels exchanged; a larger share "
        f"contains the smaller one. β {', '.join(f'{beta:g}' for beta in config['betas'])}, learning rate "
        f"{config['learning_rate']:g}. Agreement (a random person prefers the policy's answer to the reference's) is "
        f"computed exactly on {setup['heldout_prompts']} held-out prompts and read at equal KL."
    )
    columns: Columns = {
        "flipped, %": lambda row: format_number(100 * row["flipped"], 0),
        "method": lambda row: label(row["method"]),
        "all prompts": lambda row: points(row["difference"]),
        "most agreed third": lambda row: points(_same(results, row, "agreement_agreed")),
        "most contested third": lambda row: points(_same(results, row, "agreement_contested")),
        "share of optimum, %": lambda row: interval_text(
            _same(results, row, "share_of_optimum"), 1, scale=100, signed=True
        ),
        "KL (nats)": lambda row: f"{format_number(row['kl_low'], 3)}–{format_number(row['kl_high'], 3)}",
    }
    lines = [
        f"*{label(method)}*: "
        + "; ".join(
            f"{format_number(100 * row['flipped'], 0)}% flipped {verdict_word(row['verdict'])}"
            for row in _rows(results, "agreement", method)
        )
        + "."
        for method in config["methods"]
        if method != BASELINE
    ]
    figure = picture("noise", "Difference of agreement from DPO against the share of flipped labels, by method.")
    caption = "Method minus DPO at equal KL under the same flips; agreement in points, 95% intervals over worlds."
    return Report(
        title="Flipped labels: which method stands them better than DPO?",
        summary="At equal distance from the reference and under the same flips, each method against DPO.",
        sections=[
            comparison("Agreement", text, figure, _rows(results, "agreement"), columns, lines, caption),
            Section("Limits", [BulletList(_LIMITS)]),
        ],
        meta=Meta(seeds=config["seeds"], extra={"Processor time": format_duration(results["cpu_seconds"])}),
        verdicts=_verdicts(results),
    )


def _same(results: Results, row: Mapping[str, Any], quantity: str) -> Any:
    """The difference of another quantity in the same comparison."""
    return next(
        other["difference"] for other in _rows(results, quantity, row["method"]) if other["flipped"] == row["flipped"]
    )


def _verdicts(results: Results) -> Table:
    def cell(share: float) -> Any:
        return lambda method: next(
            verdict_word(row["verdict"]) for row in _rows(results, "agreement", method) if row["flipped"] == share
        )

    columns: dict[str, Any] = {"method": label}
    columns |= {f"{100 * share:g}% flipped": cell(share) for share in results["config"]["flipped"]}
    return table([m for m in results["config"]["methods"] if m != BASELINE], columns)


_LIMITS = (
    "Labels are flipped evenly. Annotators err more often where answers are close, which the pairs already hold: one "
    "person judges each.",
    "cDPO takes one share of flips for granted (10%); a share tuned to the data would serve it better.",
    "Small generated worlds, tiny references, one learning rate, fixed on plain DPO. Each interval stands on its own.",
)
