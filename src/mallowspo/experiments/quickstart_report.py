"""The page of the quick start: what was asked, in which world, what came out, and what that allows to conclude."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mallowspo.experiments.quickstart_config import METHODS
from mallowspo.experiments.quickstart_figures import GROUPS, draw_figures
from mallowspo.experiments.quickstart_words import (
    CHALLENGERS,
    conclusions,
    diversity_sentence,
    found,
    index_sentences,
    interval_text,
    label,
    number,
    overall_sentence,
    points,
    rate_sentence,
    tercile_sentence,
    verdict_word,
)
from mallowspo.reports.figures import FigurePaths
from mallowspo.reports.html import (
    Block,
    BulletList,
    Callout,
    CodeBlock,
    Definitions,
    Figure,
    Paragraph,
    Report,
    Section,
    Table,
    current_meta,
    literal,
    write_report,
)
from mallowspo.reports.text import format_duration, format_number

__all__ = ["write_quickstart_report"]

Results = dict[str, Any]
Figures = dict[str, FigurePaths]


def write_quickstart_report(folder: Path, results: Results) -> None:
    """Write `report.html` and its figures.

    Args:
        folder: Where to write; figures go into its folder `figures`.
        results: The findings, as read from `results.json`.
    """
    figures = draw_figures(folder / "figures", results)
    sections = [
        _question(),
        _world(results),
        _index(results, figures),
        _who_wins(results, figures),
        _frontier(results, figures),
        _diversity(results, figures),
        Section("What to conclude", [BulletList(conclusions(results)), *_limits(results)]),
        _next_steps(results),
    ]
    config, seconds = results["config"], results["seconds"]
    extra = {
        "Training runs": str(len(results["runs"])),
        "Peak memory": f"{format_number(results['peak_memory_gb'], 1)} GB",
        "Reference trained in": format_duration(seconds["reference"]),
        "Policies trained in": format_duration(seconds["runs"]),
    }
    meta = current_meta(seeds=config["seeds"], run_time=seconds["total"], extra=extra)
    title = "Quick start: is it worth knowing how much people agree?"
    write_report(folder / "report.html", Report(title, _summary(results), sections, meta))


def _summary(results: Results) -> str:
    config = results["config"]
    lines = [overall_sentence(results, method) for method in CHALLENGERS]
    correlation = results["index"]["mean_entropy"]["rank_correlation"]
    return "\n\n".join(
        [
            "In a small world where the truth is known, plain DPO and three versions of MallowsPO started from the "
            f"same reference model and saw the same pairs, under {_count(config['seeds'], 'seed')}. At equal distance "
            "from the reference (a point is 0.01 of the probability that a random person prefers the policy's answer; "
            f"brackets are 95% intervals over seeds):",
            " ".join(lines),
            f"The index that MallowsPO reads off the reference ranks the prompts by how much people agree with a rank "
            f"correlation of {interval_text(correlation)} with the truth.",
        ]
    )


def _count(items: Sequence[object], word: str) -> str:
    return f"{len(items)} {word}{'' if len(items) == 1 else 's'}"


def _question() -> Section:
    text = (
        "Preference fine-tuning shows a language model pairs of answers and tells it which one a person preferred. "
        "DPO, the usual method, trusts every pair alike. But people agree on some prompts (what is 3 + 4?) and differ "
        "on others (which film for tonight?): a preferred answer to the first tells much, to the second little.\n\n"
        "MallowsPO gives each prompt a *dispersion index* and lets it decide how strongly a pair pulls. The index "
        "comes from the reference model itself: where people differ, a model that has read them is uncertain. Does "
        "that help? Here the truth is known, so that the question has an exact answer."
    )
    terms = [
        (
            "Dispersion φ",
            "Between 0 and 1. People's rankings of the answers scatter around a central one; at φ = 0 all agree with "
            "it, at φ = 1 everybody ranks at random (the Mallows model).",
        ),
        (
            "Index and weight",
            "The estimate of −log φ for a prompt, and the factor w = −2 log φ that it becomes in the loss, scaled to "
            "a mean of 1. A larger weight pulls harder at first and is satisfied sooner.",
        ),
        (
            "MallowsPO-θ and -φ",
            "Two ways in which the index enters the loss: θ multiplies the reward gap by w, φ bends the loss itself "
            "into the Mallows model's choice probability.",
        ),
        ("Reference", "The model before preference tuning. Every method starts from it and is kept close to it."),
        (
            "Agreement",
            "How often a random person prefers the policy's answer to the reference's, computed exactly from all "
            "answers' probabilities; equal answers count half. 50% means: no better than the reference.",
        ),
        (
            "Outside mass",
            "Probability that a model answers with none of the five candidates. *Counted* agreement takes such an "
            "answer of the policy as lost; *renormalised* agreement leaves such answers out, which flatters a policy "
            "that wanders off.",
        ),
        (
            "KL",
            "How far a policy has moved from the reference, over whole answers, in nats. β sets it, but the same β "
            "moves different methods differently far: they are compared at equal KL, not at equal β.",
        ),
    ]
    return Section("What is asked", [Paragraph(text), Definitions(terms)])


def _world(results: Results) -> Section:
    world, reference = results["world"], results["reference"]
    text = (
        f"A prompt asks one of {world['groups']} groups of people one of {world['questions']} questions, such as "
        f"`{literal(results['examples'][0]['prompt'])}`. Each question has {world['candidates']} "
        "possible answers of one to four words and a central ranking of them; question and group together set φ, "
        f"from {format_number(world['phi_low'])} to {format_number(world['phi_high'])}. Each person's own ranking is "
        "drawn from the Mallows model (Kendall's distance). These people wrote the corpus that the reference learned "
        f"from, and they judged the {world['pairs']:,} preference pairs of each seed, one person a pair.\n\n"
        f"The reference is a Llama of {reference['parameters']:,} parameters. On the {world['heldout_prompts']} "
        f"prompts that no model was trained on, its answers are {format_number(reference['excess_nats_heldout'], 3)} "
        f"nats from the people's; {format_number(100 * reference['outside'], 1)}% of its answers are none of the "
        f"candidates. Everything below is measured on these prompts."
    )
    families = Table(
        ["family of questions", "lowest φ", "highest φ"],
        [
            [name, format_number(phi["phi_low"]), format_number(phi["phi_high"])]
            for name, phi in world["families"].items()
        ],
        caption="From questions on which nearly everybody agrees to questions of taste.",
    )
    config = results["config"]
    shown = (
        "One prompt of each family, at its median φ: how often each answer is some person's first choice, and how "
        f"often each model gives it (first seed, β = {sorted(config['betas'])[(len(config['betas']) - 1) // 2]:g}, "
        f"learning rate {config['learning_rates'][0]:g}). Answers stand in the order of the central ranking."
    )
    tables = [_example(row) for row in results["examples"]]
    return Section(
        "The world",
        [Paragraph(text), families],
        [Section("Six prompts to read for oneself", [Paragraph(shown), *tables])],
    )


def _example(row: dict[str, Any]) -> Table:
    order = sorted(range(len(row["candidates"])), key=lambda index: row["center"][index])
    who = ["population", "reference", *METHODS]

    def percent(value: float) -> str:
        return f"{format_number(100 * value, 1)}%"

    rows = [[row["candidates"][index], *(percent(row[name][index]) for name in who)] for index in order]
    rows.append(["(anything else)", *(percent(max(0.0, 1 - sum(row[name]))) for name in who)])
    return Table(
        [row["prompt"], *(label(name) for name in who)],
        rows,
        caption=f"Among these people φ = {format_number(row['phi'])}.",
    )


def _index(results: Results, figures: Figures) -> Section:
    text = (
        "For each training prompt the reference reads both answers of its pairs; the mean entropy of its next-token "
        "distribution, relative to the largest possible, is the estimate (the paper's released code does the same). "
        "Each point below is one training prompt."
    )
    estimated, true = (results["index"][f"{name}_neg_log_phi_p"] for name in ("estimated", "true"))
    picture = Figure(
        figures["index"].svg,
        "Scatter plot of the estimated against the true −log φ, one point per training prompt, by family.",
        f"Mind the scales: the estimates run from {format_number(min(estimated))} to {format_number(max(estimated))}, "
        f"the truth from {format_number(min(true))} to {format_number(max(true))}.",
    )
    return Section(
        "Does the reference know where people differ?",
        [Paragraph(text), picture, BulletList(index_sentences(results))],
    )


def _who_wins(results: Results, figures: Figures) -> Section:
    config = results["config"]
    reference = results["reference"]
    text = (
        "Each method was trained at every β and learning rate. For each seed, its agreement is read along its own "
        "line of agreement against KL (for each KL at the better of the learning rates), and compared with DPO's over "
        "the range of KL that both reach. A difference counts only where its interval leaves out 0."
    )
    rows = []
    for method in CHALLENGERS:
        row = found(results, method, "agreement")
        cells = [points(found(results, method, quantity)["difference"]) for quantity in GROUPS]
        kl = f"{format_number(number(row['kl_low']), 3)}–{format_number(number(row['kl_high']), 3)}"
        renormalised = points(found(results, method, "agreement_renormalised")["difference"])
        rows.append([label(method), *cells, renormalised, kl, verdict_word(row)])
    header = [
        "method",
        *(group.lower() for group in GROUPS.values()),
        "all, renormalised",
        "KL (nats)",
        "over all prompts",
    ]
    terciles = [f"{format_number(low)}–{format_number(high)}" for low, high in results["world"]["tercile_phi"]]
    body: list[Block] = [
        Paragraph(text),
        Figure(
            figures["differences"].svg,
            "Differences of agreement from DPO at equal KL with 95% intervals, by method and third of the prompts.",
            f"The thirds by true φ: {', '.join(terciles)}. Right of zero is better than DPO.",
        ),
        Table(
            header,
            rows,
            caption="Agreement minus DPO's at equal KL, in points, with 95% intervals over seeds.",
        ),
        BulletList([tercile_sentence(results, method) for method in CHALLENGERS]),
    ]
    if len(config["learning_rates"]) > 1:
        body.append(Paragraph("Over all prompts, at each learning rate on its own:"))
        body.append(BulletList([rate_sentence(results, method) for method in CHALLENGERS]))
    body.append(
        Paragraph(
            f"The reference against itself has a counted agreement of "
            f"{format_number(100 * reference['agreement'], 2)}%: what a policy adds is counted from there."
        )
    )
    return Section("Who wins, and where", body)


def _frontier(results: Results, figures: Figures) -> Section:
    config = results["config"]
    text = (
        "What each method gains against how far it has moved, mean over seeds. The plain line is the exact optimum: "
        "no policy whatever lies above it. A method's share of the optimum is its gain over the reference, divided by "
        "the optimum's at the same KL. A line that falls to the right is a method driven too hard: it loses answers "
        "to the outside faster than it gains agreement."
    )
    pictures: list[Block] = [
        Figure(
            figures[f"frontier_{index}"].svg,
            f"Agreement against KL for every method at learning rate {rate:g}, with the exact optimum above.",
            f"Learning rate {rate:g}.",
        )
        for index, rate in enumerate(config["learning_rates"])
    ]
    rows = [
        [
            f"{row['learning_rate']:g}",
            label(row["method"]),
            f"{row['beta']:g}",
            interval_text(row["agreement"], scale=100),
            interval_text(row["agreement_renormalised"], scale=100),
            interval_text(row["outside"], 1, scale=100),
            interval_text(row["kl"], 3),
            interval_text(row["share_of_optimum"], 0, scale=100),
        ]
        for row in results["settings"]
    ]
    header = [
        "learning rate", "method", "β", "agreement, %", "renormalised, %", "outside, %", "KL, nats",
        "share of optimum, %",
    ]  # fmt: skip
    settings = Table(
        header, rows, caption="Every setting, mean over seeds with 95% intervals. Rows of equal β differ in KL."
    )
    return Section(
        "How far, and at what price",
        [Paragraph(text), *pictures],
        [Section("All settings", [settings, _settings_by_third(results)])],
    )


def _settings_by_third(results: Results) -> Table:
    groups = [group.lower() for group in list(GROUPS.values())[1:]]
    rows = []
    for row in results["settings"]:
        cells = [
            interval_text(row[name][tercile], scale=100)
            for tercile in range(3)
            for name in ("agreement_by_tercile", "agreement_renormalised_by_tercile")
        ]
        rows.append([f"{row['learning_rate']:g}", label(row["method"]), f"{row['beta']:g}", *cells])
    header = ["learning rate", "method", "β"]
    for group in groups:
        header += [f"{group}, %", f"{group}, renormalised, %"]
    return Table(header, rows, caption="Agreement by third of the prompts, mean over seeds with 95% intervals.")


def _diversity(results: Results, figures: Figures) -> Section:
    config = results["config"]
    people = number(results["population"]["entropy_by_tercile"][2])
    reference = number(results["reference"]["entropy_by_tercile"][2])
    text = (
        "Where people differ, a model that always gives one answer serves few of them. On the most contested third "
        f"of the prompts the people's first choices have an entropy of {format_number(people, 3)} nats, the "
        f"reference's answers {format_number(reference, 3)}. Preference tuning lowers it; at equal KL:"
    )
    pictures: list[Block] = [
        Figure(
            figures[f"diversity_{index}"].svg,
            f"Entropy of the answers on contested prompts against KL at learning rate {rate:g}, with people and "
            "reference.",
            f"Learning rate {rate:g}. Higher is more diverse.",
        )
        for index, rate in enumerate(config["learning_rates"])
    ]
    sentences = BulletList([diversity_sentence(results, method) for method in CHALLENGERS])
    return Section("Diversity where people differ", [Paragraph(text), sentences, *pictures])


def _limits(results: Results) -> list[Block]:
    config = results["config"]
    rates = " and ".join(f"{rate:g}" for rate in config["learning_rates"])
    return [
        Paragraph("What this study cannot say:"),
        BulletList(
            [
                "It is one small world and one reference: the intervals cover other pairs and other orders of "
                "training, not other worlds. A real model's entropy also reflects style, of which this "
                "language has none.",
                "Each interval stands on its own. Among as many as are shown, about one in twenty leaves out 0 by "
                "chance.",
                f"Nothing was tuned towards a winner: learning rates ({rates}), epochs ({config['epochs']}) and the "
                f"range of β were fixed on plain DPO alone, and no setting was picked after the fact: every "
                f"comparison uses all of them.",
            ]
        ),
        Callout(
            "note",
            "The methods share pairs, order of training, number of steps and learning rates. Only the loss differs.",
        ),
    ]


def _next_steps(results: Results) -> Section:
    text = (
        "The reference model and the first seed's pairs lie beside this page, in the layouts of Hugging Face and TRL. "
        "They make a first run of one's own:"
    )
    command = (
        "mallowspo train --model_name_or_path reference --dataset_name preferences.jsonl --objective mallows_theta "
        f"\\\n    --beta {results['config']['betas'][0]:g} --learning_rate {results['config']['learning_rates'][0]:g} "
        "\\\n    --use_cpu true --bf16 false --output_dir trained"
    )
    return Section("Go on from here", [Paragraph(text), CodeBlock(command, "In the folder of this page.")])
