"""The page of the study `world` and its figures, made from `results.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mallowspo.reports.blocks import (
    Block,
    BulletList,
    CodeBlock,
    Definitions,
    Meta,
    Paragraph,
    Report,
    Section,
    Table,
)
from mallowspo.reports.curves import Curve, FrontierCurve
from mallowspo.reports.figures import frontier_figure, grouped_interval_figure, index_scatter_figure
from mallowspo.reports.sections import Columns, comparison, picture, table, verdict_line
from mallowspo.reports.text import (
    format_duration,
    format_interval,
    format_number,
    interval_text,
    joined,
    number,
    points,
    verdict_word,
)
from mallowspo.stats.intervals import Interval
from mallowspo.studies.policies import BASELINE, label

__all__ = ["figures", "page"]

Results = Mapping[str, Any]
Row = Mapping[str, Any]

GROUPS = {
    "agreement": "All prompts",
    "agreement_agreed": "Most agreed third",
    "agreement_middle": "Middle third",
    "agreement_contested": "Most contested third",
}
"""What is compared → how a reader calls the prompts behind it."""


def _challengers(results: Results) -> list[str]:
    return [method for method in results["config"]["methods"] if method != BASELINE]


def _found(results: Results, method: str, quantity: str, rate: float | None = None) -> Row:
    """The comparison of a method with DPO; without a rate each at its better one."""
    wanted = (method, quantity, rate)
    rows = results["comparisons"]
    return next(row for row in rows if (row["method"], row["quantity"], row["learning_rate"]) == wanted)


def _kl_range(row: Row) -> str:
    return f"{format_number(number(row['kl_low']), 3)}–{format_number(number(row['kl_high']), 3)}"


def figures(results: Results) -> dict[str, Any]:
    """Draw every figure, by name."""
    methods = _challengers(results)
    optimum = results["optimum"]
    kl, best = np.asarray(optimum["kl"]), 100 * np.asarray(optimum["agreement"])
    curves = _curves(results, "agreement", 100.0)
    near = kl <= max((float(np.max(curve.x.mean)) for curve in curves.values()), default=np.inf)
    found = {
        "differences": grouped_interval_figure(
            {
                method: Interval.stack([_found(results, method, name)["difference"] for name in GROUPS], scale=100.0)
                for method in methods
            },
            list(GROUPS.values()),
            x_label="Agreement at equal KL, difference from DPO (points)",
            title="Who gains on DPO, and where",
            better="right",
        ),
        "agreement": frontier_figure(
            curves,
            optimum=Curve(kl[near], best[near]),
            title="Agreement against distance from the reference",
            y_label="Agreement with people (%)",
        ),
        "share": frontier_figure(
            _curves(results, "share_of_optimum", 100.0),
            title="Share of the exact optimum's gain at the same KL",
            y_label="Share of the possible gain (%)",
        ),
        "diversity": _diversity_figure(results),
    }
    if results["choice"]:
        found["choice"] = grouped_interval_figure(
            {
                row["method"]: Interval.stack([row["differences"][name] for name in GROUPS], scale=100.0)
                for row in results["choice"]
                if row["method"] != BASELINE
            },
            list(GROUPS.values()),
            x_label="Agreement, each at its own chosen settings, difference from DPO (points)",
            title="At the settings that the selection prompts chose",
            better="right",
        )
    if "prompts" in results["index"]:
        prompts = results["index"]["prompts"]
        found["index"] = index_scatter_figure(
            prompts["estimated_p"],
            prompts["true_p"],
            correlation=Interval.of(results["index"]["estimated"]["rank_correlation"]).drawn,
            groups=prompts["family_p"],
            title="The index from the reference's entropy, against the truth",
        )
    return found


def _curves(results: Results, quantity: str, scale: float) -> dict[str, FrontierCurve]:
    """Each method along KL, where every seed reaches."""
    levels = results["levels"][quantity]
    curves = {}
    for method, intervals in levels["methods"].items():
        here = [(kl, one) for kl, one in zip(levels["kl"], intervals, strict=True) if one["mean"] is not None]
        if here:
            along, values = zip(*here, strict=True)
            curves[method] = FrontierCurve(x=Interval.exact(along), y=Interval.stack(values, scale=scale))
    return curves


def _diversity_figure(results: Results) -> Any:
    curves = _curves(results, "entropy_contested", 1.0)
    ends = np.asarray([0.0, max((float(np.max(curve.x.mean)) for curve in curves.values()), default=1.0)])
    for name, interval in results["entropy_contested"].items():
        level = np.full(2, number(interval["mean"]))
        curves[name] = FrontierCurve(x=Interval.exact(ends), y=Interval.exact(level))
    return frontier_figure(
        curves, title="Diversity on the most contested third", y_label="Entropy of the answers (nats)"
    )


def page(results: Results) -> Report:
    """What the page says."""
    sections = [
        _question(results),
        _equal_kl(results),
        *([_at_choice(results)] if results["choice"] else []),
        _along_kl(results),
        _diversity(results),
        _index(results),
        *([_examples(results)] if results["examples"] else []),
        Section("All settings", [_settings(results)]),
        Section("Limits", [BulletList(_LIMITS)]),
        _next_steps(results),
    ]
    extra = {
        "Training runs": str(len(results["runs"])),
        "Processor time of the policies": format_duration(results["cpu_seconds"]),
        "Peak memory": f"{format_number(results['peak_memory_gb'], 1)} GB",
    }
    return Report(
        title="Is it worth knowing how much people agree? Methods against the exact optimum in small worlds",
        summary=(
            "Every method starts from the same reference and sees the same pairs; at equal distance from the "
            "reference its agreement with people is compared with DPO's (a point is 0.01 of the probability that a "
            "random person prefers its answer to the reference's; brackets are 95% intervals over "
            f"{_seeds(results)})."
        ),
        sections=sections,
        meta=Meta(seeds=results["config"]["seeds"], extra=extra),
        verdicts=_verdicts(results),
    )


def _seeds(results: Results) -> str:
    count, worlds = len(results["config"]["seeds"]), len(results["worlds"])
    if count == 1:
        return "seeds; the one seed that was run has none and decides nothing"
    return f"{count} seeds, each with {'a world of its own' if worlds == count else 'its own pairs, in one world'}"


def _verdicts(results: Results) -> Table:
    choice = {row["method"]: row for row in results["choice"]}
    columns: dict[str, Any] = {
        "method": label,
        "agreement at equal KL, minus DPO's (points)": lambda m: points(_found(results, m, "agreement")["difference"]),
        "verdict": lambda m: verdict_word(_found(results, m, "agreement")["verdict"]),
    }
    if choice:
        columns["at chosen settings (points)"] = lambda m: points(choice[m]["differences"]["agreement"])
        columns["verdict there"] = lambda m: verdict_word(choice[m]["differences"]["agreement"]["verdict"])
    return table(_challengers(results), columns)


def _question(results: Results) -> Section:
    config, setup, world = results["config"], results["config"]["setup"], results["worlds"][0]
    reference = results["reference"]
    text = (
        f"A prompt asks one of {world['groups']} groups of people one of {world['questions']} questions; each has "
        f"{world['candidates']} possible answers of one to four words and a central ranking of them. Question and "
        "group together set φ, and each person's own ranking is drawn from the Mallows model. These people write the "
        "corpus that the reference learns from, and judge the pairs, one person a pair: "
        f"{setup['pairs_per_prompt']} for each of {setup['train_prompts']} training prompts. From the reference every "
        f"method trains on the same pairs in the same order: β {', '.join(f'{beta:g}' for beta in config['betas'])}, "
        f"learning rates {', '.join(f'{rate:g}' for rate in config['learning_rates'])}, {setup['epochs']} epoch(s) "
        f"in batches of {setup['batch_size']}.\n\n"
        f"Everything is measured exactly on {setup['heldout_prompts']} held-out prompts"
        + (
            f"; β and learning rate are chosen on {setup['selection_prompts']} selection prompts"
            if setup["selection_prompts"]
            else ""
        )
        + f". The references' answers are {interval_text(reference['reference_excess_nats'], 3)} nats from the "
        f"people's, {interval_text(reference['reference_outside'], 1, scale=100)}% of them none of the candidates. "
        "Against itself a reference has an agreement of "
        f"{interval_text(reference['reference_agreement'], 2, scale=100)}%: gains count from there."
    )
    terms = [
        (
            "Dispersion φ",
            "Between 0 and 1: at 0 all people share the central ranking, at 1 everybody ranks at random.",
        ),
        (
            "Index and weight",
            "The estimate of −log φ for a prompt, and the factor w = −2 log φ that it becomes in the loss, scaled to "
            "a mean of 1. θ multiplies the reward gap by it, φ bends the loss into the Mallows model's own link.",
        ),
        (
            "Agreement",
            "Probability that a random person prefers the policy's answer to the reference's; equal answers count "
            "half, an answer that is none of the candidates (*outside*) has lost. *Renormalised* leaves these out.",
        ),
        (
            "Share of the optimum",
            "The policy's gain over the reference, divided by the largest gain that any policy can have at the same "
            "KL, π* ∝ π_ref exp(A/τ).",
        ),
        (
            "KL",
            "How far a policy has moved from the reference, over whole answers, in nats. The same β moves different "
            "methods differently far: they are compared at equal KL.",
        ),
    ]
    families = table(
        world["families"].items(),
        {
            "family of questions": lambda item: item[0],
            "lowest φ": lambda item: format_number(item[1][0]),
            "highest φ": lambda item: format_number(item[1][1]),
        },
        "From questions on which nearly everybody agrees to questions of taste (first world).",
    )
    return Section("Question and method", [Paragraph(text), Definitions(terms), families])


def _equal_kl(results: Results) -> Section:
    columns: dict[str, Any] = {"method": label}
    for name, title in GROUPS.items():
        columns[title.lower()] = lambda m, name=name: points(_found(results, m, name)["difference"])
    columns |= {
        "all, renormalised": lambda m: points(_found(results, m, "agreement_renormalised")["difference"]),
        "outside mass": lambda m: points(_found(results, m, "outside")["difference"]),
        "share of optimum, %": lambda m: interval_text(
            _found(results, m, "share_of_optimum")["difference"], 1, scale=100, signed=True
        ),
        "KL (nats)": lambda m: _kl_range(_found(results, m, "agreement")),
    }
    text = (
        "For each seed a method's agreement is read along its own line against KL, at each KL at the better of its "
        "learning rates (by the selection prompts where there are any), and compared with DPO's over the range that "
        "both reach. A difference counts only where its interval leaves out 0."
    )
    lines = [
        verdict_line(
            label(method),
            _found(results, method, "agreement"),
            f"{points(_found(results, method, 'agreement')['difference'])} points",
        )
        for method in _challengers(results)
    ]
    thirds = [format_interval(sum(t) / 2, *t) for t in results["worlds"][0]["phi_by_tercile"]]
    figure = picture(
        "differences",
        "Differences of agreement from DPO at equal KL with 95% intervals, by method and third of the prompts.",
        f"Right of zero is better than DPO. The thirds by true φ in the first world (middle and ends): "
        f"{joined(thirds)}.",
    )
    caption = "Method minus DPO at equal KL; agreement and outside mass in points."
    shown = comparison("At equal KL", text, figure, _challengers(results), columns, lines, caption)
    rates = results["config"]["learning_rates"]
    return replace(shown, body=[*shown.body, _by_rate(results)]) if len(rates) > 1 else shown


def _by_rate(results: Results) -> Table:
    columns: dict[str, Any] = {"method": label}
    for rate in results["config"]["learning_rates"]:
        columns[f"at {rate:g}"] = _at_rate(results, rate)
    return table(_challengers(results), columns, "Agreement over all prompts, at each learning rate alone, in points.")


def _at_rate(results: Results, rate: float) -> Callable[[str], str]:
    return lambda method: points(_found(results, method, "agreement", rate)["difference"])


def _chosen(row: Row) -> str:
    """The settings that were chosen, the most frequent first, with how many seeds chose them."""
    counts = Counter((chosen["beta"], chosen["learning_rate"]) for chosen in row["chosen"])
    shown = [f"β {beta:g}, rate {rate:g}: {count}" for (beta, rate), count in counts.most_common(3)]
    rest = len(row["chosen"]) - sum(count for _, count in counts.most_common(3))
    return "; ".join(shown) + (f"; others: {rest}" if rest else "")


def _at_choice(results: Results) -> Section:
    columns: Columns = {
        "method": lambda row: label(row["method"]),
        "agreement, %": lambda row: interval_text(row["values"]["agreement"], scale=100),
        "minus DPO's, points": lambda row: points(row["differences"]["agreement"]) if row["differences"] else "–",
        "share of optimum, %": lambda row: interval_text(row["values"]["share_of_optimum"], 0, scale=100),
        "KL, nats": lambda row: interval_text(row["values"]["kl"], 3),
        "outside, %": lambda row: interval_text(row["values"]["outside"], 1, scale=100),
        "entropy, contested third, nats": lambda row: interval_text(row["values"]["entropy_contested"], 3),
        "chosen by how many seeds": _chosen,
        "at an end of the grid, % of seeds": lambda row: format_number(100 * max(row["at_an_end"].values()), 0),
    }
    text = (
        "What a practitioner gets who tries every setting, keeps the one with the highest agreement on the selection "
        "prompts, and does not ask how far the policy has moved:"
    )
    figure = picture(
        "choice",
        "Differences of agreement from DPO at the chosen settings with 95% intervals, by third of the prompts.",
        "Right of zero is better than DPO.",
    )
    lines = [
        verdict_line(
            label(row["method"]),
            {"verdict": gap["verdict"], "difference": gap},
            f"{points(gap)} points; KL minus DPO's {interval_text(row['differences']['kl'], 3, signed=True)} nats",
        )
        for row in results["choice"]
        if row["differences"] and (gap := row["differences"]["agreement"])
    ]
    caption = "Each method at its chosen settings, held-out prompts, mean over seeds."
    return comparison("At chosen settings", text, figure, results["choice"], columns, lines, caption)


def _along_kl(results: Results) -> Section:
    text = (
        "Each line is a mean over seeds, read at equal KL and shown where every seed reaches. No policy whatever lies "
        "above the plain line. A line that falls is a method driven too hard: it loses answers to the outside faster "
        "than it gains agreement, and its share of the optimum becomes negative."
    )
    pictures = [
        picture("agreement", "Agreement against KL for every method, with the exact optimum above."),
        picture("share", "Share of the exact optimum's gain against KL for every method."),
    ]
    return Section("Against the exact optimum", [Paragraph(text), *pictures])


def _diversity(results: Results) -> Section:
    people, reference = (interval_text(results["entropy_contested"][who], 3) for who in ("population", "reference"))
    text = (
        "Where people differ, a model that always gives one answer serves few of them. On the most contested third "
        f"of the prompts the people's first choices have an entropy of {people} nats, the references' answers "
        f"{reference}. At equal KL:"
    )
    rows = {method: _found(results, method, "entropy_contested") for method in _challengers(results)}
    lines = [
        verdict_line(label(method), row, f"{interval_text(row['difference'], 3, signed=True)} nats of entropy")
        for method, row in rows.items()
    ]
    figure = picture("diversity", "Entropy of the answers on contested prompts against KL, with the people's.")
    return Section("Diversity where people differ", [Paragraph(text), BulletList(lines), figure])


def _index(results: Results) -> Section:
    index = results["index"]
    rows = [(name, index[name]) for name in ("estimated", "true") if name in index]
    columns: Columns = {
        "index": lambda row: row[0],
        "rank correlation with −log φ": lambda row: interval_text(row[1]["rank_correlation"]),
        "within families": lambda row: interval_text(row[1]["within_families"]),
        "of the entropies summed over the answer": lambda row: interval_text(row[1]["answer_entropy"]),
        "weights, 5% – median – 95%": lambda row: " – ".join(map(format_number, row[1]["weight_quantiles"])),
    }
    text = (
        "For each training prompt the reference reads both answers of its pairs; the mean entropy of its next-token "
        "distribution, relative to the largest possible, is the estimate (the paper's released code does the same)."
    )
    body: list[Block] = [Paragraph(text), table(rows, columns, "Over the training prompts, mean over seeds.")]
    if "prompts" in index:
        estimated, true = (index["prompts"][name] for name in ("estimated_p", "true_p"))
        body.append(
            picture(
                "index",
                "Scatter plot of the estimated against the true −log φ, one point per training prompt, by family.",
                f"Mind the scales: the estimates run from {format_number(min(estimated))} to "
                f"{format_number(max(estimated))}, the truth from {format_number(min(true))} to "
                f"{format_number(max(true))}.",
            )
        )
    return Section("Does the reference know where people differ?", body)


def _examples(results: Results) -> Section:
    first = results["examples"][0]
    text = (
        "One held-out prompt of each family, at its median φ: how often each answer is some person's first choice, "
        f"and how often each model gives it (first seed, β {first['beta']:g}, learning rate "
        f"{first['learning_rate']:g}). Answers stand in the order of the central ranking."
    )
    who = ["population", "reference", *results["config"]["methods"]]
    tables = []
    for row in results["examples"]:
        order = sorted(range(len(row["candidates"])), key=row["center"].__getitem__)
        cells = [[row["candidates"][k], *(f"{100 * row[name][k]:.1f}%" for name in who)] for k in order]
        cells.append(["(anything else)", *(f"{100 * max(0.0, 1 - sum(row[name])):.1f}%" for name in who)])
        tables.append(Table([row["prompt"], *map(label, who)], cells, f"φ = {format_number(row['phi'])}"))
    return Section("Prompts to read for oneself", [Paragraph(text), *tables])


def _of_third(at: int) -> Callable[[Row], str]:
    return lambda row: interval_text(row["agreement_by_tercile"][at], scale=100)


def _settings(results: Results) -> Table:
    methods = results["config"]["methods"]
    rows = sorted(
        results["settings"], key=lambda row: (methods.index(row["method"]), row["learning_rate"], row["beta"])
    )
    columns: dict[str, Any] = {
        "method": lambda row: label(row["method"]),
        "learning rate": lambda row: f"{row['learning_rate']:g}",
        "β": lambda row: f"{row['beta']:g}",
        "agreement, %": lambda row: interval_text(row["agreement"], scale=100),
        "renormalised, %": lambda row: interval_text(row["agreement_renormalised"], scale=100),
        "outside, %": lambda row: interval_text(row["outside"], 1, scale=100),
        "KL, nats": lambda row: interval_text(row["kl"], 3),
        "share of optimum, %": lambda row: interval_text(row["share_of_optimum"], 0, scale=100),
        "entropy, contested, nats": lambda row: interval_text(row["entropy_by_tercile"][2], 3),
    }
    for at, title in enumerate(list(GROUPS.values())[1:]):
        columns[f"agreement, {title.lower()}, %"] = _of_third(at)
    return table(rows, columns, "Every setting on the held-out prompts, mean over seeds with 95% intervals.")


_LIMITS = (
    "The worlds differ in who agrees on what, not in kind: one small language, answers of one to four words, no "
    "style, tiny references, one judge a pair. A real model may do otherwise. Where all seeds share one world, the "
    "intervals cover other pairs and orders of training, not other worlds.",
    "β, learning rates and epochs were laid out on plain DPO alone, in a world that is not among these. A method that "
    "would want another grid is at a disadvantage.",
    "Every interval stands on its own. Among as many as are shown, about one in twenty leaves out 0 by chance.",
    "Between measured settings the lines are read straight in log KL; where a line bends, methods whose settings lie "
    "elsewhere along it can differ a little by that alone.",
)


def _next_steps(results: Results) -> Section:
    config, world = results["config"], results["worlds"][0]["seed"]
    text = (
        "The reference models and the first seed's pairs lie beside this page, in the layouts of Hugging Face and "
        "TRL. They make a first run of one's own:"
    )
    command = (
        f"mallowspo train --model_name_or_path worlds/{world}/reference --dataset_name preferences.jsonl \\\n"
        f"    --objective mallows_theta --beta {config['betas'][0]:g} --learning_rate "
        f"{config['learning_rates'][0]:g} \\\n    --use_cpu true --bf16 false --output_dir trained"
    )
    return Section("Go on from here", [Paragraph(text), CodeBlock(command, "In the folder of this page.")])
