"""The tables of the bandit study's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mallowspo.experiments.bandit_config import METHODS, TRAINED
from mallowspo.experiments.bandit_figures import population_name
from mallowspo.experiments.bandit_verdicts import REGIMES, design_of, regime_of
from mallowspo.experiments.bandit_words import counted, interval_text, label, percent, points, setting_name
from mallowspo.reports.html import Table
from mallowspo.reports.text import format_number

__all__ = ["beta_table", "exact_table", "index_table", "scorecard", "settings_table", "training_table"]

Results = dict[str, Any]
Job = dict[str, Any]


def scorecard(results: Results, regimes: Sequence[str]) -> Table:
    """How often each method is less or more collapsed than DPO, and ahead or behind, by regime."""
    rows = [
        [
            REGIMES[row["regime"]],
            label(row["method"]),
            counted(row["collapse"]),
            counted(row["agreement"]),
        ]
        for row in results["verdicts"]
        if row["regime"] in regimes
    ]
    return Table(
        ["regime", "method", "entropy against DPO's, matched scale", "agreement against DPO's, equal KL"],
        rows,
        caption="Counts of settings (populations, numbers of pairs, learning rates, matched scales) by what the 95% "
        "interval of the paired difference says.",
        align="llll",
    )


def exact_table(results: Results, jobs: Sequence[Job]) -> Table:
    """Every method at the matched scale of the figures, by number of pairs."""
    rows = []
    for job in jobs:
        for name in METHODS:
            found = job["methods"][name]["matched"]
            rows.append(
                [
                    f"{job['pairs']:,}",
                    label(name),
                    f"{found['beta']:.3g}",
                    percent(found["collapsed"]),
                    interval_text(found["top"]),
                    interval_text(found["entropy"]),
                    interval_text(found["entropy_lost"]),
                    interval_text(found["agreement"], 3),
                    interval_text(found["regret"], 3),
                ]
            )
    header = [
        "pairs", "method", "β", "collapsed, %", "largest probability", "entropy, nats", "below own optimum, nats",
        "agreement", "regret",
    ]  # fmt: skip
    return Table(
        header, rows, caption=f"Matched scale, KL of the own optimum {design_of(results).shown_strength:g} nats."
    )


def settings_table(results: Results, rows: Sequence[dict[str, Any]]) -> Table:
    """Differences from DPO, setting by setting: entropy and collapse at matched scale, the rest at equal KL."""
    many = any(len(row["phis"]) > 1 for row in rows)
    trained = any(row["early"] for row in rows)
    early, last = design_of(results).shown_steps
    header = ["setting", "method", *([f"entropy, step {early:,}"] if trained else [])]
    header += [f"entropy, step {last:,}" if trained else "entropy, nats", "collapsed, points"]
    header += ["agreement at equal KL, points", "regret at equal KL, points"]
    if many:
        header += ["agreed third, points", "contested third, points", "entropy of the contested third, nats"]
    header.append("seeds compared")
    cells = []
    for row in rows:
        equal = row["equal_kl"]
        line = [setting_name(row), label(row["method"])]
        line += [interval_text(row["early"], 3, signed=True)] if trained else []
        line += [interval_text(row["entropy"], 3, signed=True), points(row["collapsed"], 1)]
        line += [points(equal["agreement"]), points(equal["regret"])]
        if many:
            line += [points(equal["agreement_agreed"]), points(equal["agreement_contested"])]
            line.append(interval_text(equal["entropy_contested"], 3, signed=True))
        cells.append([*line, str(equal["seeds"])])
    return Table(
        header,
        cells,
        caption="Method less DPO, mean of the paired differences with 95% intervals; a point is 0.01. Entropy and "
        "collapse at matched scale; more entropy is less collapse.",
    )


def beta_table(results: Results, job: Job) -> Table:
    """Every method at the same plain β, where scales differ."""
    rows = []
    for number, beta in enumerate(design_of(results).betas):
        for name in METHODS:
            found = job["methods"][name]["at_beta"][number]
            rows.append(
                [
                    f"{beta:g}",
                    label(name),
                    percent(found["collapsed"]),
                    interval_text(found["top"]),
                    interval_text(found["entropy"]),
                    interval_text(found["minus_dpo"]["entropy"], 3, signed=True),
                ]
            )
    return Table(
        ["β", "method", "collapsed, %", "largest probability", "entropy, nats", "entropy less DPO's"],
        rows,
        caption=f"The same plain β, {job['pairs']:,} pairs: what is compared here is mostly scale. w = −2 log φ is "
        "above 1 for φ < 0.61 and below 1 beyond, so that θ is flatter than DPO on agreed states and more peaked on "
        "contested ones.",
    )


def index_table(jobs: Sequence[Job]) -> Table:
    """How well φ is estimated."""
    rows = []
    for job in jobs:
        for source, found in job["facts"]["neg_log_phi"].items():
            mean = ", ".join(format_number(value) for value in found["mean"])
            rows.append([f"{job['pairs']:,}", source, mean, format_number(found["rms_error"])])
    return Table(
        ["pairs", "φ from", "mean −log φ̂ of each state", "root mean square error"],
        rows,
        caption=f"{population_name(jobs[0]['phis'])}: estimates of −log φ. Votes do not depend on the pairs.",
        align="rllr",
    )


def training_table(results: Results, regime: str) -> Table:
    """Every trained method at the matched scale of the figures, at an early step and at the end."""
    rows = []
    for job in results["training"]:
        if regime_of(job) != regime:
            continue
        for number, step in enumerate(design_of(results).shown_steps):
            for name in TRAINED:
                found = job["methods"][name]["at_steps"][number]
                rows.append(
                    [
                        population_name(job["phis"]),
                        f"{job['pairs']:,}",
                        f"{job['learning_rate']:g}",
                        f"{step:,}",
                        label(name),
                        percent(found["collapsed"], 1),
                        interval_text(found["top"]),
                        interval_text(found["entropy"], 3),
                        interval_text(found["agreement"], 3),
                        interval_text(found["regret"], 3),
                    ]
                )
    header = [
        "population", "pairs", "learning rate", "step", "method", "collapsed, %", "largest probability",
        "entropy, nats", "agreement", "regret",
    ]  # fmt: skip
    return Table(header, rows, caption="Mean over data sets with 95% intervals, matched scale.")
