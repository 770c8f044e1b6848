"""The page of the controllable-generation study: question, method, result with intervals, verdict and limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mallowspo.experiments.controllable_config import METHODS
from mallowspo.experiments.controllable_figures import draw_figures
from mallowspo.experiments.controllable_words import (
    comparison_sentence,
    conclusions,
    interval_text,
    label,
    number,
    optimum_sentence,
    preference_sentence,
    rate_sentence,
    weight_sentence,
)
from mallowspo.reports.figures import FigurePaths
from mallowspo.reports.html import (
    Block,
    BulletList,
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
from mallowspo.reports.text import format_duration, format_number, format_p

__all__ = ["write_controllable_report"]

Results = dict[str, Any]
Figures = dict[str, FigurePaths]


def write_controllable_report(folder: Path, results: Results) -> None:
    """Write `report.html` and its figures.

    Args:
        folder: Where to write; figures go into its folder `figures`.
        results: The findings, as read from `results.json`.
    """
    figures = draw_figures(folder / "figures", results)
    sections = [
        _question(results),
        _method(results),
        _result(results, figures),
        _settings(results),
        _examples(results),
        Section("Verdict and limits", [BulletList(conclusions(results)), *_limits(results)]),
    ]
    extra = {
        "Training runs": str(len(results["runs"])),
        "Processor time of these runs": format_duration(results["cpu_seconds"]),
        "Device": results["facts"]["device"],
    }
    meta = current_meta(seeds=results["config"]["seeds"], extra=extra)
    title = "Controllable generation: how much reward for how much KL?"
    write_report(folder / "report.html", Report(title, _summary(results), sections, meta))


def _model(results: Results) -> str:
    return Path(results["config"]["design"]["model_name_or_path"]).name


def _summary(results: Results) -> str:
    facts, config = results["facts"], results["config"]
    against_dpo = [row for row in results["comparisons"] if row["baseline"] == "dpo"]
    return "\n\n".join(
        [
            f"`{literal(_model(results))}` ({facts['parameters']:,} parameters) was tuned towards "
            f"{literal(facts['reward'])} by four methods at {len(config['betas'])} strengths each, under "
            f"{len(config['seeds'])} seed{'' if len(config['seeds']) == 1 else 's'}. Expected reward at equal KL from "
            "the reference, with 95% intervals over seeds:",
            " ".join(comparison_sentence(results, row) for row in against_dpo),
        ]
    )


def _question(results: Results) -> Section:
    text = (
        "A policy that is tuned towards a reward gains reward and moves away from where it began. A method is better "
        "than another if it gains more at the same distance. The MallowsPO paper draws this trade-off for sentiment "
        "(GPT-2-large on openings of film reviews) and reports MallowsPO above DPO. Is it so here?"
    )
    terms = [
        (
            "Reward",
            f"{literal(results['facts']['reward'])}, of prompt and response together; the models never see it.",
        ),
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
    return Section("What is asked", [Paragraph(text), Definitions(terms)])


def _method(results: Results) -> Section:
    config = results["config"]
    design, facts = config["design"], results["facts"]
    steps = sorted({run["steps"] for run in results["runs"]})
    betas = ", ".join(f"{beta:g}" for beta in config["betas"])
    ipo = ", ".join(f"{beta:g}" for beta in config["ipo_betas"])
    opening = f", those that begin with `{literal(design['opening'])}`" if design["opening"] else ""
    items = [
        f"Prompts: the first whole words, {design['min_prompt_tokens']} to {design['prompt_tokens']} tokens, of texts "
        f"in `{literal(Path(design['dataset_name']).name)}`{opening}. {facts['heldout_prompts']:,} prompts are held "
        "out for measuring; no pair is made from them.",
        f"Pairs: {preference_sentence(results)} Responses end at {design['response_tokens']} tokens.",
        f"Training: {' to '.join(map(str, steps))} steps of {design['batch_size']} pairs for every run; β is {betas} "
        f"(for IPO, whose β is another quantity, {ipo}). Methods share pairs, their order, steps and learning rate; "
        f"only the loss differs. {rate_sentence(results)}",
        f"Measuring: {design['eval_samples']} responses to each held-out prompt at temperature 1, the same random "
        "numbers for all policies of a seed; reward and KL are read off the same responses.",
        "Comparing: for each seed, the lines of two methods are read over the KL that both reach, even in log KL, and "
        "their difference is averaged. Intervals and paired t tests are over seeds.",
    ]
    return Section("How it was measured", [BulletList(items), Paragraph(weight_sentence(results))])


def _result(results: Results, figures: Figures) -> Section:
    areas = results["areas"]
    body: list[Block] = [
        Figure(
            figures["frontier"].svg,
            "Expected reward against KL for the four methods with bands, and the best possible trade-off above them.",
            "Points are settings of β, mean over seeds; bars and bands are 95% intervals over seeds. The grey level "
            "is the reference's own reward, the grey curve the tilted reference.",
        ),
        Paragraph(
            f"The reference has an expected reward of {interval_text(results['reference']['reward'])}. "
            f"{optimum_sentence(results)}"
        ),
        Table(
            ["method", "area under the frontier", *(f"seed {seed}" for seed in results["config"]["seeds"])],
            [
                [
                    label(method),
                    interval_text(areas["methods"][method]["interval"]),
                    *(format_number(number(value), 3) for value in areas["methods"][method]["per_seed"]),
                ]
                for method in METHODS
            ],
            caption="Area divided by the width, which is the mean reward over the KL that all methods reach under a "
            f"seed, even in log KL: on average {format_number(number(areas['kl_low']))} to "
            f"{format_number(number(areas['kl_high']))} nats.",
        ),
        _pairwise(results),
        BulletList([comparison_sentence(results, row) for row in results["comparisons"]]),
    ]
    if "differences" in figures:
        body.append(
            Figure(
                figures["differences"].svg,
                "Differences of expected reward from DPO at single KLs with 95% intervals.",
                "At single KLs, where every method has a value. Right of zero is better than DPO.",
            )
        )
    return Section("What came out", body)


def _pairwise(results: Results) -> Table:
    rows = [
        [
            f"{label(row['method'])} − {label(row['baseline'])}",
            interval_text(row["difference"], signed=True),
            format_p(number(row["p"]), name=""),
            format_p(number(row["p_holm"]), name=""),
            f"{format_number(number(row['kl_low']))}–{format_number(number(row['kl_high']))}",
        ]
        for row in results["comparisons"]
    ]
    return Table(
        ["at equal KL", "difference of reward", "p", "p, Holm", "KL (nats)"],
        rows,
        caption="Every two methods: paired over seeds, 95% intervals, p-values of paired t tests, alone and after "
        f"Holm's method over the {len(rows)} comparisons.",
    )


def _settings(results: Results) -> Section:
    rows = [
        [
            label(row["method"]),
            f"{row['beta']:g}",
            interval_text(row["reward"]),
            format_number(number(row["reward_standard_error"]["mean"]), 3),
            interval_text(row["kl"], 2),
            format_number(number(row["kl_standard_error"]["mean"])),
            format_number(number(row["tokens_per_response"]["mean"]), 1),
        ]
        for row in results["settings"]
    ]
    header = ["method", "β", "reward", "s.e.", "KL, nats", "s.e.", "tokens"]
    caption = (
        "Mean over seeds with 95% intervals over seeds; s.e. is the standard error of one seed's measurement by "
        "sampling, over prompts."
    )
    return Section("All settings", [Table(header, rows, caption=caption)])


def _examples(results: Results) -> Section:
    shown = results["examples"]

    def who(answer: dict[str, Any]) -> str:
        if answer["beta"] is None:
            return "Reference"
        return f"{label(answer['method'])}, β {answer['beta']:g}, KL {format_number(number(answer['kl']), 1)}"

    answers = [(who(answer), answer["text"]) for answer in shown["answers"]]
    note = "The first held-out prompt and the first response to it under the first seed: nobody has picked them."
    return Section("To read for oneself", [Examples([Example(shown["prompt"], answers)], caption=note)])


def _limits(results: Results) -> list[Block]:
    design = results["config"]["design"]
    items = [
        "One model, one set of texts, one reward: the intervals cover other pairs, orders of training and draws, not "
        "other models or tasks.",
        "A reward by a lexicon or a classifier is no person. What a policy gains on it may be words that score well: "
        "read the examples.",
        f"Responses are cut at {design['response_tokens']} tokens; reward and KL are those of the cut responses.",
        "The lines are read by interpolation between a few settings of β, linear in log KL.",
        "The tilted reference is an estimate from samples; it ends where too few of them carry the weight.",
    ]
    if design["preferences"] == "sign":
        items.append(
            "The preferences have no noise: two responses are always compared the same way. Disagreement within a "
            "prompt, which MallowsPO is made for, enters only through how near the rewards of its responses lie."
        )
    return [Paragraph("What this study cannot say:"), BulletList(items)]
