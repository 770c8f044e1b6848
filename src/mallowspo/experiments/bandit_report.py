"""The page of the bandit study: what was asked, how, what came out in each regime, what that allows to conclude."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mallowspo.experiments.bandit_config import METHODS, TRAINED
from mallowspo.experiments.bandit_figures import (
    draw_figures,
    frontier_jobs,
    kind_name,
    population_name,
    trajectory_jobs,
)
from mallowspo.experiments.bandit_tables import (
    beta_table,
    exact_table,
    index_table,
    scorecard,
    settings_table,
    training_table,
)
from mallowspo.experiments.bandit_verdicts import REGIMES, settings
from mallowspo.experiments.bandit_words import (
    collapse_facts,
    exactness_sentence,
    overall,
    regime_sentences,
    scale_sentence,
    thirds_sentences,
)
from mallowspo.reports.figures import FigurePaths
from mallowspo.reports.html import (
    Block,
    BulletList,
    Callout,
    Definitions,
    Figure,
    Paragraph,
    Report,
    Section,
    current_meta,
    format_duration,
    write_report,
)

__all__ = ["LIMITS", "QUESTION", "write_bandit_report"]

Results = dict[str, Any]
Figures = dict[str, FigurePaths]

QUESTION = (
    "A policy trained on a few preference pairs tends to put all of its probability on one answer, although people "
    "differ: *reward collapse*. The paper claims that MallowsPO mitigates it, and shows so on bandits. Here the "
    "claim is taken apart: with one state or many, at the exact minimiser of the loss or after as many optimiser "
    "steps as people train, with the true dispersion or an estimated one, at the same scale and at equal KL."
)

WHY = (
    "What the weight does to many states: agreement is a reward whose differences are large where people agree and "
    "small where they differ, so that the best policy for a given KL spends it on the agreed states, and so does DPO. "
    "With the true φ the optimum of φ lies equally far from the reference in every state, and that of θ nearly so: at "
    "equal KL they spend more of it on the contested states."
)

LIMITS = [
    "A policy of a bandit has a parameter for every answer: nothing is learnt in one state for another, and no "
    "answer is longer than another. Whether the findings carry over to language models is what the other studies ask.",
    "People follow a Mallows model with Kendall's distance, as φ's link assumes; θ's link belongs to another "
    "distance. That favours φ.",
    "With a uniform reference its entropy is the same in every state and says nothing of φ. φ is estimated from the "
    "training pairs (most likely centre and φ), or from votes on one more pair of each state, whose formula takes the "
    "two answers for neighbours in rank.",
    "Adam's settings are two learning rates, one batch size and no schedule, fixed on DPO. Intervals are 95% over "
    "seeds, each for itself: of 20 that hold nothing but chance, one leaves out 0.",
    "Everything is exact but the draw of the pairs, so that differences of hundredths of a point are told apart from "
    "0. They are real and too small to matter. Below 0.002 points, the error of reading lines by straight pieces, "
    "they count as none.",
    "φ's loss is not convex around a gap of 0, where it is smoothed: its minimiser is the lowest of four starts, "
    "certified as stationary, not as global.",
]


def write_bandit_report(folder: Path, results: Results) -> None:
    """Write `report.html` and its figures.

    Args:
        folder: Where to write; figures go into its folder `figures`.
        results: The findings, as read from `results.json`.
    """
    figures = draw_figures(folder / "figures", results)
    rows = list(settings(results))
    sections = [
        _question(results),
        _exact(results, figures, rows),
        _training(results, figures, rows),
        Section(
            "What to conclude", [BulletList([overall(results, regime) for regime in REGIMES]), BulletList(LIMITS)]
        ),
    ]
    design = results["config"]["design"]
    meta = current_meta(
        extra={
            "Seeds": f"from {design['first_seed']}; {design['seeds']} at the exact minimiser, "
            f"{design['training_seeds']} trained on",
            "Processor time": format_duration(results["processor_seconds"]),
        },
    )
    title = "Bandit: does MallowsPO mitigate reward collapse?"
    write_report(folder / "report.html", Report(title, _summary(results), sections, meta))


def _summary(results: Results) -> str:
    return "\n\n".join(
        [
            "The paper claims that MallowsPO mitigates the collapse of DPO's policies onto one answer. By regime:",
            *[overall(results, regime) for regime in REGIMES],
        ]
    )


def _question(results: Results) -> Section:
    design = results["config"]["design"]
    method = (
        f"A state has {design['arms']} arms. People's rankings of them follow a Mallows model with dispersion φ; a "
        "pair of arms is drawn evenly and judged by one person. The policy is a softmax, the reference uniform: the "
        "loss is a function of the pairs' counts, and everything that is said of a policy is computed exactly from "
        "its probabilities. Under one seed all methods see the same pairs in the same order; differences are taken "
        "seed by seed."
    )
    scale = (
        "*One state.* θ multiplies the gap by w = −2 log φ, and so does β: with one state θ *is* DPO at another β. "
        "It is therefore compared at matched scale, where θ with the true φ and DPO are the same function, and at "
        "equal KL. With a uniform reference the KL of one state is log K less the entropy: there, more entropy and "
        "less movement are the same thing, and at equal KL all methods have the same entropy. φ estimated from the "
        "training pairs is another matter: it comes out smaller where the pairs happen to look unanimous, which "
        "makes the weight larger and the policy move less just there. *Many states* of different φ are where the "
        "weight does something of its own."
    )
    terms = [
        ("Matched scale", scale_sentence(results)),
        (
            "Entropy below own optimum",
            "How much entropy the policy lacks against its own objective's optimum on infinitely many pairs, in nats: "
            "collapse that comes from having few pairs, or from steps. Below 0 it has not yet moved as far.",
        ),
        ("Collapsed", "Largest probability above 0.99."),
        (
            "Agreement",
            "Probability that a random person prefers the policy's answer to the reference's; equal ones half.",
        ),
        ("Regret", "Probability that a random person prefers the best arm to the policy's answer, less ½; 0 is best."),
        ("KL", f"From the uniform reference, nats, mean over states; at most log K = {math.log(design['arms']):.3f}."),
    ]
    return Section(
        "What is asked, and how", [Paragraph(QUESTION), Paragraph(method), Paragraph(scale), Definitions(terms)]
    )


def _picture(figures: Figures, name: str, alt: str, caption: str) -> Figure:
    return Figure(figures[name].svg, alt, caption)


def _exact(results: Results, figures: Figures, rows: Sequence[dict[str, Any]]) -> Section:
    text = (
        "Whether a loss with an unbounded link has a minimiser at all is decided by who was seen to beat whom: if "
        "some arms were never beaten by the rest, the gap between them grows without end. That is read off the pairs "
        "exactly (strongly connected components), and the limit policy is reported. Which arms keep mass in that "
        "limit does not depend on the link, on β or on φ. IPO's squared link always has a finite minimiser."
    )
    body: list[Block] = [
        Paragraph(text),
        BulletList(collapse_facts(results)),
        Paragraph(exactness_sentence(results)),
        scorecard(results, ("single_exact", "many_exact")),
    ]
    populations = list(dict.fromkeys(tuple(job["phis"]) for job in results["exact"]))
    parts = []
    for phis in populations:
        name = f"collapse_{phis[0]:g}" if len(phis) == 1 else "collapse_many"
        regime = "single_exact" if len(phis) == 1 else "many_exact"
        jobs = [job for job in results["exact"] if tuple(job["phis"]) == phis]
        mine = [row for row in rows if row["regime"] == regime and tuple(row["phis"]) == phis]
        blocks: list[Block] = [
            _picture(
                figures,
                name,
                f"Entropy below own optimum against the number of pairs, by method. {population_name(phis)}.",
                "Zero: as diverse as with infinitely many pairs. Mean over data sets with 95% intervals.",
            ),
            exact_table(results, jobs),
            settings_table(results, mine),
            beta_table(results, jobs[0]),
            index_table(jobs),
        ]
        if len(phis) > 1:
            blocks += [Paragraph(WHY), BulletList(thirds_sentences(results))]
            blocks += [
                _picture(
                    figures,
                    f"frontier_{job['pairs']}",
                    f"Agreement against KL at the exact minimiser over β, by method, {job['pairs']} pairs a state.",
                    "Bands are 95% intervals; the plain line is the best that any policy can do.",
                )
                for job in frontier_jobs(results)
            ]
        parts.append(Section(population_name(phis), blocks))
    verdicts = [overall(results, regime) for regime in ("single_exact", "many_exact")]
    return Section("At the exact minimiser", [*body, *[Callout("result", text) for text in verdicts]], parts)


def _training(results: Results, figures: Figures, rows: Sequence[dict[str, Any]]) -> Section:
    design = results["config"]["design"]
    text = (
        f"Adam, minibatches of {design['batch_size']} pairs, up to {design['steps'][-1]} steps from the reference. "
        "*Separate parameters*: one logit for each arm of each state; Adam divides every logit's gradient by its "
        "own size, which takes the weight of a state out of the first steps. *Shared parameters*: a random rotation "
        "of the same logits, so that every parameter serves every state as in a network, and states compete."
    )
    kinds = [overall(results, regime) for regime in ("single_steps", "many_shared", "many_separate")]
    body: list[Block] = [
        Paragraph(text),
        scorecard(results, ("single_steps", "many_shared", "many_separate")),
        *[Callout("result", sentence) for sentence in kinds],
    ]
    parts = []
    for regime in ("single_steps", "many_shared", "many_separate"):
        mine = [row for row in rows if row["regime"] == regime]
        blocks: list[Block] = [BulletList(regime_sentences(results, regime)), settings_table(results, mine)]
        if regime != "single_steps":
            shared = regime == "many_shared"
            blocks += _training_pictures(results, figures, shared)
        blocks.append(training_table(results, regime))
        parts.append(Section(REGIMES[regime], blocks))
    return Section("After so many steps", body, parts)


def _training_pictures(results: Results, figures: Figures, shared: bool) -> list[Block]:
    found: list[Block] = []
    for number, job in enumerate(trajectory_jobs(results)):
        if job["shared"] == shared:
            found.append(
                _picture(
                    figures,
                    f"steps_{number}",
                    f"Entropy of the policies against steps, by method; {kind_name(job['learning_rate'], shared)}.",
                    f"Mean over data sets with 95% intervals; {len(TRAINED)} of {len(METHODS)} methods are trained.",
                )
            )
    return found
