"""The page of the study `world` and its figures, made from `results.json`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from mallowspo.reports.blocks import Block, CodeBlock, Definitions, Meta, Paragraph, Report, Section, Table
from mallowspo.reports.curves import Curve, FrontierCurve
from mallowspo.reports.figures import frontier_figure, grouped_interval_figure, index_scatter_figure
from mallowspo.reports.sections import Columns, picture, table
from mallowspo.reports.text import format_duration, format_interval, format_number, interval_text, joined, number
from mallowspo.stats.intervals import Interval
from mallowspo.studies import pages
from mallowspo.studies.pages import Results, Row
from mallowspo.studies.policies import BASELINE, label, select_runs

__all__ = ["figures", "page"]

GROUPS = {
    "agreement": "All prompts",
    "agreement_agreed": "Most agreed third",
    "agreement_middle": "Middle third",
    "agreement_contested": "Most contested third",
}
"""What is compared → how a reader calls the prompts behind it."""


def figures(results: Results) -> dict[str, Any]:
    """Draw every figure, by name."""
    kl, best = np.asarray(results["optimum"]["kl"]), 100 * np.asarray(results["optimum"]["agreement"])
    curves = _curves(results, "agreement", 100.0)
    near = kl <= max((float(np.max(curve.x.mean)) for curve in curves.values()), default=np.inf)
    found = {
        "differences": _differences(
            {row["method"]: [row[name]["difference"] for name in GROUPS] for row in pages.by_comparison(results)},
            "Agreement at equal KL, difference from DPO (points)",
            "Who gains on DPO, and where",
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
        found["choice"] = _differences(
            {row["method"]: [row["differences"][name] for name in GROUPS] for row in _chosen_against_dpo(results)},
            "Agreement, each at its own chosen settings, difference from DPO (points)",
            "At the settings that the selection prompts chose",
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


def _differences(per_method: dict[str, list[Any]], x_label: str, title: str) -> Any:
    stacked = {method: Interval.stack(rows, scale=100.0) for method, rows in per_method.items()}
    return grouped_interval_figure(stacked, list(GROUPS.values()), x_label=x_label, title=title, better="right")


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
    for name, found in results["entropy_contested"].items():
        curves[name] = FrontierCurve(x=Interval.exact(ends), y=Interval.exact(np.full(2, number(found["mean"]))))
    return frontier_figure(
        curves, title="Diversity on the most contested third", y_label="Entropy of the answers (nats)"
    )


def page(results: Results) -> Report:
    """What the page says."""
    count, worlds = len(results["config"]["seeds"]), len(results["worlds"])
    kind = "a world of its own" if worlds == count else "its own pairs, in one world"
    return Report(
        title="Is it worth knowing how much people agree? Methods against the exact optimum in small worlds",
        summary=(
            "Every method starts from the same reference and sees the same pairs; at equal distance from the "
            "reference its agreement with people is compared with DPO's (a point is 0.01 of the probability that a "
            "random person prefers its answer to the reference's; brackets are 95% intervals over "
            f"{pages.over_seeds(count)}{f', each with {kind}' if count > 1 else ''})."
        ),
        sections=[
            _question(results),
            _equal_kl(results),
            *([_at_choice(results)] if results["choice"] else []),
            pages.text_section(
                "Against the exact optimum",
                "Each line is a mean over seeds, read at equal KL and shown where every seed reaches. No policy "
                "whatever lies above the plain line; a line that falls loses answers to the outside faster than it "
                "gains agreement.",
                picture("agreement", "Agreement against KL for every method, with the exact optimum above."),
                picture("share", "Share of the exact optimum's gain against KL for every method."),
            ),
            _diversity(results),
            _index(results),
            *([_examples(results)] if results["examples"] else []),
            Section("All settings", [_settings(results)]),
            pages.limits(results, *_LIMITS),
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
        verdicts=_verdicts(results),
    )


def _chosen_against_dpo(results: Results) -> list[Row]:
    return [row for row in results["choice"] if row["method"] != BASELINE]


def _verdicts(results: Results) -> Table:
    choice = {row["method"]: row["differences"]["agreement"] for row in _chosen_against_dpo(results)}
    columns: dict[str, Any] = {
        "method": pages.METHOD,
        "agreement at equal KL, minus DPO's (points)": pages.point_interval("agreement.difference"),
        "verdict": pages.verdict_cell("agreement.verdict"),
    }
    if choice:
        columns["at chosen settings (points)"] = pages.point_interval("choice")
        columns["verdict there"] = pages.verdict_cell("choice.verdict")
    return table([{**row, "choice": choice.get(row["method"])} for row in pages.by_comparison(results)], columns)


def _question(results: Results) -> Section:
    setup, world = results["config"]["setup"], results["worlds"][0]
    text = (
        f"A prompt asks one of {world['groups']} groups of people one of {world['questions']} questions, each with "
        f"{world['candidates']} possible answers; every person's ranking of these is drawn from a Mallows model. The "
        f"people write the corpus that the reference learns from and judge {setup['pairs_per_prompt']} pairs for each "
        f"of {setup['train_prompts']} training prompts, one person a pair; policies are measured exactly on "
        f"{setup['heldout_prompts']} held-out prompts."
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
            "KL from the people's answers, nats": pages.interval("reference_excess_nats", 3),
            "outside, %": pages.share("reference_outside", 1),
            "agreement with itself, %": pages.share("reference_agreement"),
        },
        "The references; gains count from their agreement with themselves.",
    )
    return pages.text_section("Question and method", text, Definitions(_TERMS), families, references)


_TERMS = [
    ("Dispersion φ", "Between 0 and 1: at 0 all people share the central ranking, at 1 everybody ranks at random."),
    (
        "Index and weight",
        "The estimate of −log φ for a prompt, and the factor w = −2 log φ that it becomes in the loss, scaled to a "
        "mean of 1. θ multiplies the reward gap by it, φ bends the loss into the Mallows model's own link.",
    ),
    (
        "Agreement",
        "Probability that a random person prefers the policy's answer to the reference's; equal answers count half, "
        "an answer that is none of the candidates (*outside*) has lost. *Renormalised* leaves these out.",
    ),
    (
        "Share of the optimum",
        "The policy's gain over the reference, divided by the largest gain that any policy can have at the same KL, "
        "π* ∝ π_ref exp(A/τ).",
    ),
    (
        "KL",
        "How far a policy has moved from the reference, over whole answers, in nats. The same β moves different "
        "methods differently far: they are compared at equal KL.",
    ),
]


def _equal_kl(results: Results) -> Section:
    rows = pages.by_comparison(results)
    columns: dict[str, Any] = {"method": pages.METHOD}
    columns |= {title.lower(): pages.point_interval(f"{name}.difference") for name, title in GROUPS.items()}
    columns |= {
        "all, renormalised": pages.point_interval("agreement_renormalised.difference"),
        "outside mass": pages.point_interval("outside.difference"),
        "share of optimum, %": pages.share("share_of_optimum.difference", 1, signed=True),
        "KL (nats)": pages.kl_range("agreement"),
    }
    text = (
        "For each seed a method's agreement is read along its own line against KL, at each KL at the better of its "
        "learning rates (by the selection prompts where there are any), and compared with DPO's over the range that "
        "both reach. A difference counts only where its interval leaves out 0."
    )
    thirds = [format_interval(sum(t) / 2, *t) for t in results["worlds"][0]["phi_by_tercile"]]
    figure = picture(
        "differences",
        "Differences of agreement from DPO at equal KL with 95% intervals, by method and third of the prompts.",
        f"Right of zero is better than DPO. The thirds by true φ in the first world (middle and ends): "
        f"{joined(thirds)}.",
    )
    body: list[Block] = [
        figure,
        pages.compared(
            rows, lambda row: f"{pages.point_interval('agreement.difference')(row)} points", at="agreement"
        ),
        table(rows, columns, "Method minus DPO at equal KL; agreement and outside mass in points."),
    ]
    rates = results["config"]["learning_rates"]
    if len(rates) > 1:
        by_rate: dict[str, Any] = {"method": pages.METHOD}
        by_rate |= {f"at {rate:g}": pages.point_interval(f"{at}.difference") for at, rate in enumerate(rates)}
        agreement = select_runs(results["comparisons"], quantity="agreement")
        alone = [
            {"method": method} | {str(at): select_runs(agreement, method=method, learning_rate=rate)[0] for at, rate
             in enumerate(rates)} for method in pages.challengers(results)
        ]  # fmt: skip
        body.append(table(alone, by_rate, "Agreement over all prompts, at each learning rate alone, in points."))
    return pages.text_section("At equal KL", text, *body)


def _chosen(row: Row) -> str:
    """The settings that were chosen, the most frequent first, with how many seeds chose them."""
    counts = Counter((chosen["beta"], chosen["learning_rate"]) for chosen in row["chosen"])
    shown = [f"β {beta:g}, rate {rate:g}: {count}" for (beta, rate), count in counts.most_common(3)]
    rest = len(row["chosen"]) - sum(count for _, count in counts.most_common(3))
    return "; ".join(shown) + (f"; others: {rest}" if rest else "")


def _at_choice(results: Results) -> Section:
    columns: Columns = {
        "method": pages.METHOD,
        "agreement, %": pages.share("values.agreement"),
        "minus DPO's, points": pages.point_interval("differences.agreement"),
        "share of optimum, %": pages.share("values.share_of_optimum", 0),
        "KL, nats": pages.interval("values.kl", 3),
        "outside, %": pages.share("values.outside", 1),
        "entropy, contested third, nats": pages.interval("values.entropy_contested", 3),
        "chosen by how many seeds": _chosen,
        "at an end of the grid, % of seeds": lambda row: format_number(100 * max(row["at_an_end"].values()), 0),
    }
    text = (
        "What a practitioner gets who tries every setting, keeps the one with the highest agreement on the selection "
        "prompts, and does not ask how far the policy has moved:"
    )
    lines = pages.compared(
        [{**row, "difference": gap, "verdict": gap["verdict"]} for row in _chosen_against_dpo(results)
         for gap in [row["differences"]["agreement"]]],
        lambda row: f"{pages.point_interval('difference')(row)} points; KL minus DPO's "
        f"{pages.interval('differences.kl', 3, signed=True)(row)} nats",
    )  # fmt: skip
    figure = picture(
        "choice",
        "Differences of agreement from DPO at the chosen settings with 95% intervals, by third of the prompts.",
        "Right of zero is better than DPO.",
    )
    caption = "Each method at its chosen settings, held-out prompts, mean over seeds."
    return pages.text_section("At chosen settings", text, figure, lines, table(results["choice"], columns, caption))


def _diversity(results: Results) -> Section:
    people, reference = (interval_text(results["entropy_contested"][who], 3) for who in ("population", "reference"))
    text = (
        "Where people differ, a model that always gives one answer serves few of them. On the most contested third "
        f"of the prompts the people's first choices have an entropy of {people} nats, the references' answers "
        f"{reference}. At equal KL:"
    )
    gap = pages.interval("entropy_contested.difference", 3, signed=True)
    lines = pages.compared(
        pages.by_comparison(results), lambda row: f"{gap(row)} nats of entropy", at="entropy_contested"
    )
    figure = picture("diversity", "Entropy of the answers on contested prompts against KL, with the people's.")
    return pages.text_section("Diversity where people differ", text, lines, figure)


def _index(results: Results) -> Section:
    index = results["index"]
    columns: Columns = {
        "index": pages.plain("0"),
        "rank correlation with −log φ": pages.interval("1.rank_correlation"),
        "within families": pages.interval("1.within_families"),
        "of the entropies summed over the answer": pages.interval("1.answer_entropy"),
        "weights, 5% – median – 95%": lambda row: " – ".join(map(format_number, row[1]["weight_quantiles"])),
    }
    text = (
        "For each training prompt the reference reads both answers of its pairs; the mean entropy of its next-token "
        "distribution, relative to the largest possible, is the estimate (the paper's released code does the same)."
    )
    rows = [(name, index[name]) for name in ("estimated", "true") if name in index]
    body: list[Block] = [table(rows, columns, "Over the training prompts, mean over seeds.")]
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
    return pages.text_section("Does the reference know where people differ?", text, *body)


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
    return pages.text_section("Prompts to read for oneself", text, *tables)


def _settings(results: Results) -> Table:
    methods = results["config"]["methods"]
    rows = sorted(
        results["settings"], key=lambda row: (methods.index(row["method"]), row["learning_rate"], row["beta"])
    )
    columns: dict[str, Any] = {
        "method": pages.METHOD,
        "learning rate": pages.LEARNING_RATE,
        "β": pages.BETA,
        "agreement, %": pages.share("agreement"),
        "renormalised, %": pages.share("agreement_renormalised"),
        "outside, %": pages.share("outside", 1),
        "KL, nats": pages.interval("kl", 3),
        "share of optimum, %": pages.share("share_of_optimum", 0),
        "entropy, contested, nats": pages.interval("entropy_by_tercile.2", 3),
    }
    for at, title in enumerate(list(GROUPS.values())[1:]):
        columns[f"agreement, {title.lower()}, %"] = pages.share(f"agreement_by_tercile.{at}")
    return table(rows, columns, "Every setting on the held-out prompts, mean over seeds with 95% intervals.")


_LIMITS = (
    "The worlds differ in who agrees on what, not in kind: a small language, brief answers, one judge a pair.",
    "Where all seeds share one world, the intervals cover other pairs and orders of training, not other worlds.",
    "The grid was laid out on plain DPO, in a world not among these: a method that wants another is at a "
    "disadvantage.",
    "Every interval stands on its own: of as many as are shown, about one in twenty leaves out 0 by chance.",
    "Between settings the lines are read straight in log KL; where one bends, that alone makes small differences.",
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
