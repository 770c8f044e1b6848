"""The page of one comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mallowspo.errors import listed
from mallowspo.reports.blocks import (
    Block,
    Callout,
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
from mallowspo.reports.figure_style import MethodStyle, save_figure
from mallowspo.reports.figures import grouped_interval_figure
from mallowspo.reports.html import current_meta, write_report
from mallowspo.reports.palette import BLUE, INK
from mallowspo.reports.text import format_interval, format_number, format_signed, percent
from mallowspo.stats.intervals import Interval

if TYPE_CHECKING:
    from mallowspo.evaluation.judge import AnswerPair

__all__ = ["write_evaluation_report"]

_STYLES = {
    "raw": MethodStyle("Raw", BLUE, "o"),
    "length_controlled": MethodStyle("Length-controlled", INK, "s", filled=False),
    "style_controlled": MethodStyle("Style-controlled", INK, "D", filled=False),
}
_STYLE_ROWS = (
    ("length", "Characters", 0),
    ("headers", "Headers", 2),
    ("lists", "List items", 2),
    ("bold", "Bold runs", 2),
)
_SHOWN = 600  # characters of a prompt or an answer among the examples
_CONTROLS = {"length_controlled": "length-controlled", "style_controlled": "style-controlled"}


def write_evaluation_report(folder: Path, results: dict[str, Any], pairs: Sequence[AnswerPair]) -> None:
    """Write `report.html` with its figure."""
    mixed = results["mixed_judges"]
    told: list[Block] = [] if mixed is None else [Callout("warning", f"{mixed[0].upper()}{mixed[1:]}.")]
    sections = [
        Section("Win rate", [*told, _rates(results), _figure(folder, results), *_control_notes(results)]),
        Section("The judge", _judge(results)),
        Section("The answers", [_answers(results), *_divergence(results)]),
        Section("Examples", [_examples(results, pairs)]),
        Section("Words", [_words(results)]),
    ]
    settings = results["settings"]
    meta = current_meta(seeds=[settings["seed"]], run_time=results["seconds"])
    title = f"{_short(results['model']['name'])} against {_short(results['baseline']['name'])}"
    write_report(folder / "report.html", Report(literal(title), _summary(results), sections, meta))


def _short(name: str) -> str:
    return name.rsplit("#", maxsplit=1)[-1].rstrip("/").rsplit("/", 1)[-1]


def _interval(rate: dict[str, Any]) -> str:
    return format_interval(rate["win_rate"], rate["low"], rate["high"], 1)


def _summary(results: dict[str, Any]) -> str:
    rate = results["win_rate"]
    if results["no_result"]:
        verdict = f"{results['no_result'][0].upper()}{results['no_result'][1:]}."
    elif rate["low"] > 50:
        verdict = "The model is preferred to the baseline."
    elif rate["high"] < 50:
        verdict = "The baseline is preferred to the model."
    else:
        verdict = "No significant difference: the interval holds 50%."
    if results["mixed_judges"]:
        verdict = f"More than one judge is at work here, see below. {verdict}"
    text = (
        f"{verdict} The model's win rate over {rate['prompts']:,} prompts is {_interval(rate)}%: "
        f"{rate['wins']:,} wins, {rate['ties']:,} ties, {rate['losses']:,} losses."
    )
    if results["prompts"]["left_out"]:
        text += f" {len(results['prompts']['left_out']):,} prompts that a server refuses to answer are left out."
    control = results["length_controlled"]
    if control is not None and not control["note"] and not results["no_result"]:
        text += f" With the effect of length taken out, {format_number(control['win_rate'], 1)}%."
    return text


def _tercile_names(column: str) -> tuple[str, str, str]:
    """What the thirds are called; φ is large where people disagree."""
    if column in ("dispersion", "phi"):
        return ("Most agreed third", "Middle third", "Most contested third")
    return (f"Lowest third of {column}", "Middle third", f"Highest third of {column}")


def _rates(results: dict[str, Any]) -> Table:
    groups = [("All prompts", results["win_rate"])]
    if results["terciles"] is not None:
        groups += list(zip(_tercile_names(results["terciles_by"]), results["terciles"], strict=True))
    rows = [
        [name, _interval(g), format_number(g["standard_error"], 2), g["wins"], g["ties"], g["losses"], g["prompts"]]
        for name, g in groups
    ]
    for name, words in _CONTROLS.items():
        if (control := results[name]) is not None:
            rate, error = control["win_rate"], control["standard_error"]
            spread = format_interval(rate, rate - 1.96 * error, rate + 1.96 * error, 1)
            counts = ["", "", "", len(results["preferences"])]
            rows.append([f"All prompts, {words}", spread, format_number(error, 2), *counts])
    return Table(
        ["Prompts", "Win rate, % [95%]", "s.e.", "Wins", "Ties", "Losses", "Prompts in all"],
        rows,
        caption="A tie counts half. Intervals are bootstrap percentiles over prompts; the controlled ones are "
        "±1.96 standard errors from refits.",
        align="lrrrrrr",
    )


def _figure(folder: Path, results: dict[str, Any]) -> Figure:
    names = ["All prompts"]
    rates = [results["win_rate"]]
    if results["terciles"] is not None:
        names += _tercile_names(results["terciles_by"])
        rates += results["terciles"]
    values = {"raw": Interval.stack([[rate[end] - 50 for end in ("win_rate", "low", "high")] for rate in rates])}
    for name in _CONTROLS:
        control = results[name]
        if control is not None and np.isfinite(control["standard_error"]):
            blank = np.full(len(rates) - 1, np.nan)
            middle, error = control["win_rate"] - 50, 1.96 * control["standard_error"]
            ends = (np.concatenate([[value], blank]) for value in (middle, middle - error, middle + error))
            values[name] = Interval(*ends)
    drawn = grouped_interval_figure(
        values, names, x_label="Win rate above 50% (points)", better="right", styles=_STYLES
    )
    path = save_figure(drawn, folder / "figures", "win_rate")
    return Figure(
        path.svg, alt="Win rates of the model with their intervals, as points above an even match", caption=""
    )


def _control_notes(results: dict[str, Any]) -> list[Block]:
    control, style = results["length_controlled"], results["style_controlled"]
    if control is None:
        return []
    blocks: list[Block] = []
    if not control["lengths_vary"]:
        blocks.append(Paragraph("All answers differ in length by the same amount, so there is no effect to take out."))
    if control["note"]:
        blocks.append(Callout("warning", control["note"]))
    rows: list[list[str | float]] = [
        [
            words,
            *(format_number(style[side][name], digits) for side in ("model", "baseline")),
            format_signed(style["coefficients"].get(name)),
        ]
        for name, words, digits in _STYLE_ROWS
    ]
    caption = (
        "The last column is the fit's: log-odds of a win for one standard deviation more of it than the baseline; "
        "a dash where the answers do not differ in it. Code blocks are left out of the counts of Markdown."
    )
    columns = ["Style, a mean over the answers", "Model", "Baseline", "Effect on the judge"]
    return [*blocks, Table(columns, rows, caption=caption, align="lrrr"), Callout("warning", style["note"])]


def _judge(results: dict[str, Any]) -> list[Block]:
    judge = results["judge"]
    rows: list[list[str | float]] = [["Judge", judge["name"]]]
    if "template" in judge:
        rows.append(["Template", judge["template"]])
    orders = results["orders"]
    if orders is not None:
        rows += [
            ["Both orders agree", percent(orders["consistent"])],
            ["Preference for the answer shown first", percent(orders["first_preferred"])],
            ["Win rate with the model's answer first", f"{orders['win_rate_shown_first']:.1f}%"],
            ["Win rate with the model's answer second", f"{orders['win_rate_shown_second']:.1f}%"],
        ]
    rows += [
        [f"Mean reward, {side}", format_number(judge[f"mean_reward_{side}"], 3)]
        for side in ("model", "baseline")
        if f"mean_reward_{side}" in judge
    ]
    if judge["others_in_log"]:
        rows.append(["Other judges in the log, not counted", listed(judge["others_in_log"])])
    rows.append(["Pairs of identical answers, ties unasked", judge["identical"]])
    usage = judge["usage"]
    if usage is not None:
        rows += [
            ["Verdicts undecided after all attempts, counted as ties", judge["undecided"]],
            ["Verdicts refused by the server, counted as ties", judge["refused"]],
            ["Replies paid for", usage["replies"]],
            ["Tokens in, out", f"{usage['prompt_tokens']:,}, {usage['completion_tokens']:,}"],
        ]
        if usage["without_count"]:
            rows.append(["Replies without a token count", usage["without_count"]])
        if usage["cost"] is not None:
            rows.append(["Cost", f"{usage['cost']:.4f}"])
    blocks: list[Block] = [Table(["What", "Value"], rows, align="lr")]
    if orders is not None and orders["consistent"] < 0.7:
        blocks.append(
            Callout(
                "warning",
                "The judge changes its mind in more than three pairs of ten when the answers swap places: "
                "much of what it says is about places.",
            )
        )
    if judge["undecided"] + judge["refused"] > 0.05 * 2 * len(results["preferences"]):
        blocks.append(Callout("warning", "More than one verdict in twenty is missing and counted as a tie."))
    return blocks


def _answers(results: dict[str, Any]) -> Table:
    rows = []
    for side in ("model", "baseline"):
        facts = results[side]
        rows.append(
            [
                side,
                facts["name"],
                format_number(facts["mean_characters"], 0),
                format_number(facts["mean_tokens"], 1),
                percent(facts["cut"]),
                facts["empty"],
            ]
        )
    return Table(
        ["Side", "Answers from", "Characters", "Tokens", "Cut at the limit", "Empty"],
        rows,
        align="llrrrr",
        caption="Means over the prompts.",
    )


def _divergence(results: dict[str, Any]) -> list[Block]:
    kl = results["kl"]
    if kl is None:
        return []
    rows = [
        ["Per response", format_number(kl["kl"], 3), format_number(kl["kl_standard_error"], 3)],
        [
            "Per response, from log-ratios alone",
            format_number(kl["kl_plain"], 3),
            format_number(kl["kl_plain_standard_error"], 3),
        ],
        ["Per token", format_number(kl["kl_per_token"], 4), format_number(kl["kl_per_token_standard_error"], 4)],
    ]
    return [
        Table(
            ["KL of the model from the baseline", "Nats", "s.e."],
            rows,
            caption=f"{kl['samples']} responses to each of {kl['prompts']:,} prompts at temperature 1; "
            f"{percent(kl['cut'])} were cut at the limit and count up to there.",
        )
    ]


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + " …"


def _examples(results: dict[str, Any], pairs: Sequence[AnswerPair]) -> Examples:
    """The first win, tie and loss; chosen by place, so that nobody picks what pleases."""
    preferences = results["preferences"]
    items = []
    for name, holds in (("A win", lambda y: y > 0.5), ("A tie", lambda y: y == 0.5), ("A loss", lambda y: y < 0.5)):
        place = next((n for n, y in enumerate(preferences) if holds(y)), None)
        if place is not None:
            pair = pairs[place]
            answers = [("model", _cut(pair.answer)), ("baseline", _cut(pair.baseline))]
            items.append(Example(_cut(pair.prompt.text), answers, note=f"{name} (prompt {place})."))
    return Examples(items, caption="The first prompt of each kind.")


def _words(results: dict[str, Any]) -> Definitions:
    items = [
        ("Win rate", "share of prompts on which the model's answer was preferred, a tie counted as half"),
        ("Tie", "the two orders named different winners, or the judge said so, or gave no verdict"),
        ("Length-controlled", "win rate predicted by AlpacaEval 2's regression for answers of equal length"),
        ("Style-controlled", "win rate predicted for answers of equal length, headers, lists and bold print"),
    ]
    if results["terciles"] is not None:
        items.append(("Third", f"prompts sorted by `{results['terciles_by']}` and cut in three"))
    return Definitions(items)
