"""The page of the study of the indexes and its figures, made from `results.json`."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from mallowspo.reports.blocks import Definitions, Meta, Report, Section, Table, literal
from mallowspo.reports.figure_style import MethodStyle
from mallowspo.reports.figures import Curve, heat_map_figure, line_figure
from mallowspo.reports.palette import BLUE, INK, MUTED, ORANGE, SKY
from mallowspo.reports.sections import Columns, picture, table
from mallowspo.reports.text import format_duration, format_number
from mallowspo.studies import pages, policies
from mallowspo.studies.estimator.indexes import INDEXES, PANELS, SAMPLED, SINGLE_PASS
from mallowspo.studies.estimator.people import contradiction_table, people_figures, people_sections
from mallowspo.studies.estimator.summary import AIM, SPREAD_AIM, VOTED
from mallowspo.studies.pages import Results, Row

__all__ = ["figures", "label", "page"]

SHOWN = (*SINGLE_PASS, "weighted_clusters", "topic_entropy", *PANELS)
"""The indexes of the figure of ranks: all of one pass, the two of samples that are new, and the panels."""

_DISTANCES = {"kendall": "Kendall's tau", "spearman": "Spearman's rho"}
_LABELS = {**INDEXES, VOTED: "chosen by votes"}
_LOOKS = tuple(zip((MUTED, ORANGE, SKY, BLUE, INK), ("s", "^", "D", "o", "v"), strict=True))
_SPREADS = (
    ("mean_entropy", "neglog"), ("mean_entropy", "isotonic"), ("divergent_token", "mallows"), ("panel", "neglog"),
    ("panel", "n_by_votes"), ("panel", "isotonic"), ("panel_topics", "neglog"), ("panel_topics", "n_by_votes"),
)  # fmt: skip
"""Index and map whose spread is shown by condition."""


def label(name: str) -> str:
    """How an index or a condition reads in text."""
    return _LABELS.get(name, name.replace("+", " + ").replace("_", " "))


def figures(results: Results) -> dict[str, Any]:
    """Draw every figure, by name."""
    found = {f"paper_{distance}": _paper_figure(results, distance) for distance in _DISTANCES}
    found["ranks"] = _ranks_figure(results)
    return found | (people_figures(results["people"]["data"]) if results["people"] else {})


def _paper_figure(results: Results, distance: str) -> Any:
    rows = [row for row in results["paper"] if row["distance"] == distance]
    shown = [rows[i] for i in sorted({0, len(rows) // 3, 2 * len(rows) // 3, len(rows) - 1})]
    curves = {
        str(row["items"]): Curve(row["neg_log_phi"], np.array(row["estimate"]) / np.mean(row["estimate"]))
        for row in shown
    }
    return line_figure(
        curves,
        x_label="True −log φ (nats)",
        y_label="−log(H/log n!), relative to its mean",
        title=f"The paper's estimate, {_DISTANCES[distance]}",
        styles={items: MethodStyle(f"n = {items}", *look) for items, look in zip(curves, _LOOKS, strict=False)},
    )


def _ranks_figure(results: Results) -> Any:
    rows = results["stress"]
    return heat_map_figure(
        {label(name): [row["rank"][name]["mean"] for row in rows] for name in SHOWN},
        [label(row["condition"]) for row in rows],
        aim=AIM,
        title="Which index keeps its order under which condition?",
        colour_label="Rank correlation with the true −log φ on held-out prompts, mean over seeds",
    )


def page(results: Results) -> Report:
    """What the page says."""
    low, high = SPREAD_AIM
    return Report(
        title="Is there a dispersion index that survives?",
        summary=(
            f"An index survives where its rank correlation with the true −log φ, mean over seeds, is at least {AIM:g} "
            "in every condition whose reference is trained; its spread is right where the 5–95% range of its weights, "
            f"at a mean of 1, is {low:g} to {high:g} times the truth's."
        ),
        sections=[
            _question(),
            _paper(results),
            _ranks(results),
            _spread(results),
            _told_wrong(results),
            *_downstream(results),
            *_people(results),
            pages.limits(results, *_LIMITS),
        ],
        meta=Meta(
            seeds=results["config"]["seeds"],
            extra={
                "References": str(sum(len(row["seeds"]) for row in results["stress"])),
                "Processor time": format_duration(results["cpu_seconds"]),
            },
        ),
        verdicts=_survival(results),
    )


def _survival(results: Results) -> Table:
    one_seed = min(len(row["seeds"]) for row in results["stress"]) < 2

    def survives(item: tuple[str, Row]) -> str:
        # One seed decides nothing.
        return "open" if one_seed else "yes" if item[1]["reached"] == item[1]["of"] else "no"

    columns: Columns = {
        "index": lambda row: label(row[0]),
        "survives": survives,
        f"conditions with {AIM:g}": lambda row: f"{row[1]['reached']} of {row[1]['of']}",
        "worst": pages.figure_of("1.worst"),
        "where": lambda row: label(row[1]["worst_condition"]),
        "conditions with the right spread, by map": lambda row: (
            ", ".join(f"{name} {count}" for name, count in row[1]["spread_reached"].items()) or "–"
        ),
    }
    return table(results["survival"].items(), columns)


def _question() -> Section:
    text = (
        "A model is uncertain about what to prefer, but also about wording. In a small world where the truth is "
        "known, each condition changes how answers are written or how much was written, not what people prefer: which "
        f"index still orders the prompts by how much people agree? The aim, {AIM:g} in every condition with a trained "
        "reference and weights whose spread is within a quarter of the truth's, was set before the run. Intervals are "
        "95%, over seeds, each with a world, a corpus and a reference of its own."
    )
    terms = [
        (
            "Panel, one pass",
            "First token, divergent token and margin, each turned into the −log φ that it would come from among "
            "N answers; the middle one counts.",
        ),
        (
            "Panel with samples",
            "The same of divergent token, margin and the weighted clusters of sampled answers; *with topics* "
            "adds the topic entropy as a fourth.",
        ),
        (
            "Weighted clusters",
            "Entropy over clusters of sampled answers that share their telling words, each answer weighted by "
            "its probability under the reference.",
        ),
        (
            "Topic entropy",
            "Entropy of the whole answer, less what the answers of all prompts of its topic, taken together, "
            "have beyond log N: wording.",
        ),
        ("N", "The number of answers that people choose among, told to the indexes that need it; a world has 5."),
        ("Chosen by votes", "Whichever of the indexes follows the votes best on the voted prompts."),
    ]
    return pages.text_section("What is asked, and how", text, Definitions(terms))


def _paper(results: Results) -> Section:
    text = (
        "The paper takes −log(H/log n!) for −log φ, with H the entropy of a ranking of n items. Here H is exact and φ "
        "runs from .02 to .98. A straight line would be a perfect estimate: training scales the weights anyway."
    )
    pictures = [
        picture(
            f"paper_{distance}",
            f"The paper's estimate against the true −log φ under {name}, a curve per number of items.",
            "Every value is exact.",
        )
        for distance, name in _DISTANCES.items()
    ]
    columns: Columns = {
        "distance": lambda row: _DISTANCES[row["distance"]],
        "items": pages.plain("items"),
        "rising throughout": lambda row: "yes" if row["rising"] else "no",
        "correlation with −log φ": pages.figure_of("correlation", 3),
        "spread over the truth's": pages.figure_of("spread"),
    }
    caption = "Spread: the range of the estimate over that of the truth, each over its mean; Pearson's correlation."
    return pages.text_section("The paper's check", text, *pictures, table(results["paper"], columns, caption))


def _by_condition(results: Results, columns: Columns, caption: str = "") -> Table:
    first: dict[str, Any] = {"condition": lambda row: label(row["condition"])}
    return table(results["stress"], {**first, **columns}, caption)


def _ranks(results: Results) -> Section:
    def ranks(names: Sequence[str], caption: str) -> Table:
        columns: dict[str, Any] = {
            "seeds": lambda row: str(len(row["seeds"])),
            "excess (nats)": pages.figure_of("excess_nats.mean", 3),
        }
        columns |= {label(name): pages.interval(f"rank.{name}") for name in names}
        return _by_condition(results, columns, caption)

    text = (
        "Rank correlation with the true −log φ on held-out prompts. Excess: how far the reference is from what people "
        "write, held-out prompts. The condition *undertrained* counts for no verdict."
    )
    figure = picture(
        "ranks",
        "Rank correlation with the true −log φ under every condition, mean over seeds.",
        f"Blue follows people, white does not, orange is the wrong way round; bold is at least the aim, {AIM:g}. The "
        "95% intervals stand in the tables.",
    )
    body = [ranks(list(SINGLE_PASS), "Indexes of one pass."), ranks([*PANELS, VOTED], "Several indexes together.")]
    sampled = Section("Indexes of sampled answers", [ranks(list(SAMPLED), "")])
    return pages.text_section("Ranks", text, figure, *body, details=[sampled])


def _spread(results: Results) -> Section:
    text = (
        "Training scales the weights to a mean of 1; what counts is the range that nine tenths of them take, over "
        "that of the true weights: 1 is right, below 1 compressed. The panels speak of −log φ already, so that their "
        "map `neglog` needs no votes but N; under `n_by_votes` the voted prompts choose N; `isotonic` is fitted on "
        "them. In how many conditions the spread is right stands in the first table, by map."
    )
    columns = {
        f"{label(name)}, {map_name}": pages.interval(f"spread.{name}.{map_name}") for name, map_name in _SPREADS
    }
    return pages.text_section("Spread", text, details=[Section("By condition", [_by_condition(results, columns)])])


def _told_wrong(results: Results) -> Section:
    trained = [row for row in results["stress"] if row["trained"]]
    rows = [
        {name: [row["sensitivity"][told][name] for row in trained] for name in ("rank", "spread")} | {"told": told}
        for told in (trained[0]["sensitivity"] if trained else ())
    ]
    columns: Columns = {
        "N told": pages.plain("told"),
        f"conditions with {AIM:g}": lambda row: f"{sum(rank >= AIM for rank in row['rank'])} of {len(trained)}",
        "worst mean rank correlation": lambda row: format_number(min(row["rank"])),
        "median spread over the truth's": lambda row: format_number(median(row["spread"])),
    }
    text = (
        "The panel of one pass, told another number of answers than the world has; 10 is the default of the option "
        "`dispersion_estimator: panel`. Means over seeds, conditions with a trained reference."
    )
    return pages.text_section("What a wrong N costs", text, table(rows, columns))


def _downstream(results: Results) -> list[Section]:
    rows = results["downstream"]
    text = (
        "From each reference DPO and θ with three indexes were trained on the same pairs at several β. A point "
        "is 0.01 of the probability that a random person prefers the policy's answer to the reference's, mass outside "
        "the answers counted as lost; differences are taken at equal KL, seed by seed."
    )
    columns: Columns = {
        "condition": lambda row: label(row["condition"]),
        "method": pages.METHOD,
        "against": pages.named("baseline"),
        "seeds": pages.plain("seeds"),
        "difference (points)": pages.point_interval("difference"),
        "KL (nats)": pages.kl_range(),
    }
    lines = pages.compared(
        rows,
        lambda row: f"{pages.point_interval('difference')(row)} points",
        who=lambda row: f"{label(row['condition']).capitalize()}: {policies.label(row['method'])}",
        against=pages.named("baseline"),
    )
    return (
        [pages.text_section("What an index is worth in training", text, lines, table(rows, columns))] if rows else []
    )


def _people(results: Results) -> list[Section]:
    people = results["people"]
    if people is None:
        return []
    text = (
        f"Every index read from `{literal(people['model'])}`, against people's votes: is it larger on pairs on which "
        "voters contradict each other than on unanimous ones? An AUROC of ½ is chance; brackets are 95% intervals, by "
        "drawing whole prompts anew. What is marked *no model* needs none."
    )
    shown = contradiction_table(people["data"])
    return [pages.text_section("Against people", text, shown, details=people_sections(people["data"]))]


_LIMITS = (
    "The indexes were designed on seed 0 of this same world; what is not on the list of conditions was not tried.",
    "N was told, and right; of data of one's own nobody knows it.",
    "The references are small; how far each is from its population stands beside the ranks.",
    "Answers have a few words: nothing here says that the panel survives answers of hundreds of tokens.",
    "Where wording is as rare as content and shares no word with it, no single answer tells the two apart.",
)
