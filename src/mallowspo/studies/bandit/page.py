"""The page of the bandit study and its figures, made from `results.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mallowspo.evaluation.exact import optimal_frontier
from mallowspo.reports.blocks import Block, BulletList, Definitions, Meta, Paragraph, Report, Section, Table
from mallowspo.reports.curves import Curve, FrontierCurve, LineCurve
from mallowspo.reports.figures import frontier_figure, line_figure
from mallowspo.reports.sections import Columns, picture, table
from mallowspo.reports.text import format_duration, format_number, interval_text, points
from mallowspo.stats.intervals import Interval
from mallowspo.studies.bandit.design import METHODS, TRAINED
from mallowspo.studies.bandit.population import Population
from mallowspo.studies.bandit.summary import REGIMES, comparisons, design_of, regime_of
from mallowspo.studies.policies import label

__all__ = ["counted", "figures", "page", "population_name"]

Results = Mapping[str, Any]
Row = Mapping[str, Any]


def _percent(interval: Sequence[float | None], digits: int = 0) -> str:
    return interval_text(interval, digits, scale=100.0)


def counted(words: Mapping[str, int]) -> str:
    """Words and how often they were said."""
    parts = [
        f"{'no significant difference' if word == 'not told apart' else word} in {count}"
        for word, count in sorted(words.items(), key=lambda item: (-item[1], item[0]))
    ]
    parts[0] += f" of {sum(words.values())}"
    return ", ".join(parts)


def population_name(phis: Sequence[float]) -> str:
    """How a reader calls a population."""
    if len(phis) == 1:
        return f"One state, φ = {phis[0]:g}"
    return f"{len(phis)} states, φ from {min(phis):g} to {max(phis):g}"


def _frontier_jobs(results: Results) -> list[Row]:
    """The jobs whose frontiers are drawn: many states, with the fewest and the most pairs."""
    return [job for job in results["exact"] if "line" in job["methods"]["dpo"]]


def _trajectory_jobs(results: Results) -> list[Row]:
    """The jobs whose steps are drawn: many states, fewest pairs; every learning rate and choice of coordinates."""
    return [job for job in results["training"] if "entropy_by_step" in job["methods"]["dpo"]]


def _populations(results: Results) -> list[tuple[float, ...]]:
    return list(dict.fromkeys(tuple(job["phis"]) for job in results["exact"]))


def _collapse_name(phis: Sequence[float]) -> str:
    return f"collapse_{phis[0]:g}".replace(".", "") if len(phis) == 1 else "collapse_many"


def figures(results: Results) -> dict[str, Any]:
    """Draw every figure: `collapse_…` and `frontier_…` at the exact minimiser, `steps_…` in training."""
    found = {_collapse_name(phis): _collapse(results, phis) for phis in _populations(results)}
    found |= {f"frontier_{job['pairs']}": _frontier(results, job) for job in _frontier_jobs(results)}
    found |= {f"steps_{number}": _trajectory(results, job) for number, job in enumerate(_trajectory_jobs(results))}
    return found


def _kind_name(rate: float, shared: bool) -> str:
    """How a reader calls a way of training."""
    return f"{'shared' if shared else 'separate'} parameters, learning rate {rate:g}"


def _drawn(names: Sequence[str]) -> list[str]:
    """Without φ from votes, whose lines lie near the others'."""
    return [name for name in names if METHODS[name].index != "votes"]


def _log_steps(figure: Any, ticks: Sequence[float]) -> Any:
    axes = figure.axes[0]
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(ticks), [f"{tick:,g}" for tick in ticks])
    axes.minorticks_off()
    return figure


