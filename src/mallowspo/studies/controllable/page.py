"""The page of the controllable-generation study and its figures, made from `results.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator

from mallowspo.reports.blocks import (
    Block,
    BulletList,
    Definitions,
    Example,
    Examples,
    Meta,
    Paragraph,
    Report,
    Section,
    Table,
    literal,
)
from mallowspo.reports.curves import Curve, FrontierCurve
from mallowspo.reports.figure_style import METHOD_STYLES, MethodStyle, house_style
from mallowspo.reports.figures import (
    frontier_figure,
    grouped_interval_figure,
)
from mallowspo.reports.sections import Columns, comparison, picture, table, verdict_line
from mallowspo.reports.text import format_duration, format_number, format_p, interval_text, number, verdict_word
from mallowspo.stats.intervals import Interval
from mallowspo.studies.controllable.design import CONTROLLABLE_METHODS
from mallowspo.studies.policies import BASELINE, label

__all__ = ["figures", "page"]

Results = Mapping[str, Any]
Row = Mapping[str, Any]

_OPTIMUM = MethodStyle("Tilted reference", METHOD_STYLES["optimum"].color, "", "-")


def _model(results: Results) -> str:
    return Path(results["config"]["design"]["model_name_or_path"]).name


def _settings_of(results: Results, method: str) -> list[Row]:
    return [row for row in results["settings"] if row["method"] == method]


def figures(results: Results) -> dict[str, Any]:
    """Draw `frontier`, and `differences` where methods share a KL at which they can be shown."""
    found = {"frontier": _frontier(results)}
    if results["by_kl"]:
        found["differences"] = grouped_interval_figure(
            {
                method: Interval.stack([row["differences"][method] for row in results["by_kl"]])
                for method in CONTROLLABLE_METHODS
                if method != BASELINE
            },
            [f"{row['kl']:g} nats" for row in results["by_kl"]],
            x_label="Expected reward, difference from DPO",
            title="Against DPO at equal KL",
            better="right",
        )
    return found


def _frontier(results: Results) -> Any:
    curves = {}
    for method in CONTROLLABLE_METHODS:
        rows = _settings_of(results, method)
        kl = Interval.stack([row["kl"] for row in rows])
        # On a log axis an end stays above 0.
        low = np.minimum(np.maximum(kl.low, 0.5 * np.nanmin(kl.mean)), kl.mean)
        curves[method] = FrontierCurve(
            x=Interval(kl.mean, low, kl.high), y=Interval.stack([row["reward"] for row in rows])
        )
    lowest = min(float(np.min(curve.x.low)) for curve in curves.values())
    furthest = max(float(np.max(curve.x.high)) for curve in curves.values())
    kl_t, reward_t = (np.asarray(results["optimum"][name]) for name in ("kl", "reward"))
    shown = (kl_t >= 0.8 * lowest) & (kl_t <= 1.1 * furthest)
    figure = frontier_figure(
        curves,
        optimum=Curve(kl_t[shown], reward_t[shown]) if shown.any() else None,
        title=f"Reward against distance from the reference: {_model(results)}",
        y_label="Expected reward",
        styles={"optimum": _OPTIMUM},
    )
    with house_style():
        axes = figure.axes[0]
        level = number(results["reference"]["reward"]["mean"])
        axes.axhline(level, color=_OPTIMUM.color, linewidth=1.0, linestyle=(0, (1, 2)))
        axes.set_xscale("log")
        # Plain numbers at 1, 2, 5 and their multiples; on a short axis at every digit.
        digits = (1.0, 2.0, 5.0) if furthest > 4 * lowest else tuple(range(1, 10))
        axes.xaxis.set_major_locator(LogLocator(subs=digits))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_locator(NullLocator())
    return figure


def page(results: Results) -> Report:
    """What the page says."""
    facts, seeds = results["facts"], results["config"]["seeds"]
    over = f"{len(seeds)} seeds" if len(seeds) > 1 else "seeds; the one seed that was run has none and decides nothing"
    return Report(
        title="Controllable generation: how much reward for how much KL?",
        summary=(
            f"`{literal(_model(results))}` ({facts['parameters']:,} parameters) is tuned towards "
            f"{literal(facts['reward'])} by four methods on the same pairs; at equal KL from the reference their "
            f"expected reward is compared with DPO's (brackets are 95% intervals over {over})."
        ),
        sections=[
            _question(results),
            _learning_rate(results),
            _equal_kl(results),
            _frontiers(results),
            Section("Limits", [BulletList(_LIMITS)]),
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
            [row for row in results["comparisons"] if row["baseline"] == BASELINE],
            {
                "method": lambda row: label(row["method"]),
                "expected reward at equal KL, minus DPO's": _gap,
                "verdict": lambda row: verdict_word(row["verdict"]),
                "p, Holm": lambda row: format_p(number(row["p_holm"]), name=""),
            },
        ),
    )


def _gap(row: Row) -> str:
    return interval_text(row["difference"], 3, signed=True)


_COMPARED = {
    "sign": "the one with the higher reward is chosen, and equal rewards give no pair",
    "bradley_terry": "the chosen one is drawn by Bradley–Terry, with a logit of {scale:g} times the difference",
}


def _question(results: Results) -> Section:
    config, facts = results["config"], results["facts"]
    design = config["design"]
    least, most = (ends(run["steps"] for run in results["runs"]) for ends in (min, max))
    steps = f"{least}" if least == most else f"{least} to {most}"
    betas, ipo = (", ".join(f"{beta:g}" for beta in config[name]) for name in ("betas", "ipo_betas"))
    opening = f", those that begin with `{literal(design['opening'])}`" if design["opening"] else ""
    text = (
        "A policy that is tuned towards a reward gains reward and moves away from where it began. A method is better "
        "than another if it gains more at the same distance. The MallowsPO paper draws this trade-off for sentiment "
        "(GPT-2-large on openings of film reviews) and reports MallowsPO above DPO. Is it so here?"
    )
    items = [
        f"Prompts: the first whole words, {design['min_prompt_tokens']} to {design['prompt_tokens']} tokens, of texts "
        f"in `{literal(Path(design['dataset_name']).name)}`{opening}. {facts['heldout_prompts']:,} prompts are held "
        "out for measuring; no pair is made from them.",
        f"Pairs: the policy's start writes {design['samples_per_prompt']} responses of at most "
        f"{design['response_tokens']} tokens to each of {facts['train_prompts']:,} prompts; of every two, "
        f"{_COMPARED[design['preferences']].format(scale=design['preference_scale'])}.",
        f"Training: {steps} steps of {design['batch_size']} pairs, as many as a seed's pairs fill; β is {betas} (for "
        f"IPO, whose β is another quantity, {ipo}). Methods share pairs, their order, steps and learning rate; only "
        "the loss differs.",
        f"Measuring: {design['eval_samples']} responses to each held-out prompt at temperature 1, the same random "
        "numbers for all policies of a seed; reward and KL are read off the same responses.",
    ]
    columns: Columns = {
        "comparisons": lambda row: f"{row['compared']:,}",
        "without a preference": lambda row: f"{row['equal']:,}",
        "pairs": lambda row: f"{row['pairs']:,}",
        "against the reward, %": lambda row: format_number(100 * row["against_reward"], 0),
        "their difference of reward, mean": lambda row: format_number(row["mean_gap"]),
        "reward of a response, mean": lambda row: format_number(row["reward_mean"]),
        "standard deviation": lambda row: format_number(row["reward_deviation"]),
    }
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
    body: list[Block] = [Paragraph(text), BulletList(items), table([facts], columns, "The first seed's pairs.")]
    return Section("Question and method", body, [Section("Terms", [Definitions(terms)])])


_RULES = {
    "given": "The learning rate, {rate:g}, was given; nothing was chosen by this study's results.",
    "area": "Chosen by the area under DPO's frontier over the KL that all candidates reach: {rate:g}.",
    "mean reward": "Chosen by the mean reward of DPO, since no KL is reached by all candidates: {rate:g}.",
}


def _learning_rate(results: Results) -> Section:
    choice = results["learning_rate"]
    said = Paragraph(_RULES[choice["rule"]].format(rate=choice["chosen"]))
    if not choice["candidates"]:
        return Section("The learning rate", [said])
    columns: Columns = {
        "learning rate": lambda row: f"{row['learning_rate']:g}",
        "area": lambda row: format_number(row["area"], 3),
        "mean reward": lambda row: format_number(row["mean_reward"], 3),
        "KL, nats": lambda row: f"{format_number(row['kl'][0])}–{format_number(row['kl'][-1])}",
    }
    caption = (
        f"DPO at every β on pairs and draws of seed {results['config']['pilot_seed']}, which no comparison uses. Area "
        "divided by the width, even in log KL."
    )
    return Section("The learning rate", [said, table(choice["candidates"], columns, caption)])


def _equal_kl(results: Results) -> Section:
    rows = results["comparisons"]
    columns: Columns = {
        "at equal KL": lambda row: f"{label(row['method'])} − {label(row['baseline'])}",
        "difference of reward": _gap,
        "p": lambda row: format_p(number(row["p"]), name=""),
        "p, Holm": lambda row: format_p(number(row["p_holm"]), name=""),
        "KL (nats)": lambda row: f"{format_number(row['kl_low'])}–{format_number(row['kl_high'])}",
    }
    text = (
        "For each seed, the lines of two methods are read over the KL that both reach, even in log KL, and their "
        "difference is averaged. A difference counts only where its interval leaves out 0."
    )
    figure = picture(
        "frontier",
        "Expected reward against KL for the four methods with bands, and the best possible trade-off above them.",
        "Points are settings of β, mean over seeds; bars and bands are 95% intervals over seeds. The grey level is "
        "the reference's own reward, the grey curve the tilted reference.",
    )
    lines = [
        verdict_line(label(row["method"]), row, f"{_gap(row)} of reward", against=label(row["baseline"]))
        for row in rows
    ]
    caption = (
        f"Every two methods: paired over seeds, 95% intervals, p-values of paired t tests, alone and after Holm's "
        f"method over the {len(rows)} comparisons."
    )
    return comparison("At equal KL", text, figure, rows, columns, lines, caption)


def _best_kl(results: Results, reward: Row) -> str:
    """KL at which the tilted reference has a reward; a dash where its estimate does not reach so far."""
    kl_t, reward_t = (results["optimum"][name] for name in ("kl", "reward"))
    return format_number(float(np.interp(number(reward["mean"]), reward_t, kl_t, right=np.nan)))


def _frontiers(results: Results) -> Section:
    areas = results["areas"]
    best = {
        method: max(_settings_of(results, method), key=lambda row: number(row["reward"]["mean"]))
        for method in CONTROLLABLE_METHODS
    }
    columns: dict[str, Any] = {
        "method": label,
        "area under the frontier": lambda m: interval_text(areas["methods"][m]["interval"], 3),
        "highest mean reward": lambda m: interval_text(best[m]["reward"], 3),
        "at KL (nats)": lambda m: interval_text(best[m]["kl"]),
        "KL at which the tilted reference has it": lambda m: _best_kl(results, best[m]["reward"]),
    }
    caption = (
        "Area divided by the width, which is the mean reward over the KL that all methods reach under a seed, even in "
        f"log KL: on average {format_number(areas['kl_low'])} to {format_number(areas['kl_high'])} nats. The "
        f"reference has a reward of {interval_text(results['reference']['reward'], 3)}."
    )
    weights = table(
        results["weights"].items(),
        {
            "method": lambda item: label(item[0]),
            "5% – median – 95%": lambda item: " – ".join(map(format_number, item[1])),
        },
        "Weights of the pairs, mean over runs. Where all are nearly 1, MallowsPO-θ is nearly DPO.",
    )
    body: list[Block] = [table(CONTROLLABLE_METHODS, columns, caption), weights]
    if results["by_kl"]:
        body.append(
            picture(
                "differences",
                "Differences of expected reward from DPO at single KLs with 95% intervals.",
                "At single KLs, where every method has a value. Right of zero is better than DPO.",
            )
        )
    details = [Section("All settings", [_settings(results)]), _examples(results)]
    return Section("The frontiers", body, details)


def _settings(results: Results) -> Table:
    columns: Columns = {
        "method": lambda row: label(row["method"]),
        "β": lambda row: f"{row['beta']:g}",
        "reward": lambda row: interval_text(row["reward"], 3),
        "s.e.": lambda row: format_number(row["reward_standard_error"]["mean"], 3),
        "KL, nats": lambda row: interval_text(row["kl"]),
        "s.e. of KL": lambda row: format_number(row["kl_standard_error"]["mean"]),
        "tokens": lambda row: format_number(row["tokens_per_response"]["mean"], 1),
    }
    caption = (
        "Mean over seeds with 95% intervals over seeds; s.e. is the standard error of one seed's measurement by "
        "sampling, over prompts."
    )
    return table(results["settings"], columns, caption)


def _who(answer: Row) -> str:
    if answer["beta"] is None:
        return label(answer["method"])
    return f"{label(answer['method'])}, β {answer['beta']:g}, KL {format_number(answer['kl'], 1)}"


def _examples(results: Results) -> Section:
    shown = results["examples"]
    answers = [(_who(answer), answer["text"]) for answer in shown["answers"]]
    note = "The first held-out prompt and the first response to it under the first seed: nobody has picked them."
    return Section("To read for oneself", [Examples([Example(shown["prompt"], answers)], caption=note)])


_LIMITS: Sequence[str] = (
    "One model, one set of texts, one reward: the intervals cover other pairs, orders of training and draws, not "
    "other models or tasks. Few seeds resolve little: a difference that is not significant may still exist.",
    "A reward by a lexicon or a classifier is no person. What a policy gains on it may be words that score well: read "
    "the examples.",
    "Responses are cut; reward and KL are those of the cut responses.",
    "The lines are read by interpolation between a few settings of β, linear in log KL.",
    "The tilted reference is an estimate from samples; it ends where too few of them carry the weight.",
    "Preferences by `sign` have no noise: two responses are always compared the same way. Disagreement within a "
    "prompt, which MallowsPO is made for, enters only through how near the rewards of its responses lie; the index is "
    "the reference's own entropy, which need not follow that.",
)
