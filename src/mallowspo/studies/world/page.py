"""The page of the study `world` and its figures, made from `results.json`."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import numpy as np

from mallowspo.reports.blocks import Block, CodeBlock, Definitions, Meta, Paragraph, Report, Section, Table
from mallowspo.reports.figure_style import OPTIMUM_STYLES, MethodStyle
from mallowspo.reports.figures import Curve, frontier_figure, index_scatter_figure, line_figure, panel_figure
from mallowspo.reports.palette import BLUE, VERMILLION
from mallowspo.reports.sections import Columns, picture, table
from mallowspo.reports.text import (
    format_duration,
    format_interval,
    format_number,
    interval_text,
    joined,
    points,
    verdict_word,
)
from mallowspo.stats.intervals import Interval
from mallowspo.studies import pages
from mallowspo.studies.pages import Results, Row
from mallowspo.studies.policies import BASELINE, grouped, label, select_runs
from mallowspo.studies.world.bench import PARTS

__all__ = ["YARDSTICK_NAMES", "differences", "figures", "headline", "page"]

YARDSTICK_NAMES = {
    "consensus": "Consensus value",
    "top1": "Best answer",
    "order": "Order of the answers",
    "agreement": "Agreement with a random person",
}
"""What is compared → how a reader calls it."""

_MEANING = {
    "consensus": "how near to the answer that the people as a whole hold best",
    "top1": "how often the answer is the one that they hold best",
    "order": "how many pairs of answers the trained model ranks as they do",
    "agreement": "how often one prefers the answer to the reference's",
}
_LINES = {"consensus": "consensus value", "agreement": "agreement"}  # the two that are drawn against KL and pairs
_THIRDS = {"agreed": "most agreed third", "middle": "middle third", "contested": "most contested third"}
# Beyond these a verdict may turn with the rounding of another processor, points.
_NEAR = 0.05
_WEIGHTED_BY = {"true": "mallows_theta_true", "best": "theta_best"}
_YARDSTICKS = {title.lower(): pages.point_interval(f"{name}.difference") for name, title in YARDSTICK_NAMES.items()}
_INTERVALS = "Whiskers are 95% intervals over worlds; points at one value stand side by side."
_RHO = {"true": "true index", "best": "first divergent token"}


def _usual(results: Results) -> list[Row]:
    """The comparisons at the usual number of pairs: one row a method with all quantities under their names."""
    return select_runs(pages.by_comparison(results, "pairs"), pairs=results["config"]["setup"]["pairs_per_prompt"])


def _compared(results: Results, method: str) -> Row | None:
    return next((row for row in _usual(results) if row["method"] == method), None)


def differences(results: Results) -> dict[str, Row]:
    """Method → yardstick → difference from DPO, at the usual number of pairs."""
    return {row["method"]: {name: row[name]["difference"] for name in YARDSTICK_NAMES} for row in _usual(results)}


def _committed_run(results: Results) -> Row | None:
    """Beside the quick start: what the committed run of the full study found; `docs/make_tables.py` writes it."""
    file = resources.files("mallowspo.studies.world") / "twelve_worlds.json"
    quick = results["config"]["setup"]["examples"]
    return json.loads(file.read_text(encoding="utf-8")) if quick else None


# ---------------------------------------------------------------------------------------------------------------------
# What was found, in a few sentences


def _said(row: Row, quantity: str, up: str, down: str) -> str:
    """A verdict with its difference: `nearer by +0.31 [+0.11, +0.51]`."""
    found = row[quantity]
    if found["difference"]["mean"] is None:
        return "nothing to compare"
    word = {"better": up, "worse": down, "open": "no significant difference"}[found["verdict"]]
    return f"{word}, {points(found['difference'])}"


def headline(results: Results) -> list[str]:
    """What was found, in three lines: the consensus, a random person, over what and beside what."""
    estimated = "mallows_theta" if _compared(results, "mallows_theta") else "theta_best"
    named = {
        "mallows_theta_true": "MallowsPO-θ with the true index",
        estimated: "with the estimated index",
        "theta_true_50": "with the square root of the true weight (√w)",
    }
    rows = [(words, row) for method, words in named.items() for row in [_compared(results, method)] if row]

    def line(quantity: str, up: str, down: str) -> str:
        compared = any(row[quantity]["difference"]["mean"] is not None for _, row in rows)
        said = "; ".join(f"{words}, {_said(row, quantity, up, down)}" for words, row in rows)
        return f"{said} points." if compared else f"{said}."

    count, worlds = len(results["config"]["seeds"]), len(results["worlds"])
    over = f"{count} worlds" if count == worlds > 1 else pages.over_seeds(count)
    return [
        "At the same distance from the reference, how much nearer than DPO's answers to the consensus (a point is a "
        "hundredth of the way from the answer that people hold worst to the one that they hold best): "
        f"{line('consensus', 'nearer', 'further away')}",
        "How much more often a random person prefers the answer to the reference's (a point is a hundredth of that "
        f"probability): {line('agreement', 'more often', 'less often')}",
        f"Brackets are 95% intervals over {over}.{_committed(results)}",
    ]


def _committed(results: Results) -> str:
    """Beside the quick start: what the committed run of the full study found of the same methods."""
    committed = _committed_run(results)
    if not committed:
        return ""
    found = [
        f"{label(method)} {points(by['consensus'])} in consensus, {points(by['agreement'])} in agreement"
        for method, by in committed["differences"].items()
        if _compared(results, method)
    ]
    return f" The committed run of {committed['worlds']} worlds has: {'; '.join(found)}."


# ---------------------------------------------------------------------------------------------------------------------
# Figures


def figures(results: Results) -> dict[str, Any]:
    """Draw every figure, by name."""
    found = {
        "yardsticks": _yardsticks(results),
        **{name: _frontier(results, name) for name in _LINES},
    }
    if "pairs" in results["config"]["parts"]:
        found |= {f"pairs_{name}": _along_pairs(results, name) for name in _LINES}
    if "rho" in results["config"]["parts"]:
        found["rho"] = _along_rho(results)
    if prompts := pages.value(results, "index.mallows_theta.prompts"):
        found["index"] = index_scatter_figure(
            prompts["estimated_p"],
            prompts["true_p"],
            correlation=Interval.of(results["index"]["mallows_theta"]["rank_correlation"]).drawn,
            groups=prompts["family_p"],
            title="The estimated index against the truth (first world)",
            y_label="Half of the weight",
        )
    return found


def _yardsticks(results: Results) -> Any:
    committed = _committed_run(results)

    def gaps(found: Any, quantity: str) -> dict[str, Interval]:
        return {
            method: Interval.of(by[quantity]).scaled(100.0)
            for method, by in found.items()
            if by[quantity]["mean"] is not None
        }

    ours = {method: by for method, by in differences(results).items() if method not in _later()}
    theirs = {method: by for method, by in committed["differences"].items() if method in ours} if committed else {}
    count = len(results["config"]["seeds"])
    titles = {name: f"{title}: {_MEANING[name]}" for name, title in YARDSTICK_NAMES.items()}
    return panel_figure(
        {panel: gaps(ours, name) for name, panel in titles.items()},
        x_label="Points more than DPO; right of the line is better",
        title="Each method minus DPO, at the same distance from the reference",
        series=(f"this run, {count} worlds", f"committed run, {committed['worlds']} worlds") if committed else (),
        beside={panel: gaps(theirs, name) for name, panel in titles.items()} if committed else None,
    )


def _later() -> set[str]:
    """The methods that only the later parts train: the first figure is of the comparison alone."""
    return {method for part in ("rho", "estimates", "phi") for method in PARTS[part]} - set(PARTS["comparison"])


def _frontier(results: Results, yardstick: str) -> Any:
    levels = results["levels"][yardstick]
    curves = {}
    for method, intervals in levels["methods"].items():
        if method in _later():
            continue
        here = [(kl, one) for kl, one in zip(levels["kl"], intervals, strict=True) if one["mean"] is not None]
        if here:
            along, values = zip(*here, strict=True)
            curves[method] = Curve(along, Interval.stack(values, scale=100.0))
    furthest = max((float(np.max(curve.x.mean)) for curve in curves.values()), default=np.inf)
    for asked, optimum in results["optima"].items():
        kl, best = np.asarray(optimum["kl"]), 100 * np.asarray(optimum[yardstick])
        near = kl <= furthest
        curves[f"optimum_{asked}"] = Curve(kl[near], best[near])
    return frontier_figure(
        curves,
        title=f"{YARDSTICK_NAMES[yardstick]} against distance from the reference",
        y_label=f"{YARDSTICK_NAMES[yardstick]} (%)",
        styles=OPTIMUM_STYLES,
    )


def _along_pairs(results: Results, quantity: str) -> Any:
    curves = {}
    for method, found in grouped(pages.by_comparison(results, "pairs"), lambda row: row["method"]).items():
        rows = [row for row in found if row[quantity]["difference"]["mean"] is not None]
        if len(rows) > 1:
            gaps = Interval.stack([row[quantity]["difference"] for row in rows], scale=100.0)
            curves[method] = Curve([row["pairs"] for row in rows], gaps)
    return line_figure(
        curves,
        x_label="Pairs for each prompt, one judge a pair",
        y_label="Points more than DPO at equal KL",
        title=f"{YARDSTICK_NAMES[quantity]}: how many pairs it takes",
        zero_line=True,
        doublings=True,
    )


def _rho_of(results: Results) -> list[dict[str, Any]]:
    """The comparisons along ρ, one row for each index and power; DPO is the power 0 of both."""
    return [
        {"index": index, "rho": percent / 100, **row}
        for index, whole in _WEIGHTED_BY.items()
        for percent in (25, 50, 75, 100)
        if (row := _compared(results, whole if percent == 100 else f"theta_{index}_{percent}")) is not None
    ]


def _along_rho(results: Results) -> Any:
    curves, styles = {}, {}
    looks = {"true": (BLUE, "o"), "best": (VERMILLION, "^")}
    for index, (color, marker) in looks.items():
        rows = select_runs(_rho_of(results), index=index)
        for quantity, dash in (("consensus", "-"), ("agreement", (0.0, (5.0, 2.0)))):
            name = f"{_RHO[index]}: {quantity}"
            gaps = Interval.stack([(0.0, 0.0, 0.0), *(row[quantity]["difference"] for row in rows)], scale=100.0)
            curves[name] = Curve([0.0, *(row["rho"] for row in rows)], gaps)
            styles[name] = MethodStyle(name[0].upper() + name[1:], color, marker, dash, filled=quantity == "consensus")
    return line_figure(
        curves, x_label="ρ, the power of the weight (0 is DPO, 1 is MallowsPO-θ)",
        y_label="Points more than DPO at equal KL", title="How far to spread the weight", zero_line=True,
        styles=styles,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# The page


def page(results: Results) -> Report:
    """What the page says."""
    parts = results["config"]["parts"]
    return Report(
        title="Is it worth knowing how much people agree? Small worlds whose truth is known",
        summary="\n\n".join(headline(results)),
        sections=[
            _equal_kl(results),
            *([_pairs(results)] if "pairs" in parts else []),
            *([_rho(results)] if "rho" in parts else []),
            _index(results),
            _frontiers(),
            *([_examples(results)] if results["examples"] else []),
            _question(results),
            Section("All settings", [_settings(results)]),
            pages.limits(results, *_LIMITS, *_turning(results)),
            _next_steps(results),
        ],
        meta=Meta(
            seeds=results["config"]["seeds"],
            extra={
                "Training runs": str(len(results["runs"])),
                "Processor time of the policies": format_duration(results["cpu_seconds"]),
                "Peak memory": f"{format_number(results['peak_memory_gb'], 1)} GB",
            },
        ),
        figure=picture(
            "yardsticks",
            "For each of four yardsticks the difference of every method from DPO, with its 95% interval.",
            "Whiskers are 95% intervals over worlds. A point is a hundredth. The first yardstick is what a true "
            "reward or a strong judge stands for, the last what a randomly drawn person would choose.",
        ),
        verdicts=_verdicts(results),
    )


def _verdicts(results: Results) -> Table:
    columns: dict[str, Any] = {"method": pages.METHOD}
    for name, title in YARDSTICK_NAMES.items():
        columns[title.split(" with")[0].lower()] = pages.point_interval(f"{name}.difference")
        if name in ("consensus", "agreement"):
            columns["verdict" if name == "consensus" else "verdict there"] = pages.verdict_cell(f"{name}.verdict")
    return table(_usual(results), columns, "Each method minus DPO at the same distance from the reference, in points.")


def _equal_kl(results: Results) -> Section:
    rows, setup = _usual(results), results["config"]["setup"]
    columns: dict[str, Any] = {"method": pages.METHOD}
    for name in _LINES:
        columns |= {
            f"{name}, {words}": pages.point_interval(f"{name}_{third}.difference") for third, words in _THIRDS.items()
        }
    more: dict[str, Any] = {
        "method": pages.METHOD,
        "agreement, renormalised": pages.point_interval("agreement_renormalised.difference"),
        "outside the answers": pages.point_interval("outside.difference"),
        "entropy, most contested third (nats)": pages.interval("entropy_contested.difference", 3, signed=True),
        "share of the optimum of consensus, %": pages.share("share_of_consensus.difference", 1, signed=True),
        "of agreement, %": pages.share("share_of_optimum.difference", 1, signed=True),
        "KL (nats)": pages.kl_range("consensus"),
    }
    thirds = [format_interval(sum(t) / 2, *t) for t in results["worlds"][0]["phi_by_tercile"]]
    text = (
        f"Trained on {setup['pairs_per_prompt']} pairs a prompt. For each seed a method's measures are read along its "
        "own line against KL, its distance from the reference, and compared with DPO's over the KL that both reach, "
        f"up to the peak of DPO's own consensus value (at {interval_text(results['rising_to'])} nats): beyond it DPO "
        "is over-driven. A difference counts only where its interval leaves out 0."
    )
    body: list[Block] = []
    committed = _committed_run(results)
    if committed:
        body.append(_beside(results, committed))
    body.append(
        table(rows, columns, "Method minus DPO at equal KL, in points, by how much the people of a prompt agree. The "
              f"thirds by true φ in the first world (middle and ends): {joined(thirds)}.")
    )  # fmt: skip
    over_all: Columns = {
        "method": pages.METHOD,
        **_YARDSTICKS,
        "KL (nats)": pages.kl_range("consensus"),
    }
    whole = _usual({**results, "comparisons": results["whole"]})
    body.append(table(whole, over_all, "Over all KL that both reach, beyond DPO's peak as well; points."))
    body.append(table(rows, more, "The same for what else was measured; *outside* is an answer that is none of them."))
    return pages.text_section("Both yardsticks at the same distance", text, *body)


def _beside(results: Results, committed: Results) -> Table:
    rows = [
        {"method": row["method"], "here": row, "there": committed["differences"].get(row["method"])}
        for row in _usual(results)
    ]
    columns: dict[str, Any] = {"method": pages.METHOD}
    for name in _LINES:
        columns[f"{name}, here"] = pages.point_interval(f"here.{name}.difference")
        columns[f"{name}, {committed['worlds']} worlds"] = pages.point_interval(f"there.{name}")
    return table(
        rows,
        columns,
        f"This run beside the committed run of {committed['worlds']} worlds ({committed['date']}, "
        f"{committed['pairs_per_prompt']} pairs a prompt, docs/experiments/world.md), in points.",
    )


def _pairs(results: Results) -> Section:
    def since(row: Row, quantity: str) -> str:
        [lead] = select_runs(results["leads"], method=row["method"], quantity=quantity)
        said = "at none" if lead["from"] is None else f"from {lead['from']}"
        return said if len(lead["measured"]) > 1 else "–"

    rows = [row for row in _usual(results) if row["method"] not in _later()]
    along = [row for row in pages.by_comparison(results, "pairs") if row["method"] not in _later()]
    columns: Columns = {
        "pairs a prompt": pages.plain("pairs"),
        "method": pages.METHOD,
        **_YARDSTICKS,
        "KL (nats)": pages.kl_range("consensus"),
    }
    leads: Columns = {
        "method": pages.METHOD,
        "ahead of DPO in consensus": lambda row: since(row, "consensus"),
        "ahead in agreement": lambda row: since(row, "agreement"),
    }
    text = (
        "Each method minus DPO trained on equally many pairs, at equal KL. All runs take equally many steps: with "
        "more pairs a step takes more of them, and more pairs contain the fewer."
    )
    return pages.text_section(
        "From how many pairs on",
        text,
        *(
            picture(
                f"pairs_{name}", f"Difference of {said} from DPO against the number of pairs, by method.", _INTERVALS
            )
            for name, said in _LINES.items()
        ),
        table(rows, leads, "The fewest pairs a prompt from which on the interval lies above 0 at every number."),
        table(along, columns, "Method minus DPO, in points."),
    )


def _rho(results: Results) -> Section:
    rows = _rho_of(results)

    def both(row: Row) -> str:
        return "yes" if row["consensus"]["verdict"] == row["agreement"]["verdict"] == "better" else "no"

    columns: Columns = {
        "index": lambda row: _RHO[row["index"]],
        "ρ": pages.plain("rho"),
        **_YARDSTICKS,
        "ahead in both": both,
    }
    text = (
        "The weight is taken to the power ρ: at 0 every prompt counts alike in the loss, which is DPO; at 1 the "
        "weight is that of MallowsPO-θ, with which every prompt counts alike in the gain of consensus."
    )
    figure = picture(
        "rho", "Difference from DPO in consensus value and in agreement against ρ, for two indexes.", _INTERVALS
    )
    return pages.text_section("How far to spread the weight", text, figure, table(rows, columns, "Minus DPO, points."))


def _index(results: Results) -> Section:
    gains = {row["method"]: row for row in results["gains"]}
    rows = [{"method": method, **index, **gains[method]} for method, index in results["index"].items()]

    def share_of(best: str) -> pages.Cell:
        """A share without ends says nothing: what it is a share of may be none."""
        cell = pages.share(f"share.{best}", 0)
        return lambda row: "–" if pages.value(row, f"share.{best}.low") is None else cell(row)

    columns: Columns = {
        "method": pages.METHOD,
        "rank correlation with −log φ": pages.interval("rank_correlation"),
        "weights, 5% – median – 95%": lambda row: " – ".join(
            format_number(quantile["mean"]) for quantile in row["weight_quantiles"]
        ),
        "G, up to": pages.interval("predicted"),
        "worth in pairs": pages.interval("worth", 2),
        "share of the gain of θ, true index, %": share_of("mallows_theta_true"),
        "of √w, true index, %": share_of("theta_true_50"),
    }
    text = (
        "G is how many times more pairs equal weights would need to tell the truth as well; it supposes shared "
        "parameters, small gaps and weights that know nothing of the answers, so that it stands for *up to*. Beside "
        "it what was seen: at how many times more pairs DPO has the same consensus value at equal KL (at most what "
        "the study has trained on; – where it has trained on no more than here), and what share of the gain of the "
        "true index an index has (none is given where "
        "that gain does not differ significantly from 0)."
    )
    body: list[Block] = [table(rows, columns, "Over the training prompts, mean over seeds with 95% intervals.")]
    if prompts := pages.value(results, "index.mallows_theta.prompts"):
        estimated, true = prompts["estimated_p"], prompts["true_p"]
        body.append(
            picture(
                "index",
                "Scatter plot of the estimated against the true −log φ, one point per training prompt, by family.",
                f"Mind the scales: the estimates run from {format_number(min(estimated))} to "
                f"{format_number(max(estimated))}, the truth from {format_number(min(true))} to "
                f"{format_number(max(true))}.",
            )
        )
    return pages.text_section("What each index is worth", text, *body)


def _frontiers() -> Section:
    return pages.text_section(
        "Against the exact optima",
        "Each line is a mean over seeds, read at equal KL and shown where every seed reaches. Two policies are known "
        "exactly: the one with the most consensus value at each KL, and the one with the most agreement. No policy "
        "lies above the first in the one figure, nor above the second in the other. A line that falls loses answers "
        "to the outside faster than it gains. The methods lie nearly on one another: the first figure of the page "
        "shows how far they are apart.",
        *(
            picture(
                name,
                f"{said.capitalize()} against KL for every method, with both exact optima.",
                "Whiskers are 95% intervals over worlds; an optimum has none.",
            )
            for name, said in _LINES.items()
        ),
    )


def _question(results: Results) -> Section:
    setup, world = results["config"]["setup"], results["worlds"][0]
    text = (
        f"A prompt asks one of {world['groups']} groups of people one of {world['questions']} questions, each with "
        f"{world['candidates']} possible answers; every person's ranking of these is drawn from a Mallows model. The "
        f"people write the corpus that the reference learns from, {100 * setup['careless']:g}% of it carelessly (any "
        f"answer, each as likely), and judge {setup['pairs_per_prompt']} pairs for each of {setup['train_prompts']} "
        f"training prompts, one person a pair; policies are measured exactly on {setup['heldout_prompts']} held-out "
        "prompts. The centre of a prompt depends on the question alone, φ on the question and on who is asked."
    )
    families = table(
        world["families"].items(),
        {
            "family of questions": pages.plain("0"),
            "lowest φ": pages.figure_of("1.0"),
            "highest φ": pages.figure_of("1.1"),
        },
        "From questions on which nearly everybody agrees to questions of taste (first world).",
    )
    references = table(
        [results["reference"]],
        {
            "KL from the people's answers, nats": pages.interval("excess_nats", 3),
            "consensus value, %": pages.share("consensus"),
            **{words: pages.share(f"consensus_by_tercile.{at}") for at, words in enumerate(_THIRDS.values())},
            "best answer, %": pages.share("top1"),
            "agreement with itself, %": pages.share("agreement"),
            "outside, %": pages.share("outside", 1),
        },
        "The references; gains count from here.",
    )
    return pages.text_section("Question and method", text, Definitions(_TERMS), families, references)


_TERMS = [
    ("Dispersion φ", "Between 0 and 1: at 0 all people share the central ranking, at 1 everybody ranks at random."),
    ("Centre", "The ranking of a prompt's answers around which the people's own rankings lie."),
    (
        "Index and weight",
        "The estimate of −log φ for a prompt, and the factor w = −2 log φ that it becomes in the loss, scaled to a "
        "mean of 1. θ multiplies the reward gap by it, φ bends the loss into the Mallows model's own link, √w is θ "
        "with the square root of the weight.",
    ),
    ("Consensus value", "The place of an answer in the centre: 1 for the best, 0 for the worst, even steps between."),
    ("Best answer", "Probability that the policy gives the answer that is first in the centre."),
    (
        "Order of the answers",
        "Share of the pairs of answers that the implicit reward, log π/π_ref, puts in the order of the centre.",
    ),
    (
        "Agreement",
        "Probability that a random person prefers the policy's answer to the reference's; equal answers count half, "
        "an answer that is none of the candidates (*outside*) has lost, and has consensus value 0. *Renormalised* "
        "leaves these out.",
    ),
    (
        "Exact optimum",
        "The policy with the largest gain at each KL, π* ∝ π_ref exp(V/τ), V the consensus value or the agreement of "
        "an answer; a policy's share of it is its gain over the reference divided by that at the same KL.",
    ),
    (
        "KL",
        "How far a policy has moved from the reference, over whole answers, in nats. The same β moves different "
        "methods differently far: they are compared at equal KL.",
    ),
    (
        "The indexes",
        "MallowsPO-θ alone takes the mean entropy of the reference over the tokens of both answers, as the paper's "
        "released code does. *First divergent token*: its entropy where the answers part, turned into −log φ by the "
        "Mallows model. *Panel*: the middle of several indexes. *Spread by votes*: drawn towards or away from its "
        "mean as far as five people's votes on three pairs of 60 prompts say.",
    ),
    ("IPO (summed)", "IPO on log-probabilities summed over the answer, as in the paper, not averaged."),
]


def _examples(results: Results) -> Section:
    first = results["examples"][0]
    text = (
        "One held-out prompt of each family, at its median φ: how often each answer is some person's first choice, "
        f"and how often each model gives it (first seed, β {first['beta']:g}). Answers stand in the order of the "
        "central ranking."
    )
    who = ["population", "reference", *(name for name in results["config"]["methods"] if name in first)]
    tables = []
    for row in results["examples"]:
        order = sorted(range(len(row["candidates"])), key=row["center"].__getitem__)
        cells = [[row["candidates"][k], *(f"{100 * row[name][k]:.1f}%" for name in who)] for k in order]
        cells.append(["(anything else)", *(f"{100 * max(0.0, 1 - sum(row[name])):.1f}%" for name in who)])
        tables.append(Table([row["prompt"], *map(label, who)], cells, f"φ = {format_number(row['phi'])}"))
    return pages.text_section("Prompts to read for oneself", text, *tables)


def _settings(results: Results) -> Table:
    methods = [BASELINE, *(row["method"] for row in _usual(results))]
    rows = sorted(results["settings"], key=lambda row: (row["pairs"], methods.index(row["method"]), row["beta"]))
    columns: dict[str, Any] = {
        "pairs a prompt": pages.plain("pairs"),
        "method": pages.METHOD,
        "β": pages.BETA,
        "consensus, %": pages.share("consensus"),
        "best answer, %": pages.share("top1"),
        "order, %": pages.share("order", 1),
        "agreement, %": pages.share("agreement"),
        "outside, %": pages.share("outside", 1),
        "KL, nats": pages.interval("kl", 3),
        "share of the optimum of consensus, %": pages.share("share_of_consensus", 0),
        "of agreement, %": pages.share("share_of_agreement", 0),
    }
    return table(rows, columns, "Every setting on the held-out prompts, mean over seeds with 95% intervals.")


_LIMITS = (
    "The worlds differ in who agrees on what, not in kind: a small language, brief answers, one judge a pair.",
    "Learning rate and β were laid out on plain DPO, in a world not among these: a method that wants others is at a "
    "disadvantage.",
    "A policy that is trained further than here loses answers to the outside; nothing is said of larger KL.",
    "Every interval stands on its own: of as many as are shown, about one in twenty leaves out 0 by chance.",
    "Between settings the lines are read straight in log KL; where one bends, that alone makes small differences.",
)


def _turning(results: Results) -> list[str]:
    """A line where a verdict may turn on another machine, naming the verdicts."""
    near = [
        f"{label(row['method'])} in {YARDSTICK_NAMES[name].lower()} ({verdict_word(row[name]['verdict'])})"
        for row in _usual(results)
        for name in YARDSTICK_NAMES
        for found in [Interval.of(row[name]["difference"]).scaled(100.0)]
        if found.has_ends and min(abs(found.low), abs(found.high)) < _NEAR
    ]
    said = (
        "The same machine gives the same digits again. Another processor rounds otherwise, and training spreads that "
        "by some hundredths of a point."
    )
    if near:
        said += f" An interval ends within {_NEAR:g} points of 0, so that the verdict may turn: {joined(near)}."
    return [said]


def _next_steps(results: Results) -> Section:
    config, world = results["config"], results["worlds"][0]["seed"]
    text = (
        "The reference models and the first seed's pairs lie beside this page, in the layouts of Hugging Face and "
        "TRL. They make a first run of one's own:"
    )
    command = (
        f"mallowspo train --model_name_or_path worlds/{world}/reference --dataset_name preferences.jsonl \\\n"
        f"    --objective mallows_theta --beta {config['betas'][0]:g} --learning_rate "
        f"{config['learning_rate']:g} \\\n    --use_cpu true --bf16 false --output_dir trained"
    )
    return Section("Go on from here", [Paragraph(text), CodeBlock(command, "In the folder of this page.")])