def _collapse(results: Results, phis: tuple[float, ...]) -> Any:
    jobs = [job for job in results["exact"] if tuple(job["phis"]) == phis]
    pairs = [job["pairs"] for job in jobs]
    curves = {
        name: LineCurve(pairs, Interval.stack([job["methods"][name]["matched"]["entropy_lost"] for job in jobs]))
        for name in _drawn(list(METHODS))
    }
    figure = line_figure(
        curves,
        x_label="Pairs of each state",
        y_label="Entropy below own optimum (nats)",
        title=f"{population_name(phis)}: exact minimiser",
        zero_line=True,
    )
    return _log_steps(figure, pairs)


def _frontier(results: Results, job: Row) -> Any:
    curves = {}
    for name in _drawn(list(METHODS)):
        line = job["methods"][name]["line"]
        curves[name] = FrontierCurve(x=Interval.stack(line["kl"]), y=Interval.stack(line["agreement"]))
    population = Population(np.asarray(job["phis"]), results["config"]["design"]["arms"])
    uniform = np.full(population.value_pk.shape, -np.log(population.arms))
    best = optimal_frontier(uniform, population.preference_pkk, np.geomspace(1e-3, 1e2, 200))
    return frontier_figure(
        curves,
        optimum=Curve(best.kl, best.agreement),
        title=f"{population_name(job['phis'])}: exact minimiser, {job['pairs']:,} pairs of each",
        x_label="KL from the uniform reference (nats, mean over states)",
    )


def _trajectory(results: Results, job: Row) -> Any:
    steps = design_of(results).steps
    curves = {name: LineCurve(steps, Interval.stack(job["methods"][name]["entropy_by_step"])) for name in TRAINED}
    figure = line_figure(
        curves,
        x_label="Optimiser steps",
        y_label="Entropy of the policy (nats)",
        title=f"{job['pairs']:,} pairs of each state, {_kind_name(job['learning_rate'], job['shared'])}",
    )
    return _log_steps(figure, [step for step in steps if step.bit_count() == 1])


def page(results: Results) -> Report:
    """What the page says."""
    design = results["config"]["design"]
    seeds = (
        f"from {design['first_seed']}; {design['seeds']} at the exact minimiser, {design['training_seeds']} trained on"
    )
    return Report(
        title="Bandit: does MallowsPO mitigate reward collapse?",
        summary=(
            "The paper claims that MallowsPO mitigates the collapse of DPO's policies onto one answer. Counted over "
            "populations, numbers of pairs, learning rates and scales: what the 95% interval of the paired difference "
            "from DPO says."
        ),
        sections=[_question(results), _exact(results), _training(results), Section("Limits", [BulletList(_LIMITS)])],
        meta=Meta(extra={"Seeds": seeds, "Processor time": format_duration(results["processor_seconds"])}),
        verdicts=_scorecard(results, list(REGIMES)),
    )


def _scorecard(results: Results, regimes: Sequence[str]) -> Table:
    rows = [row for row in results["verdicts"] if row["regime"] in regimes]
    return table(
        rows,
        {
            "regime": lambda row: REGIMES[row["regime"]],
            "method": lambda row: label(row["method"]),
            "entropy against DPO's, matched scale": lambda row: counted(row["collapse"]),
            "agreement against DPO's, equal KL": lambda row: counted(row["agreement"]),
        },
    )


