"""The page of the controllable-generation study and its figures, made from `results.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator

from mallowspo.reports.blocks import Block, Definitions, Example, Examples, Meta, Report, Section, literal
from mallowspo.reports.figure_style import METHOD_STYLES, MethodStyle, house_style
from mallowspo.reports.figures import Curve, frontier_figure, grouped_interval_figure
from mallowspo.reports.sections import Columns, picture, table
from mallowspo.reports.text import format_duration, format_number, format_p, interval_text, number
from mallowspo.stats.intervals import Interval
from mallowspo.studies import pages
from mallowspo.studies.pages import Cell, Results, Row
from mallowspo.studies.policies import BASELINE, label, select_runs

__all__ = ["figures", "page"]

_OPTIMUM = MethodStyle("Tilted reference", METHOD_STYLES["optimum"].color, "", "-")
_GAP = pages.interval("difference", 3, signed=True)


def _model(results: Results) -> str:
    return Path(results["config"]["design"]["model_name_or_path"]).name


def figures(results: Results) -> dict[str, Any]:
    """Draw `frontier`, and `differences` where methods share a KL at which they can be shown."""
    found = {"frontier": _frontier(results)}
    if results["by_kl"]:
        found["differences"] = grouped_interval_figure(
            {
                method: Interval.stack([row["differences"][method] for row in results["by_kl"]])
                for method in _methods(results)
                if method != BASELINE
            },
            [f"{row['kl']:g}" for row in results["by_kl"]],
            x_label="Expected reward, difference from DPO",
            title="Against DPO at equal KL (in nats)",
            better="right",
        )
    return found


def _methods(results: Results) -> list[str]:
    return list(dict.fromkeys(row["method"] for row in results["settings"]))


def _count(results: Results) -> str:
    number_of = len(_methods(results))
    return ("no", "one", "two", "three", "four", "five", "six")[number_of]


def _frontier(results: Results) -> Any:
    curves = {}
    for method in _methods(results):
        rows = select_runs(results["settings"], method=method)
        kl = Interval.stack([row["kl"] for row in rows])
        # On a log axis an end stays above 0.
        low = np.minimum(np.maximum(kl.low, 0.5 * np.nanmin(kl.mean)), kl.mean)
        curves[method] = Curve(Interval(kl.mean, low, kl.high), Interval.stack([row["reward"] for row in rows]))
    lowest = min(float(np.min(curve.x.low)) for curve in curves.values())
    furthest = max(float(np.max(curve.x.high)) for curve in curves.values())
    kl_t, reward_t = (np.asarray(results["optimum"][name]) for name in ("kl", "reward"))
    shown = (kl_t >= 0.8 * lowest) & (kl_t <= 1.1 * furthest)
    figure = frontier_figure(
        curves,
        optimum=Curve(kl_t[shown], reward_t[shown]) if shown.any() else None,
        level=("The reference's own reward", number(results["reference"]["reward"]["mean"])),
        title=f"Reward against distance from the reference: {_model(results)}",
        y_label="Expected reward",
        styles={"optimum": _OPTIMUM},
    )
    with house_style():
        axes = figure.axes[0]
        axes.set_xscale("log")
        # Plain numbers at 1, 2, 5 and their multiples; on a short axis at every digit.
        digits = (1.0, 2.0, 5.0) if furthest > 4 * lowest else tuple(range(1, 10))
        axes.xaxis.set_major_locator(LogLocator(subs=digits))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    return figure


def _p(path: str) -> Cell:
    return lambda row: format_p(number(pages.value(row, path)), name="")


def page(results: Results) -> Report:
    """What the page says."""
    facts, seeds = results["facts"], results["config"]["seeds"]
    return Report(
        title="Controllable generation: how much reward for how much KL?",
        summary=(
            f"`{literal(_model(results))}` ({facts['parameters']:,} parameters) is tuned towards "
            f"{literal(facts['reward'])} by {_count(results)} methods on the same pairs; at equal KL from the "
            "reference their expected reward is compared with DPO's (brackets are 95% intervals over "
            f"{pages.over_seeds(len(seeds))})."
        ),
        sections=[
            _question(results),
            _learning_rate(results),
            _equal_kl(results),
            _frontiers(results),
            pages.limits(results, *_LIMITS),
        ],
        meta=Meta(
            seeds=seeds,
            extra={
                "Training runs": str(len(results["runs"])),
                "Processor time of these runs": format_duration(results["cpu_seconds"]),
                "Device": facts["device"],
            },
        ),
        verdicts=table(
            select_runs(results["comparisons"], baseline=BASELINE),
            {
                "method": pages.METHOD,
                "expected reward at equal KL, minus DPO's": _GAP,
                "verdict": pages.verdict_cell(),
                "p, Holm": _p("p_holm"),
            },
        ),
    )


def _question(results: Results) -> Section:
    facts = results["facts"]
    text = (
        "The policy's start writes responses to the first words of texts; the pairs of them that the reward tells "
        f"apart train {_count(results)} methods, which share pairs, order, steps and learning rate. A method is "
        "better than another if it gains more reward at the same distance from where it began."
    )
    terms = [
        ("Reward", f"{literal(facts['reward'])}, of prompt and response together; the models never see it."),
        (
            "KL",
            "KL(policy ‖ reference) over whole responses, in nats, from responses sampled from the policy: the sum "
            "over tokens of the KL between the two next-token distributions.",
        ),
        ("Frontier", "The line of expected reward against KL that a method draws as β goes from strong to weak."),
        (
            "Tilted reference",
            "The best trade-off that any policy whatever can have: the reference, reweighted by e to the power of η "
            "times the reward; estimated from the reference's own responses.",
        ),
    ]
    columns: Columns = {
        "training prompts": pages.plain("train_prompts"),
        "held-out prompts": pages.plain("heldout_prompts"),
        "comparisons": pages.plain("compared"),
        "without a preference": pages.plain("equal"),
        "pairs": pages.plain("pairs"),
        "against the reward, %": pages.figure_of("against_reward", 0, scale=100),
        "their difference of reward, mean": pages.figure_of("mean_gap"),
        "reward of a response, mean": pages.figure_of("reward_mean"),
        "standard deviation": pages.figure_of("reward_deviation"),
    }
    shown = table([facts], columns, "Prompts, and the first seed's pairs.")
    return pages.text_section("Question and method", text, shown, details=[Section("Terms", [Definitions(terms)])])


_RULES = {
    "given": "The learning rate, {rate:g}, was given; nothing was chosen by this study's results.",
    "area": "Chosen by the area under DPO's frontier over the KL that all candidates reach: {rate:g}.",
    "mean reward": "Chosen by the mean reward of DPO, since no KL is reached by all candidates: {rate:g}.",
}


def _learning_rate(results: Results) -> Section:
    choice = results["learning_rate"]
    columns: Columns = {
        "learning rate": pages.LEARNING_RATE,
        "area": pages.figure_of("area", 3),
        "mean reward": pages.figure_of("mean_reward", 3),
        "KL, nats": lambda row: f"{format_number(row['kl'][0])}–{format_number(row['kl'][-1])}",
    }
    caption = (
        f"DPO at every β on pairs and draws of seed {results['config']['pilot_seed']}, which no comparison uses. Area "
        "divided by the width, even in log KL."
    )
    shown = [table(choice["candidates"], columns, caption)] if choice["candidates"] else []
    return pages.text_section("The learning rate", _RULES[choice["rule"]].format(rate=choice["chosen"]), *shown)


def _equal_kl(results: Results) -> Section:
    rows = results["comparisons"]
    columns: Columns = {
        "at equal KL": lambda row: f"{label(row['method'])} − {label(row['baseline'])}",
        "difference of reward": _GAP,
        "p": _p("p"),
        "p, Holm": _p("p_holm"),
        "KL (nats)": pages.kl_range(digits=2),
    }
    text = (
        "For each seed, the lines of two methods are read over the KL that both reach, even in log KL, and their "
        "difference is averaged. A difference counts only where its interval leaves out 0."
    )
    figure = picture(
        "frontier",
        f"Expected reward against KL for the {_count(results)} methods, and the best possible trade-off above them.",
        "Points are settings of β, mean over seeds; whiskers are 95% intervals over seeds. The tilted reference is "
        "the best trade-off, where the reference's own responses tell it.",
    )
    lines = pages.compared(rows, lambda row: f"{_GAP(row)} of reward", against=pages.named("baseline"))
    caption = (
        f"Every two methods: paired over seeds, 95% intervals, p-values of paired t tests, alone and after Holm's "
        f"method over the {len(rows)} comparisons."
    )
    return pages.text_section("At equal KL", text, figure, lines, table(rows, columns, caption))


def _frontiers(results: Results) -> Section:
    areas = results["areas"]
    kl_t, reward_t = (results["optimum"][name] for name in ("kl", "reward"))
    best = []
    for method in _methods(results):
        rows = select_runs(results["settings"], method=method)
        highest = max(rows, key=lambda row: number(row["reward"]["mean"]))
        # Not a number where the estimate of the tilted reference does not reach so far.
        at = float(np.interp(number(highest["reward"]["mean"]), reward_t, kl_t, right=np.nan))
        best.append({**highest, "area": areas["methods"][method]["interval"], "tilted": at})
    columns: Columns = {
        "method": pages.METHOD,
        "area under the frontier": pages.interval("area", 3),
        "highest mean reward": pages.interval("reward", 3),
        "at KL (nats)": pages.interval("kl"),
        "KL at which the tilted reference has it": pages.figure_of("tilted"),
    }
    caption = (
        "Area divided by the width, which is the mean reward over the KL that all methods reach under a seed, even in "
        f"log KL: on average {format_number(areas['kl_low'])} to {format_number(areas['kl_high'])} nats. The "
        f"reference has a reward of {interval_text(results['reference']['reward'], 3)}."
    )
    weights = table(
        results["weights"].items(),
        {"method": pages.named("0"), "5% – median – 95%": lambda item: " – ".join(map(format_number, item[1]))},
        "Weights of the pairs, mean over runs. Where all are nearly 1, MallowsPO-θ is nearly DPO.",
    )
    body: list[Block] = [table(best, columns, caption), weights]
    if results["by_kl"]:
        body.append(
            picture(
                "differences",
                "Differences of expected reward from DPO at single KLs with 95% intervals.",
                "At single KLs, where every method has a value. Right of zero is better than DPO. Whiskers are 95% "
                "intervals over seeds.",
            )
        )
    settings: Columns = {
        "method": pages.METHOD,
        "β": pages.BETA,
        "reward": pages.interval("reward", 3),
        "s.e.": pages.figure_of("reward_standard_error.mean", 3),
        "KL, nats": pages.interval("kl"),
        "s.e. of KL": pages.figure_of("kl_standard_error.mean"),
        "tokens": pages.figure_of("tokens_per_response.mean", 1),
    }
    said = (
        "Mean over seeds with 95% intervals over seeds; s.e. is the standard error of one seed's measurement by "
        "sampling, over prompts."
    )
    details = [Section("All settings", [table(results["settings"], settings, said)]), _examples(results)]
    return Section("The frontiers", body, details)


def _who(answer: Row) -> str:
    if answer["beta"] is None:
        return label(answer["method"])
    return f"{label(answer['method'])}, β {answer['beta']:g}, KL {format_number(answer['kl'], 1)}"


def _examples(results: Results) -> Section:
    shown = results["examples"]
    answers = [(_who(answer), answer["text"]) for answer in shown["answers"]]
    note = "The first held-out prompt and the first response to it under the first seed: nobody has picked them."
    return Section("To read for oneself", [Examples([Example(shown["prompt"], answers)], caption=note)])


_LIMITS = (
    "One model, one set of texts, one reward; few seeds resolve little: what is not significant may still exist.",
    "A lexicon or a classifier is no person: gained reward may be words that score well. Read the examples.",
    "Responses are cut; reward and KL are those of the cut responses.",
    "The lines are read by interpolation between a few settings of β, linear in log KL.",
    "The tilted reference is an estimate from samples; it ends where too few of them carry the weight.",
    "Preferences by `sign` have no noise: disagreement enters only through how near the rewards lie, which the "
    "index, the reference's own entropy, need not follow.",
)
