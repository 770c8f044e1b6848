"""The page of the study of the indexes: question, method, result with intervals, verdict and limits."""

from __future__ import annotations

from pathlib import Path
from statistics import median as _median
from typing import Any

from mallowspo.experiments.estimator_figures import draw_figures
from mallowspo.experiments.estimator_summary import VOTED
from mallowspo.experiments.estimator_words import (
    aim_sentence,
    downstream_sentences,
    interval_text,
    label,
    paper_sentence,
    people_sentence,
    points,
    spread_sentence,
    winner,
)
from mallowspo.reports.figures import FigurePaths
from mallowspo.reports.html import (
    Block,
    BulletList,
    Callout,
    Definitions,
    Figure,
    Paragraph,
    Report,
    Section,
    Table,
    current_meta,
    write_report,
)
from mallowspo.reports.text import format_duration, format_interval, format_number

__all__ = ["SURVIVAL_HEADER", "limits", "rank_rows", "spread_rows", "survival_rows", "write_estimator_report"]

Results = dict[str, Any]
Figures = dict[str, FigurePaths]

_PANELS = ("panel", "panel_sampled", "panel_topics")


def write_estimator_report(folder: Path, results: Results) -> None:
    """Write `report.html` and its figures.

    Args:
        folder: Where to write; figures go into its folder `figures`.
        results: The findings, as read from `results.json`.
    """
    figures = draw_figures(folder / "figures", results)
    sections = [
        _question(),
        _paper(results, figures),
        _method(results),
        _ranks(results, figures),
        _spread(results),
        _downstream(results),
        _people(results),
        Section("Verdict and limits", [BulletList(_conclusions(results)), BulletList(limits(results))]),
    ]
    config = results["config"]
    extra = {
        "References": str(sum(len(row["seeds"]) for row in results["stress"])),
        "Processor time": format_duration(results["cpu_seconds"]),
    }
    meta = current_meta(command=_command(config), seeds=config["seeds"], extra=extra)
    title = "Is there a dispersion index that survives?"
    write_report(folder / "report.html", Report(title, _summary(results), sections, meta))


def _command(config: Results) -> str:
    """The command line that gives these settings."""
    words = [
        "mallowspo experiment estimator",
        f"--seeds {len(config['seeds'])}",
        f"--conditions {','.join(config['conditions'])}",
        f"--downstream {','.join(config['downstream_conditions']) or 'none'}",
        *([f"--model_name_or_path {config['model']}"] if config["model"] else []),
        *(f"--votes {name}={path}" for name, path in config["data"].items()),
    ]
    return " ".join(words)


def _summary(results: Results) -> str:
    return "\n\n".join([aim_sentence(results), spread_sentence(results, "panel"), people_sentence(results)])


def _question() -> Section:
    text = (
        "MallowsPO weighs a prompt by how much people agree on it, and reads that off the reference model's own "
        "uncertainty. But a model is also uncertain about wording, and what is read off it also goes with length and "
        "with openings that many answers share. In a small world where the truth is known, each of these is switched "
        "on by itself: which index still orders the prompts by how much people agree? The aim was set before the run: "
        "a rank correlation of at least 0.9 with the true −log φ in every condition in which the reference is "
        "trained, "
        "from the reference alone, and weights whose spread is within a quarter of the truth's, with votes on at most "
        "50 prompts."
    )
    return Section("What is asked", [Paragraph(text)])


def _paper(results: Results, figures: Figures) -> Section:
    rows = [
        [
            row["distance"],
            row["items"],
            "yes" if row["rising"] else "no",
            format_number(row["correlation"], 4),
            format_number(row["spread"]),
        ]
        for row in results["paper"]
    ]
    pictures = [
        Figure(
            figures[f"paper_{name}"].svg,
            f"The paper's estimate against the true −log φ under {name}, a curve per number of items.",
            "A straight line would be a perfect estimate: training scales the weights anyway.",
        )
        for name in ("kendall", "spearman")
    ]
    header = ["distance", "items", "rising throughout", "correlation with −log φ", "spread over the truth's"]
    return Section(
        "The paper's check",
        [
            Paragraph(
                "The paper takes −log(H/log n!) for −log φ, with H the entropy of a ranking of n items. Here H "
                "is exact "
                "and φ runs from .02 to .98. " + paper_sentence(results)
            ),
            *pictures,
            Table(
                header, rows, caption="Spread: the range of the estimate over that of the truth, each over its mean."
            ),
        ],
    )