def _question(results: Results) -> Section:
    design = results["config"]["design"]
    strength = design_of(results).shown_strength
    many = next(job for job in results["exact"] if len(job["phis"]) > 1)
    betas = ", ".join(
        f"{label(name)} {many['methods'][name]['matched']['beta']:.3g}"
        for name in ("dpo", "ipo", "mallows_theta_true", "mallows_phi_true")
    )
    text = (
        f"A state has {design['arms']} arms. People's rankings of them follow a Mallows model with dispersion φ; a "
        "pair of arms is drawn evenly and judged by one person. The policy is a softmax, the reference uniform: the "
        "loss is a function of the pairs' counts, and everything that is said of a policy is computed exactly from "
        "its probabilities. Under one seed all methods see the same pairs in the same order; differences are taken "
        "seed by seed.\n\n"
        "*One state.* θ multiplies the gap by w = −2 log φ, and so does β: with one state θ *is* DPO at another β. "
        "It is therefore compared at matched scale, where θ with the true φ and DPO are the same function, and at "
        "equal KL. With a uniform reference the KL of one state is log K less the entropy: there, more entropy and "
        "less movement are the same thing, and at equal KL all methods have the same entropy. φ estimated from the "
        "training pairs comes out smaller where the pairs happen to look unanimous, which makes the weight larger and "
        "the policy move less just there. *Many states* of different φ are where the weight does something of its own."
    )
    terms = [
        (
            "Matched scale",
            "A method's own optimum, on infinitely many pairs, has the KL that is named; shown here "
            f"{strength:g} nats, which with many states takes these values of β: {betas}. Verdicts are counted over "
            f"all scales: {', '.join(f'{one:g}' for one in design['strengths'])} nats.",
        ),
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
    return Section("What is asked, and how", [Paragraph(text), Definitions(terms)])


def _exact(results: Results) -> Section:
    text = (
        "Whether a loss with an unbounded link has a minimiser at all is decided by who was seen to beat whom: if "
        "some arms were never beaten by the rest, the gap between them grows without end. That is read off the pairs "
        "exactly (strongly connected components), and the limit policy is reported. Which arms keep mass in that "
        "limit does not depend on the link, on β or on φ. IPO's squared link always has a finite minimiser. φ's loss "
        "is not convex: the lowest of four starts is taken."
    )
    facts: Columns = {
        "population": lambda job: population_name(job["phis"]),
        "pairs": lambda job: f"{job['pairs']:,}",
        "a finite minimiser exists, %": lambda job: format_number(100 * job["facts"]["attained"], 0),
        "all mass on one arm, %": lambda job: _percent(job["facts"]["one_arm"]),
        "several arms unbeaten, %": lambda job: format_number(100 * job["facts"]["open"], 0),
        "φ keeps the same arms": lambda job: "yes" if job["facts"]["same_limits"] else "not always",
        "largest slope left": lambda job: f"{job['facts']['largest_slope']:.1e}",
        "several minima of φ, %": lambda job: format_number(100 * job["facts"]["kendall_several_minima"], 0),
    }
    parts = []
    for phis in _populations(results):
        jobs = [job for job in results["exact"] if tuple(job["phis"]) == phis]
        mine = [row for row in comparisons(results) if row["learning_rate"] is None and tuple(row["phis"]) == phis]
        figure = picture(
            _collapse_name(phis),
            f"Entropy below own optimum against the number of pairs, by method. {population_name(phis)}.",
            "Zero: as diverse as with infinitely many pairs. Mean over data sets with 95% intervals.",
        )
        frontiers = [
            picture(
                f"frontier_{job['pairs']}",
                f"Agreement against KL at the exact minimiser over β, by method, {job['pairs']} pairs a state.",
                "Bands are 95% intervals; the plain line is the best that any policy can do.",
            )
            for job in (_frontier_jobs(results) if len(phis) > 1 else ())
        ]
        tables = [_exact_table(results, jobs), _beta_table(results, jobs[0])]
        tables += [_differences(results, mine)] if len(phis) == 1 else []  # of many states they stand above
        parts.append(Section(population_name(phis), [figure, *tables, _index_table(jobs), *frontiers]))
    body: list[Block] = [Paragraph(text)]
    body.append(table(results["exact"], facts, "What the pairs alone decide, and how exact it is."))
    many = [row for row in comparisons(results) if row["regime"] == "many_exact"]
    body.append(_differences(results, many))
    return Section("At the exact minimiser", body, parts)


def _exact_table(results: Results, jobs: Sequence[Row]) -> Table:
    rows = [(job, name, job["methods"][name]["matched"]) for job in jobs for name in METHODS]
    columns: Columns = {
        "pairs": lambda row: f"{row[0]['pairs']:,}",
        "method": lambda row: label(row[1]),
        "β": lambda row: f"{row[2]['beta']:.3g}",
        "collapsed, %": lambda row: _percent(row[2]["collapsed"]),
        "largest probability": lambda row: interval_text(row[2]["top"]),
        "entropy, nats": lambda row: interval_text(row[2]["entropy"]),
        "below own optimum, nats": lambda row: interval_text(row[2]["entropy_lost"]),
        "agreement": lambda row: interval_text(row[2]["agreement"], 3),
        "regret": lambda row: interval_text(row[2]["regret"], 3),
    }
    strength = design_of(results).shown_strength
    return table(rows, columns, f"Matched scale, KL of the own optimum {strength:g} nats.")


def _setting(row: Row) -> str:
    parts = [population_name(row["phis"])] if len(row["phis"]) == 1 else []
    parts.append(f"{row['pairs']:,} pairs")
    if row["learning_rate"] is not None:
        parts.append(f"learning rate {row['learning_rate']:g}")
    return ", ".join(parts)


def _differences(results: Results, rows: Sequence[Row]) -> Table:
    """Differences from DPO, setting by setting: entropy and collapse at matched scale, the rest at equal KL."""
    early, last = design_of(results).shown_steps
    trained = any(row["early"] for row in rows)
    columns: dict[str, Any] = {"setting": _setting, "method": lambda row: label(row["method"])}
    if trained:
        columns[f"entropy, step {early:,}"] = lambda row: interval_text(row["early"], 3, signed=True)
    columns[f"entropy, step {last:,}" if trained else "entropy, nats"] = lambda row: interval_text(
        row["entropy"], 3, signed=True
    )
    columns |= {
        "collapsed, points": lambda row: interval_text(row["collapsed"], 1, scale=100.0, signed=True),
        "agreement at equal KL, points": lambda row: points(row["equal_kl"]["agreement"]),
        "regret at equal KL, points": lambda row: points(row["equal_kl"]["regret"]),
    }
    if any(len(row["phis"]) > 1 for row in rows):
        columns |= {
            "agreed third, points": lambda row: points(row["equal_kl"]["agreement_agreed"]),
            "contested third, points": lambda row: points(row["equal_kl"]["agreement_contested"]),
            "entropy of the contested third, nats": lambda row: interval_text(
                row["equal_kl"]["entropy_contested"], 3, signed=True
            ),
        }
    columns["seeds compared"] = lambda row: str(row["equal_kl"]["seeds"])
    caption = (
        "Method less DPO, mean of the paired differences with 95% intervals; a point is 0.01. Entropy and collapse at "
        "matched scale; more entropy is less collapse."
    )
    return table(rows, columns, caption)


def _beta_table(results: Results, job: Row) -> Table:
    """Every method at the same plain β, where scales differ."""
    rows = [
        (beta, name, job["methods"][name]["at_beta"][number])
        for number, beta in enumerate(results["config"]["design"]["betas"])
        for name in METHODS
    ]
    columns: Columns = {
        "β": lambda row: f"{row[0]:g}",
        "method": lambda row: label(row[1]),
        "collapsed, %": lambda row: _percent(row[2]["collapsed"]),
        "largest probability": lambda row: interval_text(row[2]["top"]),
        "entropy, nats": lambda row: interval_text(row[2]["entropy"]),
        "entropy less DPO's": lambda row: interval_text(row[2]["minus_dpo"]["entropy"], 3, signed=True),
    }
    caption = (
        f"The same plain β, {job['pairs']:,} pairs: what is compared here is mostly scale. w = −2 log φ is above 1 "
        "for φ < 0.61 and below 1 beyond, so that θ is flatter than DPO on agreed states and more peaked on contested "
        "ones."
    )
    return table(rows, columns, caption)


def _index_table(jobs: Sequence[Row]) -> Table:
    rows = [(job["pairs"], *item) for job in jobs for item in job["facts"]["neg_log_phi"].items()]
    columns: Columns = {
        "pairs": lambda row: f"{row[0]:,}",
        "φ from": lambda row: row[1],
        "mean −log φ̂ of each state": lambda row: ", ".join(map(format_number, row[2]["mean"])),
        "root mean square error": lambda row: format_number(row[2]["rms_error"]),
    }
    return table(rows, columns, "Estimates of −log φ. Votes do not depend on the pairs.")


def _training(results: Results) -> Section:
    design = results["config"]["design"]
    text = (
        f"Adam, minibatches of {design['batch_size']} pairs, up to {design['steps'][-1]} steps from the reference. "
        "*Separate parameters*: one logit for each arm of each state; Adam divides every logit's gradient by its "
        "own size, which takes the weight of a state out of the first steps. *Shared parameters*: a random rotation "
        "of the same logits, so that every parameter serves every state as in a network, and states compete."
    )
    parts = []
    for regime in ("single_steps", "many_shared", "many_separate"):
        mine = [row for row in comparisons(results) if row["regime"] == regime]
        shown = [] if regime == "many_shared" else [_differences(results, mine)]
        pictures = [
            picture(
                f"steps_{number}",
                "Entropy of the policies against steps, by method; "
                f"{_kind_name(job['learning_rate'], job['shared'])}.",
                f"Mean over data sets with 95% intervals; {len(TRAINED)} of {len(METHODS)} methods are trained.",
            )
            for number, job in enumerate(_trajectory_jobs(results))
            if regime_of(job) == regime
        ]
        parts.append(Section(REGIMES[regime], [*shown, *pictures, _training_table(results, regime)]))
    many = [row for row in comparisons(results) if row["regime"] == "many_shared"]
    return Section("After so many steps", [Paragraph(text), _differences(results, many)], parts)


def _training_table(results: Results, regime: str) -> Table:
    rows = [
        (job, step, name, job["methods"][name]["at_steps"][number])
        for job in results["training"]
        if regime_of(job) == regime
        for number, step in enumerate(design_of(results).shown_steps)
        for name in TRAINED
    ]
    columns: Columns = {
        "population": lambda row: population_name(row[0]["phis"]),
        "pairs": lambda row: f"{row[0]['pairs']:,}",
        "learning rate": lambda row: f"{row[0]['learning_rate']:g}",
        "step": lambda row: f"{row[1]:,}",
        "method": lambda row: label(row[2]),
        "collapsed, %": lambda row: _percent(row[3]["collapsed"], 1),
        "largest probability": lambda row: interval_text(row[3]["top"]),
        "entropy, nats": lambda row: interval_text(row[3]["entropy"], 3),
        "agreement": lambda row: interval_text(row[3]["agreement"], 3),
        "regret": lambda row: interval_text(row[3]["regret"], 3),
    }
    return table(rows, columns, "Mean over data sets with 95% intervals, matched scale.")


_LIMITS = (
    "A policy of a bandit has a parameter for every answer: nothing is learnt in one state for another, and no "
    "answer is longer than another. Whether the findings carry over to language models is what the other studies ask.",
    "People follow a Mallows model with Kendall's distance, as φ's link assumes; θ's link belongs to another "
    "distance. That favours φ.",
    "With a uniform reference its entropy is the same in every state and says nothing of φ. φ is estimated from the "
    "training pairs (most likely centre and φ), or from votes on one more pair of each state, whose formula takes the "
    "two answers for neighbours in rank.",
    "Adam's settings are two learning rates, one batch size and no schedule, fixed on DPO. Intervals are 95% over "
    "seeds, each for itself: of 20 that hold nothing but chance, one leaves out 0.",
    "Everything is exact but the draw of the pairs, so that differences of hundredths of a point are significant. "
    "They are real and too small to matter. Below 0.002 points, the error of reading lines by straight pieces, they "
    "count as none.",
    "φ's loss is not convex around a gap of 0, where it is smoothed: its minimiser is the lowest of four starts, "
    "certified as stationary, not as global.",
)
