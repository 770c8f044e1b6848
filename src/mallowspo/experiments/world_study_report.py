"""The page of the study `world`: question, method, findings with intervals, verdict, limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mallowspo.experiments.quickstart_figures import GROUPS
from mallowspo.experiments.quickstart_words import (
    diversity_sentence,
    found,
    interval_text,
    label,
    number,
    points,
    rate_sentence,
    tercile_sentence,
    verdict_word,
)
from mallowspo.experiments.world_study_config import BASELINE
from mallowspo.experiments.world_study_figures import draw_world_figures
from mallowspo.experiments.world_study_words import (
    challengers,
    choice_of,
    choice_sentence,
    conclusions,
    equal_kl_sentence,
    index_sentences,
    settings_text,
    share_sentence,
)
from mallowspo.reports.figures import FigurePaths
from mallowspo.reports.html import (
    Block,
    BulletList,
    Definitions,
    Figure,
    Paragraph,
    Report,
    Section,
    Table,
    current_meta,
    write_report,
)
from mallowspo.reports.text import format_duration, format_number

__all__ = ["write_world_report"]

Results = dict[str, Any]
Figures = dict[str, FigurePaths]


def write_world_report(folder: Path, results: Results) -> None:
    """Write `report.html` and its figures.

    Args:
        folder: Where to write; figures go into its folder `figures`.
        results: The findings, as read from `results.json`.
    """
    figures = draw_world_figures(folder / "figures", results)
    sections = [
        _question(results),
        _at_choice(results, figures),
        _equal_kl(results, figures),
        _along_kl(results, figures),
        _diversity(results, figures),
        Section("The index", [BulletList(index_sentences(results))]),
        Section("Verdict", [BulletList(conclusions(results)), *_limits(results)]),
        Section("All settings", [_settings(results)]),
    ]
    extra = {"Training runs": str(len(results["runs"]))}
    meta = current_meta(seeds=results["config"]["seeds"], run_time=results["cpu_seconds"], extra=extra)
    title = "MallowsPO in many small worlds: methods, settings and the exact optimum"
    write_report(folder / "report.html", Report(title, " ".join(conclusions(results)), sections, meta))


def _question(results: Results) -> Section:
    config, setup = results["config"], results["config"]["setup"]
    reference = results["reference"]
    text = (
        "Is it worth knowing how much people agree, once every method has had its settings chosen with equal care? "
        "And how much of what is possible does each method reach?\n\n"
        f"Each of the {len(config['seeds'])} seeds draws a world of its own (who agrees on what, which prompts are "
        f"held out), lets its population write a corpus, trains a reference on it, and draws "
        f"{setup['pairs_per_prompt']} preference pairs for each of {setup['train_prompts']} training prompts, each "
        f"judged by one person. From that reference every method is trained on the same pairs in the same order: "
        f"β {', '.join(f'{beta:g}' for beta in config['betas'])} × learning rates "
        f"{', '.join(f'{rate:g}' for rate in config['learning_rates'])}, {setup['epochs']} epoch(s) in batches of "
        f"{setup['batch_size']}.\n\n"
        f"There are three splits of prompts. β and learning rate are chosen, for each method and seed, by the "
        f"agreement on {setup['selection_prompts']} selection prompts; everything shown is measured exactly on "
        f"{setup['heldout_prompts']} held-out prompts, on which nothing is chosen. The references' answers to these "
        f"are {interval_text(reference['reference_excess_nats'], 3)} nats from the people's, "
        f"{interval_text(reference['reference_outside'], 1, scale=100)}% of them none of the candidates."
    )
    terms = [
        (
            "Agreement",
            "Probability that a random person prefers the policy's answer to the reference's; an answer that is none "
            "of the five candidates has lost. A point is 0.01 of it.",
        ),
        (
            "Share of the optimum",
            "The policy's gain over the reference, divided by the largest gain that any policy can have at the same "
            "KL, π* ∝ π_ref exp(A/τ).",
        ),
        ("KL", "How far the policy has moved from the reference, over whole answers, in nats."),
        (
            "Intervals",
            "95%, Student's t over seeds; differences are paired: same world, reference, pairs and order. They cover "
            "other worlds of this language, as every seed has its own.",
        ),
    ]
    return Section("Question and method", [Paragraph(text), Definitions(terms)])


def _at_choice(results: Results, figures: Figures) -> Section:
    rows = []
    for row in results["choice"]:
        values = row["values"]
        gap = "–" if row["method"] == BASELINE else points(row["differences"]["agreement"])
        rows.append(
            [
                label(row["method"]),
                interval_text(values["agreement"], scale=100),
                gap,
                interval_text(values["share_of_optimum"], 0, scale=100),
                interval_text(values["kl"], 3),
                interval_text(values["outside"], 1, scale=100),
                interval_text(values["entropy_contested"], 3),
            ]
        )
    header = [
        "method", "agreement, %", "minus DPO's, points", "share of optimum, %", "KL, nats", "outside, %",
        "entropy, contested third, nats",
    ]  # fmt: skip
    chosen = [[label(row["method"]), settings_text(row)] for row in results["choice"]]
    body: list[Block] = [
        Paragraph(
            "What a practitioner gets who tries every setting, keeps the one with the highest agreement on the "
            "selection prompts, and does not ask how far the policy has moved:"
        ),
        BulletList([choice_sentence(results, method) for method in challengers(results)]),
        Figure(
            figures["choice"].svg,
            "Differences of agreement from DPO at the chosen settings with 95% intervals, by third of the prompts.",
            "Right of zero is better than DPO.",
        ),
        Table(header, rows, caption="Each method at its chosen settings, held-out prompts, mean over seeds."),
        Table(["method", "settings, and how many seeds chose them"], chosen),
        Paragraph(share_sentence(results)),
    ]
    return Section("At chosen settings", body)


def _equal_kl(results: Results, figures: Figures) -> Section:
    rows = []
    for method in challengers(results):
        row = found(results, method, "agreement")
        cells = [points(found(results, method, quantity)["difference"]) for quantity in GROUPS]
        rows.append(
            [
                label(method),
                *cells,
                points(found(results, method, "agreement_renormalised")["difference"]),
                points(found(results, method, "outside")["difference"]),
                interval_text(found(results, method, "share_of_optimum")["difference"], 1, scale=100, signed=True),
                f"{format_number(number(row['kl_low']), 3)}–{format_number(number(row['kl_high']), 3)}",
                verdict_word(row),
            ]
        )
    header = [
        "method", *(group.lower() for group in GROUPS.values()), "all, renormalised", "outside mass",
        "share of optimum, %", "KL (nats)", "over all prompts",
    ]  # fmt: skip
    body: list[Block] = [
        Paragraph(
            "The same β is not the same strength. For each seed a method's held-out agreement is read along its own "
            "line against KL, at each KL at the learning rate that the selection prompts prefer there, and compared "
            "with DPO's over the range that both reach:"
        ),
        BulletList([equal_kl_sentence(results, method) for method in challengers(results)]),
        Figure(
            figures["differences"].svg,
            "Differences of agreement from DPO at equal KL with 95% intervals, by method and third of the prompts.",
            "Right of zero is better than DPO.",
        ),
        Table(header, rows, caption="Method minus DPO at equal KL; agreement and outside mass in points."),
    ]
    if len(results["config"]["seeds"]) > 1:
        body.append(BulletList([tercile_sentence(results, method) for method in challengers(results)]))
        if len(results["config"]["learning_rates"]) > 1:
            body.append(Paragraph("Over all prompts, at each learning rate on its own:"))
            body.append(BulletList([rate_sentence(results, method) for method in challengers(results)]))
    return Section("At equal KL", body)


def _along_kl(results: Results, figures: Figures) -> Section:
    text = (
        "Each line is a mean over seeds, read at equal KL and shown where every seed reaches. No policy whatever lies "
        "above the plain line. A line that falls is a method driven too hard: it loses answers to the outside faster "
        "than it gains agreement, and its share of the optimum becomes negative."
    )
    pictures = [
        Figure(figures["agreement"].svg, "Agreement against KL for every method, with the exact optimum above."),
        Figure(figures["share"].svg, "Share of the exact optimum's gain against KL for every method."),
    ]
    return Section("Against the exact optimum", [Paragraph(text), *pictures])


def _diversity(results: Results, figures: Figures) -> Section:
    people, reference = (interval_text(results["entropy_contested"][who], 3) for who in ("population", "reference"))
    body: list[Block] = [
        Paragraph(
            f"On the most contested third of the prompts the people's first choices have an entropy of {people} nats, "
            f"the references' answers {reference}. At equal KL:"
        )
    ]
    if len(results["config"]["seeds"]) > 1:
        body.append(BulletList([diversity_sentence(results, method) for method in challengers(results)]))
    body.append(
        Figure(figures["diversity"].svg, "Entropy of the answers on contested prompts against KL, with the people's.")
    )
    dpo = choice_of(results, BASELINE)["values"]["entropy_agreed"]
    body.append(
        Paragraph(f"On the most agreed third DPO at its chosen settings has {interval_text(dpo, 3)} nats of entropy.")
    )
    return Section("Diversity where people differ", body)


def _limits(results: Results) -> list[Block]:
    rates = ", ".join(f"{rate:g}" for rate in results["config"]["learning_rates"])
    return [
        Paragraph("What this study cannot say:"),
        BulletList(
            [
                "The worlds differ in who agrees on what, not in kind: one small language, answers of one to four "
                "words, no style, tiny references, one judge a pair. A real model may do otherwise.",
                f"β, the learning rates ({rates}) and the number of epochs were laid out on plain DPO alone, in a "
                "world that is not among these. A method that would want another grid is at a disadvantage.",
                "Every interval stands on its own. Among as many as are shown, about one in twenty leaves out 0 by "
                "chance.",
                "Between measured settings the lines are read straight in log KL; where a line bends, methods whose "
                "settings lie elsewhere along it can differ a little by that alone.",
            ]
        ),
        Paragraph(f"Processor time of all policies: {format_duration(results['cpu_seconds'])} on one core."),
    ]


def _settings(results: Results) -> Table:
    rows = [
        [
            label(row["method"]),
            f"{row['learning_rate']:g}",
            f"{row['beta']:g}",
            interval_text(row["agreement"], scale=100),
            interval_text(row["agreement_renormalised"], scale=100),
            interval_text(row["outside"], 1, scale=100),
            interval_text(row["kl"], 3),
            interval_text(row["share_of_optimum"], 0, scale=100),
            interval_text(row["entropy_by_tercile"][2], 3),
        ]
        for row in sorted(
            results["settings"],
            key=lambda row: (results["config"]["methods"].index(row["method"]), row["learning_rate"], row["beta"]),
        )
    ]
    header = [
        "method", "learning rate", "β", "agreement, %", "renormalised, %", "outside, %", "KL, nats",
        "share of optimum, %", "entropy, contested, nats",
    ]  # fmt: skip
    return Table(header, rows, caption="Every setting on the held-out prompts, mean over seeds with 95% intervals.")
