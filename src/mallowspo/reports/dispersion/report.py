"""The page of `mallowspo dispersion`: how much people agree, what the weights will do, and how far to trust it.

Its sentences are written once; what was found stands beside them in tables, and what is worth a look before training
is named with its number and what to do.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mallowspo.dispersion.analysis import worth_words
from mallowspo.dispersion.estimators import ESTIMATORS
from mallowspo.dispersion.side_by_side import SideBySide
from mallowspo.evaluation.ranking import comparisons
from mallowspo.files import parse_json
from mallowspo.reports.blocks import (
    Block,
    Callout,
    CodeBlock,
    Definitions,
    Example,
    Examples,
    Figure,
    Paragraph,
    Report,
    Section,
    Table,
    literal,
)
from mallowspo.reports.dispersion.figures import draw_dispersion_figures
from mallowspo.reports.figure_style import FigurePaths
from mallowspo.reports.html import current_meta, write_report
from mallowspo.reports.text import MISSING, format_interval, format_number, format_p, interval_text, percent, plural
from mallowspo.stats.bootstrap import FEW_GROUPS
from mallowspo.stats.intervals import Interval
from mallowspo.stats.verdicts import verdict

__all__ = ["few_prompts", "write_dispersion_report"]

Summary = Mapping[str, Any]
Figures = Mapping[str, FigurePaths]

_ANSWER = 400  # characters of a prompt or a response that are shown
_STRONG = 0.3  # a rank correlation from which on the index goes with length

SOURCES = {"reference": "the reference", "votes": "votes", "rankings": "rankings"}

_PHI = (
    "Between 0 and 1. At 0 everybody ranks the responses alike; at 1 people choose as if at random. Two neighbouring "
    "responses are put the other way round with probability φ/(1+φ)."
)
_WEIGHT = (
    "How hard a pair pulls in training: MallowsPO-θ is DPO with w·β in place of β. `w = −2 log φ`, times a scale φ* "
    "that makes its mean 1, so that β keeps the meaning that it has in DPO."
)
_MAPS = {
    "neglog": "`w = −φ* log u`, the paper's map. It keeps the order of the prompts and compresses their spread.",
    "mallows": "φ is read off u as the entropy of a choice among a known number of answers (`mallows`).",
    "quantile": "The prompts' ranks under u are laid on a stated spread of −log φ (`quantile`): only the order of u "
    "is used.",
    "isotonic": "A falling curve fitted to what people said on some of the prompts (`isotonic`). Where the index does "
    "not follow people, the curve is flat and the weights are equal.",
}
_FLIPS = {
    "votes": "One vote against what most would say is the label-flip rate of data that asks one person a pair, and "
    "what `label_smoothing` wants: its low end holds if all pairs are alike, its high end if people are split evenly "
    "on some and agree on the rest. With few votes a pair the minority's share is too low, and the smoothed φ/(1+φ) "
    "is drawn to the middle: too high where people agree, too low where they are split, and its interval knows "
    "nothing of that.",
    "rankings": "One person's order of two responses that are neighbours in the centre is the other way round with "
    "probability φ/(1+φ); mean over prompts.",
    "measured": "If the index is right, one person's label goes against the consensus with probability φ/(1+φ); mean "
    "over rows. The scale of φ comes from the map, so it is as good as what the map was told.",
    "unmeasured": "The index orders the prompts; it does not measure φ. The scale φ* is set so that the mean weight "
    "is 1: use φ/(1+φ) at that scale to compare prompts, not as the label-flip rate of the data. For that, give votes "
    "(`--votes`), or a map that knows the scale (`isotonic`, or `mallows` with the number of answers).",
}
_NO_VOTES = (
    "Which row of the table holds, votes on some hundred of these prompts would tell (`--votes FILE`). Where nobody "
    "can be asked, a judge may rank answers of a model, twice and more, and its rankings be read in the place of "
    "people's (`--rankings`): they say how far that judge differs with itself."
)
_BY_JUDGE = (
    "mallowspo evaluate --model MODEL --prompts DATA --judge JUDGE \\\n"
    "    --rank 4 --max_prompts 200 --output_dir ranked"
)
_SIDES = {
    "better": "The index orders the prompts better than chance.",
    "worse": "The index orders the prompts the wrong way round: training on it would pull where people differ.",
    "open": "That is compatible with knowing nothing of what people think.",
}


def write_dispersion_report(
    folder: Path, tables: Mapping[str, Mapping[str, Any]], sides: Sequence[SideBySide]
) -> None:
    """Write `report.html` and its figures from `summary.json` and the tables by source."""
    summary: Summary = parse_json((folder / "summary.json").read_text(encoding="utf-8"))
    figures = draw_dispersion_figures(folder / "figures", summary, tables, sides)
    sections = [_meaning(summary)]
    for source, parts in (("reference", _reference), ("votes", _votes), ("rankings", _rankings)):
        if source in summary:
            sections += parts(summary[source], figures)
    sections += [_side(facts, figures) for facts in summary["side_by_side"]]
    nothing = Paragraph("Nothing stands against training with these weights.")
    findings = list(_findings(summary))
    sections += [Section("What to conclude", [Definitions(findings) if findings else nothing]), _next(summary)]
    made_with = summary.get("made_with", {})
    extra = {key.capitalize(): value for key, value in made_with.items() if key in ("model", "dataset", "adapter")}
    extra |= {f"Read: {key}": ", ".join(value) if isinstance(value, list) else value
              for key, value in summary["files"].items()}  # fmt: skip
    meta = current_meta(seeds=[summary["settings"]["seed"]], run_time=summary["seconds"], extra=extra)
    title = "How much do people agree, prompt by prompt?"
    lead = "The dispersion of each prompt, the weight that it gives a row in training, and how far to trust both."
    write_report(folder / "report.html", Report(title, lead, sections, meta, verdicts=_overview(summary)))


def _overview(summary: Summary) -> Table:
    rows = []
    for source in (name for name in SOURCES if name in summary):
        facts = summary[source]
        phi, weight = facts["phi"]["quantiles"], facts["weight"]["quantiles"]
        spread = [format_interval(q["0.5"], q["0.05"], q["0.95"]) if q else MISSING for q in (phi, weight)]
        worth = percent(facts["effective_share"], 0)
        rows.append([source, f"{facts['rows']:,}", f"{facts['prompts']:,}", *spread, worth])
    header = ["source", "rows", "prompts", "φ: median [5%, 95%]", "weight w: median [5%, 95%]", "worth of the rows"]
    return Table(header, rows, align="lrrrrr")


def _picture(figures: Figures, name: str, alt: str) -> list[Block]:
    return [Figure(figures[name].svg, alt)] if name in figures else []


def _meaning(summary: Summary) -> Section:
    terms = [("Dispersion φ", _PHI), ("Weight w", _WEIGHT)]
    if "reference" in summary:
        facts = summary["reference"]
        terms += [("Index u", ESTIMATORS[facts["estimator"]].words), ("From u to w", _MAPS[facts["map"]["name"]])]
    text = (
        "A pair on which people agree teaches much; one on which they differ teaches little, whoever happened to "
        "be asked. The weight says so to the loss: agreed prompts pull harder at first and saturate sooner, contested "
        "ones pull gently. It changes how fast and how steadily the policy learns from few and noisy pairs; it is no "
        "rule to leave contested prompts flat for ever."
    )
    return Section("What the index means", [Paragraph(text), Definitions(terms)])


# --------------------------------------------------------------------------------------------------------------------
# Parts of every source


def _weights(facts: Summary, figures: Figures, name: str) -> Section:
    text = (
        f"With β = {facts['beta']:g}, a row's effective β is w·β. The scale φ* makes the mean weight 1 unless it was "
        "given. Unequal weights make the rows worth fewer equally weighted ones: the price for trusting some more "
        "than others."
    )
    calibration = facts["calibration"]
    worth = f"{format_number(facts['effective_sample_size'], 0)} ({percent(facts['effective_share'])})"
    rows = [
        ["Scale φ*", format_number(calibration["scale"], 3) + ("" if calibration["automatic"] else ", as given")],
        ["Mean weight", format_number(calibration["weight_mean"])],
        ["Rows", f"{facts['rows']:,}"],
        ["Worth of as many equally weighted", worth],
        [f"Weights that met the clip {calibration['clip']}", f"{calibration['clipped']:,}"],
        ["Rows at the end of the map", f"{calibration['floored']:,}"],
    ]
    spread = [
        [percent(item["quantile"], 0), format_number(item["weight"]), format_number(item["beta"], 3)]
        for item in facts["effective_beta"]
    ]
    alt = "Histogram of the weights with their median and the points of 10 and 90 per cent."
    body = [
        Paragraph(text),
        Table(["", "weights"], rows, align="lr"),
        Table(["share of rows below", "weight w", "effective β"], spread, "Effective β over the rows."),
        *_picture(figures, name, alt),
    ]
    return Section("What the weights will do", body)


def _worth(facts: Summary) -> Section:
    found = facts["worth"]
    text = (
        "G is how many pairs with equal weights a pair with these weights is worth: up to that, where prompts share "
        "the model's parameters, gaps are small, and weights have nothing to do with how two responses differ. It "
        "rests on c_w, how much the weights vary (standard deviation over mean), and on ρc_λ: the correlation ρ of "
        "the weights with −log φ as people have it, times how much that varies. 0 is an index that knows nothing of "
        "people."
    )
    curve = [
        [format_number(row["correlation"]), format_number(row["gain"], 3), f"{100 * (row['gain'] - 1):+.0f}%"]
        for row in found["curve"]
    ]
    note = f"c_w = {format_number(found['variation'], 3)}; G is 1 at ρc_λ = {format_number(found['break_even'], 3)}."
    body: list[Block] = [
        Paragraph(text),
        Table(["ρc_λ", "G", "worth of the data"], curve, note),
        Callout("note", f"In words: {worth_words(found)}."),
    ]
    if found["people"] is not None:
        people = found["people"]
        rows = [
            ["s, how far the index is believed", interval_text(people["shrink"])],
            ["G of these weights", interval_text(people["gain"])],
            ["G of the index as the map gives it", interval_text(people["gain_unshrunken"])],
            ["G of the index shrunken by s", format_number(people["gain_shrunken"])],
            ["Prompts and pairs with votes", f"{people['prompts']:,}, {people['pairs']:,}"],
        ]
        fitted = (
            "Votes on some of the prompts say how right the index is: s is the slope of people's −log φ on the "
            "weights, fitted by the votes' marginal likelihood. 1 leaves the weights, less draws them towards 1, more "
            "spreads them out. Votes of a model that judges are that model's, not people's."
        )
        body += [Paragraph(fitted), Table(["", "by the votes"], rows, align="lr")]
    else:
        # Four answers to a prompt, ranked twice by merge sort, each comparison in both orders.
        asked = 2 * 2 * comparisons(4) * min(facts["prompts"], 200)
        body += [Paragraph(_NO_VOTES), CodeBlock(_BY_JUDGE, f"At most {asked:,} requests to the judge.")]
    other = facts["map"].get("other_alternatives")
    if other:
        rows = [
            [
                f"{row['alternatives']:,}",
                format_number(row["variation"], 3),
                f"{format_number(row['weight_low'])} to {format_number(row['weight_high'])}",
            ]
            for row in other
        ]
        taken = f"{facts['map']['alternatives']:,} answers were " + (
            "read off the reference: as few as reach the entropy of its most open prompts."
            if facts["map"]["automatic"]
            else "given."
        )
        note = f"How far the map's weights depend on the number of answers, before shrink and power. {taken}"
        body.append(Table(["answers to choose among", "c_w", "weights, 5% to 95%"], rows, note))
    return Section("What the weights are worth", body)


def _flips(facts: Summary) -> Section:
    flip = facts["flip"]
    rates = [("φ/(1+φ)", flip["rate"])]
    words = "rankings" if facts["source"] == "rankings" else "measured" if flip["scale_measured"] else "unmeasured"
    if facts["source"] == "votes":
        words = "votes"
        rates = [("Two voters who both see a difference disagree", flip["differ"])]
        rates += [("The minority's share among the votes", flip["minority"]), ("Smoothed φ/(1+φ)", flip["rate"])]
    rows = [[name, interval_text(rate, 1, scale=100.0)] for name, rate in rates]
    if flip.get("bounds") is not None:
        low, high = (format_number(100 * bound, 1) for bound in flip["bounds"])
        rows.insert(1, ["One vote goes against what most would say", f"{low} to {high}"])
    body: list[Block] = [Table(["", "% of the cases"], rows, align="lr"), Paragraph(_FLIPS[words])]
    body += [Callout("warning", note) for note in few_prompts(facts)]
    return Section("How often one label is wrong", body)


def few_prompts(facts: Summary) -> list[str]:
    """What to know of intervals that rest on few prompts."""
    if not 3 <= facts["prompts"] < FEW_GROUPS:
        return []
    return [
        f"These intervals rest on {plural(facts['prompts'], 'prompt')}: with fewer than {FEW_GROUPS} they hold the "
        "truth less often than they say (simulated at 95%: about 0.75 of the time with 5, 0.85 with 10)."
    ]


def _follows(facts: Summary, figures: Figures) -> Section:
    by_model = facts["source"] == "reference"
    table = Table(
        ["the index against" if by_model else "φ against", "rank correlation", "prompts" if by_model else "pairs"],
        [[item["with"], interval_text(item), f"{item['count']:,}"] for item in facts["correlations"]],
        "Spearman's rank correlation with its interval; positive: dispersion rises with it.",
    )
    if not by_model:
        return Section("What disagreement goes with", [table])
    words = (
        "An index that follows length says how long people write, not how much they differ. A strong correlation with "
        "length is a reason to try another index. The margin is how much likelier the reference holds the chosen "
        "response than the rejected one, before any training."
    )
    pictures = _picture(figures, "length", "The index of each prompt against the mean length of its responses.")
    pictures += _picture(figures, "margin", "The index of each prompt against the size of the reference's margin.")
    return Section("What the index follows", [Paragraph(words), table, *pictures])


def _extremes(facts: Summary, value: str, by: str) -> Section:
    title = f"Most agreed and most contested, {by}"
    parts = []
    for side in ("agreed", "contested"):
        items = [_example(item, value) for item in facts[side] if item.get("prompt") and item.get("responses")]
        if items:
            parts.append(Section(f"Most {side}", [Examples(items)]))
    if parts:
        return Section(title, subsections=parts)
    rows = [
        [item["prompt_id"][:12], item["row_index"] + 1, format_number(item[value], 3)]
        for side in ("agreed", "contested")
        for item in facts[side]
    ]
    note = "The source has no words; give the data set beside it (`--dataset_name`) to read the prompts here."
    table = Table(["prompt", "row", value], rows, "The most agreed prompts, then the most contested ones.")
    return Section(title, [Paragraph(note), table])


def _example(item: Summary, value: str) -> Example:
    weight = format_number(item["dispersion_weight"])
    mean, low, high = (item[f"{value}{end}"] for end in ("", "_low", "_high"))
    if value == "index":
        shown = format_interval(mean, low, high, 3) if low is not None else format_number(mean, 3)
        note = f"u = {shown}, weight {weight}"
        names = [f"Response {place + 1}" for place in range(len(item["responses"]))]
    elif "votes" in item:
        note = f"φ = {format_interval(mean, low, high)} for this pair, weight {weight}"
        if item["votes"][2]:
            note += f"; {format_number(item['votes'][2], 0)} found neither better"
        if item["pairs"] > 1:
            note += f"; one of {item['pairs']} pairs of this prompt"
        names = [f"{format_number(item['votes'][place], 0)} for this" for place in range(2)]
    else:
        note = f"φ = {format_interval(mean, low, high)}, {item['people']} people, best first"
        names = [
            "shown to nobody" if rank is None else f"mean rank {format_number(rank, 1)}" for rank in item["mean_ranks"]
        ]
    answers = [(name, _short(text)) for name, text in zip(names, item["responses"], strict=True)][:4]
    if item.get("more_responses"):
        note += f"; {plural(item['more_responses'], 'more response')} not shown"
    return Example(_short(item["prompt"]), answers, note)


def _short(text: str) -> str:
    return text if len(text) <= _ANSWER else f"{text[: _ANSWER - 1].rstrip()}…"


# --------------------------------------------------------------------------------------------------------------------
# One source each


def _reference(facts: Summary, figures: Figures) -> list[Section]:
    uncertain = facts["interval"]
    body = _picture(figures, "index", "Histogram of the index over prompts.")
    if uncertain["known"]:
        text = (
            "Each prompt's interval says how far its index would move with other responses to it. It comes from the "
            "spread between responses to the same prompt, taken to be alike everywhere. The more of the variance "
            "between prompts is beyond that noise, the more the index is a property of the prompt."
        )
        factor = ["Factor either way, at the median prompt", format_number(uncertain["median_factor"])]
        rows = [factor, ["Level", percent(uncertain["level"], 0)]]
        if uncertain["reliability"] is not None:
            rows.append(["Variance between prompts beyond that noise", percent(uncertain["reliability"], 0)])
        body += [Paragraph(text), Table(["", "interval of a prompt"], rows, align="lr")]
    else:
        body.append(Paragraph(f"There is no interval per prompt: {uncertain['why']}."))
    parts = [_weights(facts, figures, "weight"), _worth(facts), _follows(facts, figures), _flips(facts)]
    return [Section("The model's index", body, parts), _extremes(facts, "index", "by the model")]


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
        "the mean of the others. With few votes a pair every single φ is rough, as its interval says; the weights of "
        "many pairs together are not. Votes on one pair of a prompt tell −log φ times how far apart its two responses "
        "are: weights from them also make wide and narrow gaps alike. Votes on several pairs of a prompt, or "
        "rankings, tell the two apart."
    )
    body: list[Block] = [
        Table(["", "people"], rows, "What was read.", align="lr"),
        *([Paragraph(f"To know of these votes: {'; '.join(facts['notes'])}.")] if facts.get("notes") else []),
        Paragraph(smoothing),
        *_picture(figures, "votes_phi", "Histogram of phi over pairs, from votes."),
    ]
    parts = [_weights(facts, figures, "votes_weight"), _flips(facts)]
    if facts["correlations"]:
        parts.append(_follows(facts, figures))
    return [Section("The people's votes", body, parts), _extremes(facts, "dispersion", "by the votes")]


def _rankings(facts: Summary, figures: Figures) -> list[Section]:
    name = {"kendall": "Kendall's tau", "spearman": "Spearman's rho"}[facts["distance"]]
    words = (
        f"Each prompt's rankings are fitted by a Mallows model with {name}: a centre, and how far people scatter "
        "around it. The likelihood: " + "; ".join(facts["likelihood"]) + "."
    )
    body: list[Block] = [Paragraph(" ".join([words, *(literal(note) for note in facts["notes"])]))]
    if facts["detail"]:
        body += _detail(facts)
    body += _picture(figures, "rankings_detail", "phi of each set of rankings with its interval, for both distances.")
    body += _picture(figures, "rankings_phi", "Histogram of phi over prompts, from rankings.")
    if facts["prompts"] <= 3:
        return [Section("The people's rankings", body)]
    parts = [_weights(facts, figures, "rankings_weight"), _flips(facts)]
    return [Section("The people's rankings", body, parts), _extremes(facts, "dispersion", "by the rankings")]


def _detail(facts: Summary) -> list[Block]:
    main, other = facts["distance"], "spearman" if facts["distance"] == "kendall" else "kendall"
    shown = [main, *[other] * all(other in item for item in facts["detail"])]
    tested = any(item["fit_p"] is not None for item in facts["detail"])
    true = any("truth" in item for item in facts["detail"])
    header = ["rankings of", *(f"φ, {distance.capitalize()}" for distance in shown)]
    header += ["fit, p"] * tested + ["centre to truth"] * true
    rows = []
    for item in facts["detail"]:
        row = [f"{item['prompt']} ({item['people']} people)"]
        fits = [item[distance] for distance in shown]
        row += [format_interval(fit["phi"], fit["low"], fit["high"], 3) for fit in fits]
        if tested:
            row.append(MISSING if item["fit_p"] is None else format_p(item["fit_p"], name=""))
        if true:
            truth = item.get("truth")
            row.append(MISSING if truth is None else f"{truth['center_distance']} of {truth['largest_distance']}")
        rows.append(row)
    caption = "φ with its interval. A small p of the fit says that one φ does not describe these people."
    if true:
        caption += " The last column counts pairs of items that the centre orders against the truth."
    orders = [(literal(item["prompt"]), literal(" › ".join(item["order"]))) for item in facts["detail"]]
    blocks: list[Block] = [Table(header, rows, caption, align="l" + "r" * (len(header) - 1))]
    equal = facts["equal_phi"]
    if equal is not None:
        said = f"That all have one φ ({format_number(equal['common_phi'], 3)}) has {format_p(equal['p'])}"
        degrees = plural(equal["degrees"], "degree")
        blocks.append(Callout("result", f"{said} (likelihood ratio, {degrees} of freedom)."))
    if sum(len(order) for _, order in orders) < 4_000:
        blocks += [Paragraph("The centres, best first:"), Definitions(orders)]
    return blocks


def _side(facts: Summary, figures: Figures) -> Section:
    name = f"side_by_side_{facts['people']}"
    alt = f"The model's index of each prompt against the phi that people's {facts['people']} give."
    rows = [
        ["Prompts in common", f"{facts['prompts']:,}"],
        ["Prompts of the model", f"{facts['prompts_of_model']:,}"],
        ["Prompts of the people", f"{facts['prompts_of_people']:,}"],
        ["Rank correlation of index and φ", interval_text(facts["correlation"])],
    ]
    if facts["auroc"] is not None:
        rows.append(["AUROC: contradicted against agreed prompts", interval_text(facts["auroc"])])
        rows.append(
            ["Prompts on which people contradicted each other", f"{facts['diverging']:,} of {facts['judged']:,}"]
        )
    table = Table(["", facts["people"]], rows, "½ is chance for the AUROC, 0 for the correlation.", align="lr")
    body = [Callout("result", _verdict_on(facts)), table, *_picture(figures, name, alt)]
    return Section(f"Model and people side by side: {facts['people']}", body)


def _verdict_on(facts: Summary) -> str:
    """What the correlation of the model's index with people's φ allows to say."""
    found = Interval.of(facts["correlation"])
    if not found.has_ends:
        return "Too few prompts for an interval, so the comparison says nothing yet."
    return _SIDES[verdict(found)]


# --------------------------------------------------------------------------------------------------------------------
# What to do


def _findings(summary: Summary) -> Iterator[tuple[str, str]]:
    """What is worth a look before training, and what to do about it."""
    for source in (name for name in SOURCES if name in summary):
        weights = summary[source]["weight"]["quantiles"]
        if weights and weights["0.95"] - weights["0.05"] < 0.5:
            spread = f"{format_number(weights['0.05'])} and {format_number(weights['0.95'])}"
            advice = "Training will be close to `dispersion: none`, which is DPO for `mallows_theta`."
            if source == "reference":
                advice += " `--dispersion_map quantile` or `mallows` widens them, if you trust the order."
            yield f"The weights from {SOURCES[source]} hardly differ: 90% between {spread}", advice
        if source != "reference" and summary[source]["effective_share"] < 0.5:
            share = percent(summary[source]["effective_share"], 0)
            advice = "Few rows do the teaching: smooth more, or narrow `--dispersion_clip`."
            yield f"The weights from {source} leave the data worth {share} of its rows", advice
    if "reference" in summary:
        follows = summary["reference"]["correlations"]
        length = next(item for item in follows if item["with"].startswith("response length"))
        if length["value"] is not None and abs(length["value"]) >= _STRONG:
            yield (
                f"The index goes with length, with a rank correlation of {interval_text(length)}",
                "Unless people really differ more on longer answers (above 0) or on shorter ones (below 0), try "
                "`--dispersion_estimator divergent_token`: the store has what it needs.",
            )
        if not summary["side_by_side"]:
            yield (
                "Nothing here shows that the index follows people",
                "Votes on some tens of the prompts would (`--votes`), and with `--dispersion_map isotonic` they would "
                "also set the scale.",
            )
    for facts in summary["side_by_side"]:
        found = f"Index and people's {facts['people']}: rank correlation {interval_text(facts['correlation'])}"
        advice = ""
        if facts["correlation"]["low"] is not None and facts["correlation"]["low"] <= 0:
            advice = (
                " Before training on it, compare the others (`--dispersion_estimator`), or take the weights from the "
                f"people themselves: `--dispersion {facts['people']}`."
            )
        yield found, _verdict_on(facts) + advice
    if summary.get("votes", {}).get("label_against_votes"):
        pairs = plural(summary["votes"]["label_against_votes"], "pair")
        yield f"The label lost the vote: {pairs}", "Look at what they call *chosen* before training."
    rankings = summary.get("rankings")
    if rankings and rankings["detail"]:
        if (equal := rankings["equal_phi"]) is not None:
            yield (
                f"One common φ for all rankings: {format_p(equal['p'])}",
                "A small p says that they differ in how much they agree; a large one shows no difference.",
            )
        poor = [item["prompt"] for item in rankings["detail"] if item["fit_p"] is not None and item["fit_p"] < 0.05]
        if poor:
            yield (
                f"One φ does not describe the people behind {literal(', '.join(poor))}",
                "Look for groups among them before reading φ as disagreement between alike people.",
            )


def _next(summary: Summary) -> Section:
    """Commands that train with what the page shows."""
    if "reference" not in summary:
        source = "votes" if "votes" in summary else "rankings"
        where = f"Where the data has a column of {source}. In Python: `{source}_index` and `calibrate`."
        command = f"mallowspo train --dataset_name DATA --dispersion {source} ..."
        return Section("Where to go from here", [CodeBlock(command, where)])
    blocks: list[Block] = []
    # A training reads votes, not rankings: what was fitted on these, the table below has.
    if summary["settings"]["map"] != "isotonic" or "votes" in summary["files"]:
        words = "Train with this index, or with another read off the same store without another pass:"
        blocks += [Paragraph(words), CodeBlock(_training_line(summary))]
    if "dataset" in summary["files"]:
        blocks.append(
            CodeBlock(
                "mallowspo train --dataset_name dispersion.parquet --dispersion column ...",
                "The table holds the data with a column `dispersion`; training on it gives these weights.",
            )
        )
    return Section("Where to go from here", blocks)


def _training_line(summary: Summary) -> str:
    """The command that trains with the index and the weights of this page."""
    settings, votes = summary["settings"], summary["files"].get("votes")
    shrink = settings["shrink"]
    if shrink == "votes" and votes is None:
        shrink = f"{summary['reference']['calibration']['shrink']:.4g}"
    chosen = {
        "estimator": (settings["estimator"] != "mean_entropy", settings["estimator"]),
        "map": (settings["map"] != "neglog", settings["map"]),
        "alternatives": (settings["map"] == "mallows", settings["alternatives"]),
        "spread": (settings["map"] == "quantile", "{:g} {:g}".format(*settings["spread"])),
        "shrink": (shrink != "none", shrink),
        "votes": (shrink == "votes" or settings["map"] == "isotonic", votes and shlex.quote(votes)),
        "power": (settings["power"] != 1, settings["power"]),
        "per": (settings["per"] != "prompt", settings["per"]),
        "scale": (settings["scale"] != "auto", settings["scale"]),
        "clip": (settings["clip"] != [0.0, 10.0], "{:g} {:g}".format(*settings["clip"])),
    }
    given = [f"--dispersion_{name} {value}" for name, (differs, value) in chosen.items() if differs]
    store = shlex.quote(summary["files"]["reference"])
    return " ".join([f"mallowspo train --reference_store {store}", *given, "..."])