def _method(results: Results) -> Section:
    config = results["config"]
    world = config["world"]
    text = (
        f"Each condition changes how answers are written or how much was written, not what people prefer. For each "
        f"condition and each of {len(config['seeds'])} seeds a world is drawn, its population writes a corpus on "
        f"{world['train_prompts']} prompts, and a small Llama is trained on it. All indexes are read from that one "
        f"reference on {world['heldout_prompts']} prompts that it never saw: from two preference pairs a prompt, or "
        f"from {world['samples']} sampled answers. Votes: {config['members']} people on each of two pairs of "
        f"{config['voted_prompts']} training prompts. N, the number of answers that people choose among, is told to "
        f"the indexes that need it: {config['alternatives']}, which is right. Intervals are 95%, over seeds."
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
        ("Chosen by votes", "Whichever of the indexes follows the votes best on the voted prompts."),
    ]
    return Section("Method", [Paragraph(text), Definitions(terms)])


def survival_rows(results: Results) -> list[list[str]]:
    """A row per index: how often it reaches the aims and where it does worst."""
    rows = []
    for name, item in results["survival"].items():
        spreads = ", ".join(f"{map_name} {count}" for map_name, count in item["spread_reached"].items())
        rows.append(
            [
                label(name),
                f"{item['reached']} of {item['of']}",
                format_number(item["worst"]),
                label(item["worst_condition"]),
                spreads or "–",
            ]
        )
    return rows


SURVIVAL_HEADER = ("index", "conditions with .9", "worst", "where", "conditions with the right spread, by map")


def rank_rows(results: Results, names: tuple[str, ...]) -> list[list[str]]:
    """A row per condition: rank correlations with intervals."""
    return [
        [
            label(row["condition"]),
            str(len(row["seeds"])),
            format_number(row["excess_nats"]["mean"], 3),
            *(interval_text(row["rank"][name]) for name in names),
        ]
        for row in results["stress"]
    ]


def spread_rows(results: Results, columns: tuple[tuple[str, str], ...]) -> list[list[str]]:
    """A row per condition: spread of the weights over the truth's, for (index, map) columns."""
    return [
        [
            label(row["condition"]),
            *(
                interval_text(row["spread"][name][map_name]) if map_name in row["spread"][name] else "–"
                for name, map_name in columns
            ),
        ]
        for row in results["stress"]
    ]


def _ranks(results: Results, figures: Figures) -> Section:
    singles = tuple(name for name in results["survival"] if name not in (*_PANELS, VOTED))
    halves = (singles[:5], singles[5:], (*_PANELS, VOTED))
    captions = ("Indexes of one pass.", "Indexes of sampled answers.", "Several indexes together.")
    tables: list[Block] = [
        Table(
            ["condition", "seeds", "excess (nats)", *(label(name) for name in names)],
            rank_rows(results, names),
            caption=caption + " Excess: how far the reference is from what people write, held-out prompts.",
        )
        for names, caption in zip(halves, captions, strict=True)
    ]
    body: list[Block] = [
        Callout("result", aim_sentence(results)),
        Figure(
            figures["ranks"].svg,
            "Rank correlation of five indexes with the true −log φ under every condition, with 95% intervals.",
            "The dashed line is the aim.",
        ),
        Table(
            list(SURVIVAL_HEADER),
            survival_rows(results),
            caption="Over conditions with a trained reference; the mean over seeds counts.",
        ),
        *tables,
    ]
    return Section("Ranks", body)


_SPREAD_COLUMNS = (
    ("mean_entropy", "neglog"),
    ("mean_entropy", "isotonic"),
    ("divergent_token", "mallows"),
    ("panel", "neglog"),
    ("panel", "n_by_votes"),
    ("panel", "isotonic"),
    ("panel_topics", "neglog"),
    ("panel_topics", "n_by_votes"),
)


