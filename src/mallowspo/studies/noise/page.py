"""The page of the study `noise` and its figure, made from `results.json`."""

from __future__ import annotations

from typing import Any

from mallowspo.reports.blocks import Meta, Report
from mallowspo.reports.figures import Curve, line_figure
from mallowspo.reports.sections import Columns, picture, table
from mallowspo.reports.text import format_duration, verdict_word
from mallowspo.stats.intervals import Interval
from mallowspo.studies import pages
from mallowspo.studies.pages import Results
from mallowspo.studies.policies import label, select_runs

__all__ = ["figures", "page"]


def figures(results: Results) -> dict[str, Any]:
    """Draw the figure: each method's difference from DPO against the share of flipped labels."""
    curves = {}
    for method in pages.challengers(results):
        rows = select_runs(pages.by_comparison(results, "flipped"), method=method)
        gaps = Interval.stack([row["agreement"]["difference"] for row in rows], scale=100.0)
        curves[method] = Curve([100 * row["flipped"] for row in rows], gaps)
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
    config, rows = results["config"], pages.by_comparison(results, "flipped")
    words = {(row["method"], row["flipped"]): verdict_word(row["agreement"]["verdict"]) for row in rows}
    verdicts: dict[str, Any] = {"method": label}
    verdicts |= {
        f"{100 * flipped:g}% flipped": lambda method, flipped=flipped: words[method, flipped]
        for flipped in config["flipped"]
    }
    text = (
        f"In each of {len(config['seeds'])} worlds every method trains on the same pairs, of which the named share "
        "has its labels exchanged; a larger share contains the smaller one. Agreement (a random person prefers the "
        "policy's answer to the reference's) is computed exactly on held-out prompts and read at equal KL."
    )
    columns: Columns = {
        "flipped, %": pages.figure_of("flipped", 0, scale=100),
        "method": pages.METHOD,
        "all prompts": pages.point_interval("agreement.difference"),
        "most agreed third": pages.point_interval("agreement_agreed.difference"),
        "most contested third": pages.point_interval("agreement_contested.difference"),
        "share of optimum, %": pages.share("share_of_optimum.difference", 1, signed=True),
        "KL (nats)": pages.kl_range("agreement"),
    }
    figure = picture(
        "noise",
        "Difference of agreement from DPO against the share of flipped labels, by method.",
        "Whiskers are 95% intervals over worlds; points at one share of flips stand side by side.",
    )
    caption = "Method minus DPO at equal KL under the same flips; agreement in points, 95% intervals over worlds."
    return Report(
        title="Flipped labels: which method stands them better than DPO?",
        summary="At equal distance from the reference and under the same flips, each method against DPO.",
        sections=[
            pages.text_section("Agreement", text, figure, table(rows, columns, caption)),
            pages.limits(
                results,
                "Labels are flipped evenly; annotators err more where answers are close, as the pairs hold already.",
                "cDPO takes one share of flips for granted (10%); a share tuned to the data would serve it better.",
                "Small worlds, tiny references, one learning rate, fixed on DPO; each interval stands on its own.",
            ),
        ],
        meta=Meta(seeds=config["seeds"], extra={"Processor time": format_duration(results["cpu_seconds"])}),
        verdicts=table(pages.challengers(results), verdicts),
    )
