"""The page of the bandit study and its figures, made from `results.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mallowspo.reports.blocks import Definitions, Meta, Report, Section, Table
from mallowspo.reports.figure_style import OPTIMUM_STYLES
from mallowspo.reports.figures import Curve, frontier_figure, line_figure
from mallowspo.reports.sections import Columns, picture, table
from mallowspo.reports.text import format_duration, format_number
from mallowspo.stats.intervals import Interval
from mallowspo.studies import pages
from mallowspo.studies.bandit.bench import METHODS, TRAINED
from mallowspo.studies.bandit.population import READ_AT, YARDSTICKS
from mallowspo.studies.bandit.summary import REGIMES, comparisons, design_of, regime_of
from mallowspo.studies.pages import Results, Row
from mallowspo.studies.policies import BASELINE, THIRDS, grouped, label

__all__ = ["counted", "figures", "page", "population_name"]


def counted(words: Mapping[str, int]) -> str:
    """Words and how often they were said."""
    if not words:
        return "–"
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


def _populations(results: Results) -> dict[tuple[float, ...], list[Row]]:
    """The exact jobs of each population."""
    return grouped(results["exact"], lambda job: tuple(job["phis"]))


def _collapse_name(phis: Sequence[float]) -> str:
    return f"collapse_{phis[0]:g}".replace(".", "") if len(phis) == 1 else "collapse_many"


# Without the indexes from votes, and φ and √w from pairs, whose lines lie near the others'.
_DRAWN = ("dpo", "ipo", "mallows_theta_true", "theta_true_50", "mallows_theta_pairs", "mallows_phi_true")

_MEASURED: Columns = {name: pages.interval(name, 3) for name in ("consensus", "agreement", "regret")}
_DRAWN_YARDSTICKS = {"consensus": "Consensus value", "agreement": "Agreement with a random person"}


def figures(results: Results) -> dict[str, Any]:
    """Draw every figure: `lead_…`, `frontier_…` and `collapse_…` at the exact minimiser, `steps_…` in training."""
    found = {f"lead_{name}": _lead(results, name) for name in _DRAWN_YARDSTICKS}
    found |= {_collapse_name(phis): _collapse(phis, jobs) for phis, jobs in _populations(results).items()}
    found |= {
        f"frontier_{name}_{job['pairs']}": _frontier(results, job, name)
        for job in _frontier_jobs(results)
        for name in _DRAWN_YARDSTICKS
    }
    found |= {f"steps_{number}": _trajectory(results, job) for number, job in enumerate(_trajectory_jobs(results))}
    return found


def _kind_name(job: Row) -> str:
    """How a reader calls a way of training."""
    return f"{'shared' if job['shared'] else 'separate'} parameters, learning rate {job['learning_rate']:g}"


def _collapse(phis: tuple[float, ...], jobs: Sequence[Row]) -> Any:
    pairs = [job["pairs"] for job in jobs]
    lost = {name: [job["methods"][name]["matched"]["entropy_lost"] for job in jobs] for name in _DRAWN}
    return line_figure(
        {name: Curve(pairs, Interval.stack(values)) for name, values in lost.items()},
        x_label="Pairs of each state",
        y_label="Entropy below own optimum (nats)",
        title=f"{population_name(phis)}: exact minimiser",
        zero_line=True,
        doublings=True,
    )


def _lead(results: Results, quantity: str) -> Any:
    jobs = [job for job in results["exact"] if regime_of(job) == "many_exact"]
    pairs = [job["pairs"] for job in jobs]
    leads = {name: [job["methods"][name]["equal_kl"][quantity] for job in jobs] for name in _DRAWN if name != BASELINE}
    return line_figure(
        {name: Curve(pairs, Interval.stack(lead, scale=100.0)) for name, lead in leads.items()},
        x_label="Pairs of each state",
        y_label="At equal KL, minus DPO's (points)",
        title=f"{_DRAWN_YARDSTICKS[quantity]}, {population_name(jobs[0]['phis'])}: exact minimiser",
        zero_line=True,
        doublings=True,
    )


def _frontier(results: Results, job: Row, quantity: str) -> Any:
    curves = {}
    for name in _DRAWN:
        line = job["methods"][name]["line"]
        curves[name] = Curve(Interval.stack(line["kl"]), Interval.stack(line[quantity]))
    for name in OPTIMUM_STYLES:
        best = results["infinite"][name]
        curves[name] = Curve(best["kl"], best[quantity])
    return frontier_figure(
        curves,
        title=f"{population_name(job['phis'])}: exact minimiser, {job['pairs']:,} pairs of each",
        x_label="KL from the uniform reference (nats, mean over states)",
        y_label=_DRAWN_YARDSTICKS[quantity],
        styles=OPTIMUM_STYLES,
    )


def _trajectory(results: Results, job: Row) -> Any:
    steps = design_of(results).steps
    curves = {name: Curve(steps, Interval.stack(job["methods"][name]["entropy_by_step"])) for name in TRAINED}
    return line_figure(
        curves,
        x_label="Optimiser steps",
        y_label="Entropy of the policy (nats)",
        title=f"{job['pairs']:,} pairs of each state, {_kind_name(job)}",
        doublings=True,
    )


def page(results: Results) -> Report:
    """What the page says."""
    design = results["config"]["design"]
    seeds = (
        f"from {design['first_seed']}; {design['seeds']} at the exact minimiser, {design['training_seeds']} trained on"
    )
    verdicts: Columns = {
        "regime": lambda row: REGIMES[row["regime"]],
        "method": pages.METHOD,
        "entropy against DPO's, matched scale": lambda row: counted(row["collapse"]),
        "consensus against DPO's, equal KL": lambda row: counted(row["consensus"]),
        "agreement against DPO's, equal KL": lambda row: counted(row["agreement"]),
    }
    return Report(
        title="Bandit: what does MallowsPO gain, and does it mitigate reward collapse?",
        summary=(
            "MallowsPO serves the consensus, the order that all people share; a random person's agreement is another "
            "yardstick. The paper also claims that it mitigates the collapse of DPO's policies onto one answer. "
            "Counted over populations, numbers of pairs, learning rates and scales is what the 95% interval of the "
            "paired difference from DPO says."
        ),
        sections=[
            _question(results),
            _gains(results),
            _exact(results),
            _training(results),
            pages.limits(results, *_LIMITS),
        ],
        meta=Meta(extra={"Seeds": seeds, "Processor time": format_duration(results["processor_seconds"])}),
        verdicts=table(results["verdicts"], verdicts),
    )


def _question(results: Results) -> Section:
    design, strength = results["config"]["design"], design_of(results).shown_strength
    many = next(job for job in results["exact"] if len(job["phis"]) > 1)["methods"]
    betas = ", ".join(
        f"{label(name)} {many[name]['matched']['beta']:.3g}"
        for name in ("dpo", "ipo", "mallows_theta_true", "mallows_phi_true")
    )
    text = (
        f"A state has {design['arms']} arms, of which people have rankings from a Mallows model; a pair of arms is "
        "drawn evenly and judged by one person, the policy is a softmax and the reference uniform. Under one seed all "
        "methods see the same pairs in the same order; differences are taken seed by seed."
    )
    terms = [
        (
            "One state, many states",
            "θ multiplies the gap by w = −2 log φ, and so does β: with one state θ *is* DPO at another β, and is "
            "compared at matched scale and at equal KL. Many states of different φ are where the weight does "
            "something of its own. φ estimated from the training pairs comes out smaller where these happen to look "
            "unanimous.",
        ),
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
            "Consensus value",
            "The answer's place in the centre: 1 for its best arm, 0 for its worst, even steps between; what a true "
            "reward or a judge that knows the centre stands for. The best policy at a KL is π ∝ exp(value/τ).",
        ),
        ("Top-1", "Probability of the centre's best arm."),
        (
            "Order",
            "Share of the pairs of arms that the implicit reward β log(π/π_ref) puts in the centre's order; equal "
            "ones, or both of probability 0, half. It does not depend on β at the exact minimiser.",
        ),
        (
            "Agreement",
            "Probability that a random person prefers the policy's answer to the reference's; equal ones half.",
        ),
        ("Regret", "Probability that a random person prefers the best arm to the policy's answer, less ½; 0 is best."),
        (
            "KL",
            f"From the uniform reference, nats, mean over states; at most log K = {math.log(design['arms']):.3f}. In "
            "one state it is log K less the entropy: more entropy and less movement are the same thing.",
        ),
    ]
    return pages.text_section("What is asked, and how", text, Definitions(terms))


def _gains(results: Results) -> Section:
    text = (
        "Both yardsticks at equal KL. On infinitely many pairs the theory is exact (`docs/theory.md`): MallowsPO-φ "
        "with the true φ is the optimum of consensus, MallowsPO-θ nearly so, and IPO is that of agreement. √w is θ "
        "with the weight to the power ½ (`dispersion_power`)."
    )
    limit = [
        {"method": name, "read": read, **{key: found["minus_dpo"][key][place] for key in YARDSTICKS}}
        for name, found in results["infinite"].items()
        if name not in (BASELINE, *OPTIMUM_STYLES)
        for place, read in enumerate(READ_AT)
    ]
    points: Columns = {
        "method": pages.METHOD,
        "KL": pages.plain("read"),
        **{
            title: pages.figure_of(name, scale=100, signed=True)
            for title, name in (("consensus", "consensus"), ("top-1", "best"), ("agreement", "agreement"))
        },
    }
    rows = _of_regime(results, "many_exact")
    at_kl: dict[str, Any] = {"setting": _setting, "method": pages.METHOD}
    at_kl |= {
        f"{name} at KL {read:g}": pages.point_interval(f"at_kl.{name}.{place}")
        for name in _DRAWN_YARDSTICKS
        for place, read in enumerate(READ_AT)
    }
    pictures = [
        picture(
            f"lead_{name}",
            f"{said}: difference from DPO at equal KL against the number of pairs, by method.",
            "Mean over data sets and over the KL that both reach; whiskers are 95% intervals, and points at one "
            "number of pairs stand side by side.",
        )
        for name, said in _DRAWN_YARDSTICKS.items()
    ]
    frontiers = [
        picture(
            f"frontier_{name}_{job['pairs']}",
            f"{said} against KL at the exact minimiser over β, by method, {job['pairs']} pairs a state.",
            "Whiskers are 95% intervals; the plain line is the best that any policy can do for the consensus, the "
            "dashed one the best for agreement.",
        )
        for job in _frontier_jobs(results)
        for name, said in _DRAWN_YARDSTICKS.items()
    ]
    caption = "Method less DPO at single KL, points with 95% intervals; seeds whose lines both reach it."
    details = [
        Section("At single KL", [table(rows, at_kl, caption)]),
        Section("By thirds of φ", [_thirds(rows)]),
        Section("Frontiers", frontiers),
    ]
    return pages.text_section(
        "Consensus and agreement",
        text,
        table(limit, points, "On infinitely many pairs, true φ: method less DPO, points; no noise, no interval."),
        *pictures,
        _yardsticks(rows),
        details=details,
    )


def _yardsticks(rows: Sequence[Row]) -> Table:
    """Differences from DPO at equal KL on every yardstick."""
    columns: Columns = {
        "setting": _setting,
        "method": pages.METHOD,
        **{
            "top-1" if name == "best" else name: pages.point_interval(f"equal_kl.{name}")
            for name in (*YARDSTICKS, "regret")
        },
        "seeds compared": pages.plain("equal_kl.seeds"),
    }
    return table(rows, columns, "At equal KL, method less DPO: mean of the paired differences, points, 95% intervals.")


def _thirds(rows: Sequence[Row]) -> Table:
    """The same by thirds of the states, of which both yardsticks make something else."""
    columns: dict[str, Any] = {"setting": _setting, "method": pages.METHOD}
    columns |= {
        f"{name}, {third}": pages.point_interval(f"equal_kl.{name}_{third}")
        for name in _DRAWN_YARDSTICKS
        for third in THIRDS
    }
    return table(
        rows, columns, "At equal KL, method less DPO, by thirds of the states from agreed to contested; points."
    )


def _exact(results: Results) -> Section:
    text = (
        "Where some arms were never beaten by the rest, a loss with an unbounded link has no minimiser; that is read "
        "off the pairs exactly, and the limit policy is reported. IPO's squared link always has a finite minimiser; "
        "φ's loss is not convex, and the lowest of four starts is taken."
    )
    facts: Columns = {
        "population": lambda job: population_name(job["phis"]),
        "pairs": pages.plain("pairs"),
        "a finite minimiser exists, %": pages.figure_of("facts.attained", 0, scale=100),
        "all mass on one arm, %": pages.share("facts.one_arm", 0),
        "several arms unbeaten, %": pages.figure_of("facts.open", 0, scale=100),
        "φ keeps the same arms": lambda job: "yes" if job["facts"]["same_limits"] else "not always",
        "largest slope left": lambda job: f"{job['facts']['largest_slope']:.1e}",
        "several minima of φ, %": pages.figure_of("facts.kendall_several_minima", 0, scale=100),
    }
    parts = []
    for phis, jobs in _populations(results).items():
        mine = [row for row in comparisons(results) if row["learning_rate"] is None and tuple(row["phis"]) == phis]
        figure = picture(
            _collapse_name(phis),
            f"Entropy below own optimum against the number of pairs, by method. {population_name(phis)}.",
            "Zero: as diverse as with infinitely many pairs. Mean over data sets; whiskers are 95% intervals, and "
            "points at one number of pairs stand side by side.",
        )
        tables = [_exact_table(results, jobs), _beta_table(results, jobs[0])]
        if len(phis) == 1:  # of many states they stand above
            tables += [_yardsticks(mine), _differences(results, mine)]
        parts.append(Section(population_name(phis), [figure, *tables, _index_table(jobs)]))
    said = table(results["exact"], facts, "What the pairs alone decide, and how exact it is.")
    many = _differences(results, _of_regime(results, "many_exact"))
    return pages.text_section("At the exact minimiser", text, said, many, details=parts)


def _of_regime(results: Results, regime: str) -> list[Row]:
    return [row for row in comparisons(results) if row["regime"] == regime]


def _exact_table(results: Results, jobs: Sequence[Row]) -> Table:
    rows = [
        job["methods"][name]["matched"] | {"method": name, "pairs": job["pairs"]} for job in jobs for name in METHODS
    ]
    columns: Columns = {
        "pairs": pages.plain("pairs"),
        "method": pages.METHOD,
        "β": lambda row: f"{row['beta']:.3g}",
        "collapsed, %": pages.share("collapsed", 0),
        "largest probability": pages.interval("top"),
        "entropy, nats": pages.interval("entropy"),
        "below own optimum, nats": pages.interval("entropy_lost"),
        **_MEASURED,
    }
    return table(rows, columns, f"Matched scale, KL of the own optimum {design_of(results).shown_strength:g} nats.")


def _setting(row: Row) -> str:
    parts = [population_name(row["phis"])] if len(row["phis"]) == 1 else []
    parts.append(f"{row['pairs']:,} pairs")
    if row["learning_rate"] is not None:
        parts.append(f"learning rate {row['learning_rate']:g}")
    return ", ".join(parts)


def _differences(results: Results, rows: Sequence[Row]) -> Table:
    """Collapse against DPO's, setting by setting."""
    early, last = design_of(results).shown_steps
    trained = any(row["early"] for row in rows)
    columns: dict[str, Any] = {"setting": _setting, "method": pages.METHOD}
    if trained:
        columns[f"entropy, step {early:,}"] = pages.interval("early", 3, signed=True)
    columns[f"entropy, step {last:,}" if trained else "entropy, nats"] = pages.interval("entropy", 3, signed=True)
    columns["collapsed, points"] = pages.share("collapsed", 1, signed=True)
    if any(len(row["phis"]) > 1 for row in rows):
        contested = pages.interval("equal_kl.entropy_contested", 3, signed=True)
        columns["entropy of the contested third at equal KL, nats"] = contested
    caption = (
        "Method less DPO at matched scale, mean of the paired differences with 95% intervals; a point is 0.01. More "
        "entropy is less collapse."
    )
    return table(rows, columns, caption)