def _spread(results: Results) -> Section:
    text = (
        "Training scales the weights to a mean of 1. What counts is the range that nine tenths of them take, "
        "over that "
        "of the true weights: 1 is right, below 1 compressed. The panels speak of −log φ already, so that their map "
        "`neglog` needs no votes but N; under `n_by_votes` the voted prompts choose N; `isotonic` is fitted on them."
    )
    header = ["condition", *(f"{label(name)}, {map_name}" for name, map_name in _SPREAD_COLUMNS)]
    return Section(
        "Spread",
        [
            Paragraph(text),
            BulletList([spread_sentence(results, name) for name in ("mean_entropy", *_PANELS)]),
            Table(header, spread_rows(results, _SPREAD_COLUMNS)),
        ],
    )


def _downstream(results: Results) -> Section:
    if not results["downstream"]:
        return Section("What an index is worth in training", [Paragraph("Not run.")])
    rows = [
        [
            label(row["condition"]),
            label(row["method"]),
            label(row["baseline"]),
            str(row["seeds"]),
            points(row["difference"]),
            "–" if row["kl_low"] is None else f"{format_number(row['kl_low'], 3)}–{format_number(row['kl_high'], 3)}",
        ]
        for row in results["downstream"]
    ]
    text = (
        "From each reference DPO and θ with three indexes were trained on the same pairs at several β. A point "
        "is 0.01 "
        "of the probability that a random person prefers the policy's answer to the reference's, mass outside the "
        "answers counted as lost; differences are taken at equal KL, seed by seed."
    )
    header = ["condition", "method", "against", "seeds", "difference (points)", "KL (nats)"]
    return Section(
        "What an index is worth in training",
        [Paragraph(text), Table(header, rows), BulletList(downstream_sentences(results))],
    )


def _people(results: Results) -> Section:
    people = results["people"]
    if people is None:
        return Section("Against people", [Paragraph(people_sentence(results))])
    tables = [
        Table(
            ["index", "over pairs", "length held fixed", "AUROC, contradicted pairs", "over prompts"],
            [
                [
                    label(name),
                    *(
                        format_interval(*(found[key][end] for end in ("value", "low", "high")))
                        if found.get(key) and found[key]["value"] is not None and found[key]["low"] is not None
                        else "–"
                        for key in ("pairs", "pairs_given_length", "auroc", "prompts_votes")
                    ),
                ]
                for name, found in facts["indexes"].items()
            ],
            caption=f"{data}: {facts['pairs']:,} pairs of {facts['prompts']:,} prompts; correlation with people's φ.",
        )
        for data, facts in people["data"].items()
    ]
    return Section("Against people", [Paragraph(people_sentence(results)), *tables])


def _conclusions(results: Results) -> list[str]:
    return [
        aim_sentence(results),
        *(spread_sentence(results, name) for name in _PANELS),
        winner(results),
        people_sentence(results),
    ]


def _sensitivity(results: Results) -> list[str]:
    """What becomes of the panel of one pass when N is told wrong."""
    trained = [row["sensitivity"] for row in results["stress"] if row["trained"]]
    parts = [
        f"with N = {number} its worst mean rank correlation is "
        f"{format_number(min(row[number]['rank'] for row in trained))} and its median spread "
        f"{format_number(_median([row[number]['spread'] for row in trained]))} of the truth's"
        for number in trained[0]
    ]
    return [f"N was told, and right. Told wrong, the panel of one pass changes: {'; '.join(parts)}."]


def limits(results: Results) -> list[str]:
    """What the study cannot say."""
    excess = max(row["excess_nats"]["mean"] for row in results["stress"] if row["trained"])
    return [
        "The indexes were designed on seed 0 of this same world, which is left out here; another world could be "
        "harder. "
        "The conditions follow one list; what is not on it was not tried.",
        *_sensitivity(results),
        f"The references are small, and trained to within {format_number(excess, 3)} nats of the population at worst.",
        "Answers of the world have a few words. Between answers of hundreds of tokens the margin is mostly "
        "wording and "
        "the first tokens are mostly style; nothing here says that the panel survives that.",
        "Where wording is as rare as content and shares no word with it, nothing in a single answer tells the "
        "two apart.",
    ]
