"""The page of `mallowspo dispersion`: how much people agree, what the weights will do, and how far to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mallowspo.dispersion.estimators import ESTIMATORS
from mallowspo.dispersion.side_by_side import SideBySide
from mallowspo.files import parse_json
from mallowspo.reports.dispersion.figures import draw_dispersion_figures
from mallowspo.reports.dispersion.next import next_section
from mallowspo.reports.dispersion.words import (
    MAP_WORDS,
    conclusions,
    count,
    flip_sentences,
    interval,
    percent,
    side_sentence,
    summary_words,
)
from mallowspo.reports.figures import FigurePaths
from mallowspo.reports.html import (
    Block,
    BulletList,
    Callout,
    Definitions,
    Example,
    Examples,
    Figure,
    Paragraph,
    Report,
    Section,
    Table,
    current_meta,
    literal,
    write_report,
)
from mallowspo.reports.text import format_number, format_p

__all__ = ["write_dispersion_report"]

Summary = Mapping[str, Any]
Figures = Mapping[str, FigurePaths]

_ANSWER = 400
"""Characters of a prompt or a response that are shown."""


def write_dispersion_report(
    folder: Path, tables: Mapping[str, Mapping[str, Any]], sides: Sequence[SideBySide]
) -> None:
    """Write `report.html` and its figures from `summary.json` and the tables."""
    summary: Summary = parse_json((folder / "summary.json").read_text(encoding="utf-8"))
    figures = draw_dispersion_figures(folder / "figures", summary, tables, sides)
    sections = [_meaning(summary)]
    if "reference" in summary:
        sections += _reference(summary["reference"], figures)
    if "votes" in summary:
        sections += _votes(summary["votes"], figures)
    if "rankings" in summary:
        sections += _rankings(summary["rankings"], figures)
    sections += [_side(facts, figures) for facts in summary["side_by_side"]]
    sections += [Section("What to conclude", [BulletList(conclusions(summary))]), next_section(summary)]
    made_with = summary.get("made_with", {})
    extra = {key.capitalize(): value for key, value in made_with.items() if key in ("model", "dataset", "adapter")}
    extra |= {f"Read: {key}": ", ".join(value) if isinstance(value, list) else value
              for key, value in summary["files"].items()}  # fmt: skip
    meta = current_meta(seeds=[summary["settings"]["seed"]], run_time=summary["seconds"], extra=extra)
    write_report(
        folder / "report.html",
        Report("How much do people agree, prompt by prompt?", summary_words(summary), sections, meta),
    )


def _picture(figures: Figures, name: str, alt: str, caption: str = "") -> list[Block]:
    return [Figure(figures[name].svg, alt, caption)] if name in figures else []


def _meaning(summary: Summary) -> Section:
    terms = [
        (
            "Dispersion φ",
            "Between 0 and 1. At 0 everybody ranks the responses alike; at 1 people choose as if at random. Two "
            "neighbouring responses are put the other way round with probability φ/(1+φ).",
        ),
        (
            "Weight w",
            "How hard a pair pulls in training: MallowsPO-θ is DPO with w·β in place of β. `w = −2 log φ`, times a "
            "scale φ* that makes its mean 1, so that β keeps the meaning that it has in DPO.",
        ),
    ]
    if "reference" in summary:
        facts = summary["reference"]
        terms.append(("Index u", ESTIMATORS[facts["estimator"]].words))
        terms.append(("From u to w", MAP_WORDS[facts["map"]["name"]]))
    text = (
        "A pair on which people agree teaches much; one on which they differ teaches little, whoever happened to "
        "be asked. The weight says so to the loss: agreed prompts pull harder at first and saturate sooner, contested "
        "ones pull gently. It changes how fast and how steadily the policy learns from few and noisy pairs; it is no "
        "rule to leave contested prompts flat for ever."
    )
    return Section("What the index means", [Paragraph(text), Definitions(terms)])


def _weights(facts: Summary, figures: Figures, name: str, rows: str) -> Section:
    share, size = facts["effective_share"], facts["effective_sample_size"]
    calibration = facts["calibration"]
    words = (
        f"With β = {facts['beta']:g}, a row's effective β is w·β. The scale φ* is "
        f"{format_number(calibration['scale'], 3)}"
        + (
            ", fitted so that the mean weight is 1"
            if calibration["automatic"]
            else f", as given; the mean weight is {format_number(calibration['weight_mean'])}"
        )
        + f". Unequal weights make {count(facts['rows'], rows)} worth "
        f"{format_number(size, 0)} equally weighted ones ({percent(share)}): the price for trusting some more than "
        "others."
    )
    clipped = calibration["clipped"] + calibration["floored"]
    if clipped:
        words += (
            f" {count(calibration['clipped'], 'weight')} met the clip {calibration['clip']}, and "
            f"{count(calibration['floored'], 'row')} stood at the end of the map."
        )
    table = Table(
        ["share of rows below", "weight w", "effective β"],
        [
            [percent(item["quantile"], 0), format_number(item["weight"]), format_number(item["beta"], 3)]
            for item in facts["effective_beta"]
        ],
        "Effective β over the rows.",
    )
    picture = _picture(
        figures, name, "Histogram of the weights with their median and the points of 10 and 90 per cent."
    )
    return Section("What the weights will do", [Paragraph(words), table, *picture])


def _flips(facts: Summary) -> Section:
    return Section("How often one label is wrong", [Paragraph(text) for text in flip_sentences(facts)])


def _follows(facts: Summary, figures: Figures) -> Section:
    table = Table(
        [
            "the index against" if facts["source"] == "reference" else "φ against",
            "rank correlation",
            "prompts" if facts["source"] == "reference" else "pairs",
        ],
        [[item["with"], interval(item), f"{item['count']:,}"] for item in facts["correlations"]],
        "Spearman's rank correlation with its interval; positive: dispersion rises with it.",
    )
    if facts["source"] == "votes":
        return Section("What disagreement goes with", [table])
    words = (
        "An index that follows length says how long people write, not how much they differ. A strong correlation with "
        "length is a reason to try another index. The margin is how much likelier the reference holds the chosen "
        "response than the rejected one, before any training."
    )
    pictures = _picture(figures, "length", "The index of each prompt against the mean length of its responses.")
    pictures += _picture(figures, "margin", "The index of each prompt against the size of the reference's margin.")
    return Section("What the index follows", [Paragraph(words), table, *pictures])


def _reference(facts: Summary, figures: Figures) -> list[Section]:
    uncertain = facts["interval"]
    if uncertain["known"]:
        trust = (
            f"Each prompt's interval says how far its index would move with other responses to it: at the median "
            f"prompt by a factor of {format_number(uncertain['median_factor'])} either way "
            f"({percent(uncertain['level'], 0)} level). It comes from the spread between responses to the same "
            "prompt, taken to be alike everywhere. "
        )
        if uncertain["reliability"] is not None:
            trust += (
                f"{percent(uncertain['reliability'], 0)} of the variance between prompts is more than that noise: "
                "the nearer to 100%, the more the index is a property of the prompt."
            )
    else:
        trust = f"There is no interval per prompt: {uncertain['why']}."
    body: list[Block] = [
        *_picture(figures, "index", "Histogram of the index over prompts."),
        Paragraph(trust),
    ]
    parts = [_weights(facts, figures, "weight", "row"), _follows(facts, figures), _flips(facts)]
    return [Section("The model's index", body, parts), _extremes(facts, "index", "by the model")]


def _extremes(facts: Summary, value: str, by: str) -> Section:
    title = f"Most agreed and most contested, {by}"
    parts = []
    for side, heading in (("agreed", "Most agreed"), ("contested", "Most contested")):
        items = [_example(item, value) for item in facts[side] if item.get("prompt") and item.get("responses")]
        if items:
            parts.append(Section(heading, [Examples(items)]))
    if not parts:
        rows = [
            [item["prompt_id"][:12], item["row_index"] + 1, format_number(item[value], 3)]
            for side in ("agreed", "contested")
            for item in facts[side]
        ]
        note = "The source has no words; give the data set beside it (`--dataset_name`) to read the prompts here."
        table = Table(["prompt", "row", value], rows, "The most agreed prompts, then the most contested ones.")
        return Section(title, [Paragraph(note), table])
    return Section(title, subsections=parts)


def _example(item: Summary, value: str) -> Example:
    if value == "index":
        ends = (
            f" [{format_number(item['index_low'], 3)}, {format_number(item['index_high'], 3)}]"
            if item["index_low"] is not None
            else ""
        )
        note = f"u = {format_number(item['index'], 3)}{ends}, weight {format_number(item['dispersion_weight'])}"
        names = [f"Response {place + 1}" for place in range(len(item["responses"]))]
    elif "votes" in item:
        phi = f"{format_number(item['dispersion'])} [{format_number(item['dispersion_low'])}, "
        note = f"φ = {phi}{format_number(item['dispersion_high'])}] for this pair, weight "
        note += format_number(item["dispersion_weight"])
        if item["votes"][2]:
            note += f"; {format_number(item['votes'][2], 0)} found neither better"
        if item["pairs"] > 1:
            note += f"; one of {item['pairs']} pairs of this prompt"
        names = [f"{format_number(item['votes'][place], 0)} for this" for place in range(2)]
    else:
        phi = f"{format_number(item['dispersion'])} [{format_number(item['dispersion_low'])}, "
        note = f"φ = {phi}{format_number(item['dispersion_high'])}], {item['people']} people, best first"
        names = [
            "shown to nobody" if rank is None else f"mean rank {format_number(rank, 1)}" for rank in item["mean_ranks"]
        ]
    answers = [(name, _short(text)) for name, text in zip(names, item["responses"], strict=True)][:4]
    if item.get("more_responses"):
        note += f"; {count(item['more_responses'], 'more response')} not shown"
    return Example(_short(item["prompt"]), answers, note)


def _short(text: str) -> str:
    return text if len(text) <= _ANSWER else f"{text[: _ANSWER - 1].rstrip()}…"


def _votes(facts: Summary, figures: Figures) -> list[Section]:
    rows = [
        ["Pairs", f"{facts['rows']:,}"],
        ["Prompts", f"{facts['prompts']:,}"],
        ["Pairs with a vote", f"{facts['voted']:,}"],
        ["Votes a pair (mean)", format_number(facts["votes_per_row"]["mean"], 1)],
        ["Ties among the votes", percent(facts["tie_share"])],
        ["Pairs on which nobody saw a difference", f"{facts['all_tied']:,}"],
        ["Unanimous pairs", f"{facts['unanimous']:,}"],
        ["Pairs on which voters contradict each other", f"{facts['contradicted']:,} of {facts['decided']:,}"],
    ]
    if "label_against_votes" in facts:
        rows.append(["Pairs whose label lost the vote", f"{facts['label_against_votes']:,}"])
    smoothing = (
        f"A tie counts half to each side. {facts['prior']:g} votes are added to each side before φ is read off the "
        "majority's share, since three votes of three are no proof that everybody agrees; a pair without a vote gets "
        f"the mean of the others. With {format_number(facts['votes_per_row']['mean'], 0)} votes a pair every single φ "
        "is rough, as its interval says; the weights of many pairs together are not."
    )
    body: list[Block] = [
        Table(["", "people"], rows, "What was read.", align="lr"),
        *([Paragraph(f"To know of these votes: {'; '.join(facts['notes'])}.")] if facts.get("notes") else []),
        Paragraph(smoothing),
        *_picture(figures, "votes_phi", "Histogram of phi over pairs, from votes."),
    ]
    parts = [_weights(facts, figures, "votes_weight", "pair"), _flips(facts)]
    if facts["correlations"]:
        parts.append(_follows(facts, figures))
    return [Section("The people's votes", body, parts), _extremes(facts, "dispersion", "by the votes")]


def _rankings(facts: Summary, figures: Figures) -> list[Section]:
    name = {"kendall": "Kendall's tau", "spearman": "Spearman's rho"}[facts["distance"]]
    words = (
        f"Each prompt's rankings are fitted by a Mallows model with {name}: a centre, and how far people scatter "
        "around it. The likelihood: " + "; ".join(facts["likelihood"]) + "."
    )
    words = " ".join([words, *(literal(note) for note in facts["notes"])])
    body: list[Block] = [Paragraph(words)]
    if facts["detail"]:
        body += _detail(facts)
    body += _picture(figures, "rankings_detail", "phi of each set of rankings with its interval, for both distances.")
    body += _picture(figures, "rankings_phi", "Histogram of phi over prompts, from rankings.")
    parts = []
    if facts["prompts"] > 3:
        parts = [_weights(facts, figures, "rankings_weight", "prompt"), _flips(facts)]
    section = Section("The people's rankings", body, parts)
    if facts["prompts"] <= 3:
        return [section]
    return [section, _extremes(facts, "dispersion", "by the rankings")]


def _detail(facts: Summary) -> list[Block]:
    main, other = facts["distance"], "spearman" if facts["distance"] == "kendall" else "kendall"
    both = all(other in item for item in facts["detail"])
    tested = any(item["fit_p"] is not None for item in facts["detail"])
    true = any("truth" in item for item in facts["detail"])
    header = ["rankings of", f"φ, {main.capitalize()}", *[f"φ, {other.capitalize()}"] * both]
    header += ["fit, p"] * tested + ["centre to truth"] * true
    rows = []
    for item in facts["detail"]:
        row = [f"{item['prompt']} ({item['people']} people)", _phi(item[main])]
        row += [_phi(item[other])] if both else []
        if tested:
            row.append("–" if item["fit_p"] is None else format_p(item["fit_p"], name=""))
        if true:
            truth = item.get("truth")
            row.append("–" if truth is None else f"{truth['center_distance']} of {truth['largest_distance']}")
        rows.append(row)
    caption = "φ with its interval. A small p of the fit says that one φ does not describe these people."
    if true:
        caption += " The last column counts pairs of items that the centre orders against the truth."
    orders = [(literal(item["prompt"]), literal(" › ".join(item["order"]))) for item in facts["detail"]]
    blocks: list[Block] = [Table(header, rows, caption, align="l" + "r" * (len(header) - 1))]
    equal = facts["equal_phi"]
    if equal is not None:
        blocks.append(
            Callout(
                "result",
                f"That all have one φ ({format_number(equal['common_phi'], 3)}) has {format_p(equal['p'])} "
                f"(likelihood ratio, {count(equal['degrees'], 'degree')} of freedom): "
                + ("they differ in how much they agree." if equal["p"] < 0.05 else "no difference is shown."),
            )
        )
    if sum(len(order) for _, order in orders) < 4_000:
        blocks += [Paragraph("The centres, best first:"), Definitions(orders)]
    return blocks


def _phi(fit: Summary) -> str:
    return f"{format_number(fit['phi'], 3)} [{format_number(fit['low'], 3)}, {format_number(fit['high'], 3)}]"


def _side(facts: Summary, figures: Figures) -> Section:
    name = f"side_by_side_{facts['people']}"
    alt = f"The model's index of each prompt against the phi that people's {facts['people']} give."
    rows = [
        ["Prompts in common", f"{facts['prompts']:,}"],
        ["Prompts of the model", f"{facts['prompts_of_model']:,}"],
        ["Prompts of the people", f"{facts['prompts_of_people']:,}"],
        ["Rank correlation of index and φ", interval(facts["correlation"])],
    ]
    if facts["auroc"] is not None:
        rows.append(["AUROC: contradicted against agreed prompts", interval(facts["auroc"])])
        rows.append(
            ["Prompts on which people contradicted each other", f"{facts['diverging']:,} of {facts['judged']:,}"]
        )
    table = Table(["", facts["people"]], rows, "½ is chance for the AUROC, 0 for the correlation.", align="lr")
    return Section(
        f"Model and people side by side: {facts['people']}",
        [Callout("result", side_sentence(facts)), table, *_picture(figures, name, alt)],
    )