def _beta_table(results: Results, job: Row) -> Table:
    """Every method at the same plain β, where scales differ."""
    rows = [
        job["methods"][name]["at_beta"][number] | {"beta": beta, "method": name}
        for number, beta in enumerate(results["config"]["design"]["betas"])
        for name in METHODS
    ]
    columns: Columns = {
        "β": pages.BETA,
        "method": pages.METHOD,
        "collapsed, %": pages.share("collapsed", 0),
        "largest probability": pages.interval("top"),
        "entropy, nats": pages.interval("entropy"),
        "entropy less DPO's": pages.interval("minus_dpo.entropy", 3, signed=True),
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
        "pairs": pages.plain("0"),
        "φ from": pages.plain("1"),
        "mean −log φ̂ of each state": lambda row: ", ".join(map(format_number, row[2]["mean"])),
        "root mean square error": pages.figure_of("2.rms_error"),
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
        rows = _of_regime(results, regime)
        shown = [] if regime == "many_shared" else [_yardsticks(rows), _differences(results, rows)]
        shown += [] if regime == "single_steps" else [_thirds(rows)]
        pictures = [
            picture(
                f"steps_{number}",
                f"Entropy of the policies against steps, by method; {_kind_name(job)}.",
                f"Mean over data sets; whiskers are 95% intervals, most of them within their marker, and points at "
                f"one step stand side by side. {len(job['methods'])} of {len(METHODS)} methods are trained.",
            )
            for number, job in enumerate(_trajectory_jobs(results))
            if regime_of(job) == regime
        ]
        parts.append(Section(REGIMES[regime], [*shown, *pictures, _training_table(results, regime)]))
    shared = _of_regime(results, "many_shared")
    return pages.text_section(
        "After so many steps", text, _yardsticks(shared), _differences(results, shared), details=parts
    )


def _training_table(results: Results, regime: str) -> Table:
    rows = [
        {**job, **job["methods"][name]["at_steps"][number], "step": step, "method": name}
        for job in results["training"]
        if regime_of(job) == regime
        for number, step in enumerate(design_of(results).shown_steps)
        for name in TRAINED
    ]
    columns: Columns = {
        "population": lambda row: population_name(row["phis"]),
        "pairs": pages.plain("pairs"),
        "learning rate": pages.LEARNING_RATE,
        "step": pages.plain("step"),
        "method": pages.METHOD,
        "collapsed, %": pages.share("collapsed", 1),
        "largest probability": pages.interval("top"),
        "entropy, nats": pages.interval("entropy", 3),
        **_MEASURED,
    }
    return table(rows, columns, "Mean over data sets with 95% intervals, matched scale.")


_LIMITS = (
    "A bandit has a parameter for every answer: nothing is learnt in one state for another, no answer is longer.",
    "People follow a Mallows model with Kendall's distance, as φ's link assumes and θ's does not: that favours φ.",
    "A uniform reference says nothing of φ; votes are read as if their two answers were neighbours in rank.",
    "Adam's settings are two learning rates and one batch size, fixed on DPO; each interval stands on its own.",
    "All is exact but the draw of the pairs, so that differences of hundredths of a point, too small to matter, are "
    "significant; below 0.002 points, the error of reading lines by straight pieces, they count as none.",
    "φ's loss is not convex around a gap of 0: the lowest of four starts is certified as stationary, not as global.",
)
