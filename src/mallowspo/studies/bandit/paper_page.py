"""The page of the bandit study's preset `paper` and its figures: the paper's numbers beside ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mallowspo.reports.blocks import Meta, Report, Section, Table
from mallowspo.reports.figures import Curve, frontier_figure, line_figure
from mallowspo.reports.sections import Columns, picture, table
from mallowspo.reports.text import format_duration, format_number, interval_text
from mallowspo.stats.frontiers import interpolate_frontier
from mallowspo.stats.intervals import Interval
from mallowspo.studies import pages
from mallowspo.studies.bandit.paper import DOMINANT, MEAN_REWARD_K
from mallowspo.studies.pages import Results, Row

__all__ = ["figures", "page"]

# What the paper shows, read off its figures and text (MallowsPO, ICLR 2025, section 5.2 and appendix C.1).
_PUBLISHED_DPO = {"peak": "15.87 at KL 0.3", "far": "15.6", "first_arm": "0.97, 1.0"}
_PUBLISHED_PHI = {
    "peak": "about 16.03 at KL 0.55",
    "0.05": "0.42, 0.40, 0.15, 0.03, 0",
    "0.1": "0.345, 0.335, 0.21, 0.11, 0",
}
_FAR_KL = 1.2


def _name(row: Row) -> str:
    return "DPO" if row["name"] == "dpo" else str(row["name"])


def figures(results: Results) -> dict[str, Any]:
    """Draw `last` and `course` on the paper's pairs, and `redrawn` on sets that were drawn anew."""

    def drawn(lines: dict[str, Row], title: str) -> Any:
        return line_figure(
            {name: Curve(line["kl"], line["reward"]) for name, line in lines.items()},
            x_label="KL from the uniform reference (nats)",
            y_label="True mean reward",
            title=title,
        )

    own = results["paper"]
    last = {row["name"]: row["last"] for row in own}
    steps = results["config"]["design"]["steps"]
    sets = {
        row["name"]: Curve(Interval.stack(row["line"]["kl"]), Interval.stack(row["line"]["reward"]))
        for row in results["redrawn"]
    }
    return {
        "last": drawn(
            last | {"DPO, fixed point": own[0]["fixed"]}, f"The paper's 16 pairs: over β, after {steps:,} steps"
        ),
        "course": drawn({row["name"]: row["course"] for row in own}, "The paper's 16 pairs: along training"),
        "redrawn": frontier_figure(
            sets,
            x_label="KL from the uniform reference (nats)",
            y_label="True mean reward",
            title=f"{results['config']['design']['sets']:,} sets of 16 pairs, drawn anew: over β",
        ),
    }


def page(results: Results) -> Report:
    """What the page says."""
    design = results["config"]["design"]
    return Report(
        title="The paper's bandit, as written, and with pairs drawn anew",
        summary=(
            "Section 5.2 of the paper: DPO collapses on 16 pairs of a bandit and MallowsPO-φ does not. The same arms, "
            "pairs and optimiser; then the smoothing ε that the paper leaves open, the fixed point that its "
            f"{design['steps']:,} steps do not reach, and {design['sets']:,} other draws of 16 pairs."
        ),
        sections=[_as_written(results), _fixed_point(results), _redrawn(results), pages.limits(results, *_LIMITS)],
        meta=Meta(extra={"Processor time": format_duration(results["processor_seconds"])}),
        verdicts=table(results["redrawn"][1:], _DRAWS, "On sets drawn anew, against DPO on the same pairs."),
    )


def _probabilities(row: Row, beta: float, betas: Sequence[float], which: str = "last") -> str:
    return ", ".join(format_number(value, 3) for value in row[which]["probability"][betas.index(beta)])


def _peak(row: Row, of: str = "peak") -> str:
    return f"{row[of]['reward']:.3f} at KL {row[of]['kl']:.3f}"


def _as_written(results: Results) -> Section:
    design, own = results["config"]["design"], results["paper"]
    betas = design["betas"]
    text = (
        f"Five arms with mean rewards {', '.join(f'{value:g}' for value in MEAN_REWARD_K.round(2))}; 16 fixed "
        f"pairs in one batch, gradient descent at {design['learning_rate']:g} for {design['steps']:,} steps from a "
        f"uniform policy, φ = {design['phi']:g}. Frontiers over β = {', '.join(f'{beta:g}' for beta in betas)}. The "
        "losses are the library's own; their slope is looked up in a table that was made of them."
    )
    dpo, phis = own[0], own[1:]
    far = float(interpolate_frontier(dpo["last"]["kl"], dpo["last"]["reward"], _FAR_KL))
    rows = [
        ["Highest mean reward over β", _PUBLISHED_DPO["peak"], _peak(dpo)],
        [f"Mean reward at KL {_FAR_KL:g}", _PUBLISHED_DPO["far"], f"{far:.3f}"],
    ]
    shown = [beta for beta in (0.05, 0.1) if beta in betas]
    if len(shown) == 2:
        first = ", ".join(f"{dpo['last']['probability'][betas.index(beta)][0]:.3f}" for beta in shown)
        rows.append(["Probability of arm 1 at β 0.05, 0.1", _PUBLISHED_DPO["first_arm"], first])
    rows_phi = [["Highest mean reward over β", _PUBLISHED_PHI["peak"], *map(_peak, phis)]]
    rows_phi += [
        [
            f"Arms 1 to 5 at β {beta:g}",
            _PUBLISHED_PHI[f"{beta:g}"],
            *(_probabilities(row, beta, betas) for row in phis),
        ]
        for beta in shown
    ]
    rows.append(["Highest along training", "–", _peak(dpo, "course_peak")])
    rows_phi.append(["Highest along training", "–", *(_peak(row, "course_peak") for row in phis)])
    trained = ", ".join(f"{beta:g}" for beta in design["training_betas"])
    return pages.text_section(
        "The paper's 16 pairs",
        text,
        Table(["DPO", "paper", "ours"], rows, "DPO: the paper's numbers beside ours."),
        Table(
            ["MallowsPO-φ", "paper", *(f"ours, ε = {row['smoothing']:g}" for row in phis)], rows_phi,
            "MallowsPO-φ: the paper's numbers beside ours, for each smoothing ε of the link around a gap of 0.",
        ),
        picture("last", "Mean reward against KL over β after the last step, DPO and φ at several ε.",
                "One marker a β. A line turns back to a lower KL where the steps are too few for a small β."),
        picture("course", "Mean reward against KL along training, DPO and φ at several ε.",
                f"From the uniform policy, mean over β = {trained} at each step."),
    )  # fmt: skip


def _fixed_point(results: Results) -> Section:
    design, own = results["config"]["design"], results["paper"]
    rows = [
        {
            "loss": _name(row),
            "beta": beta,
            "last": _probabilities(row, beta, design["betas"]),
            "fixed": _probabilities(row, beta, design["betas"], "fixed"),
            "reward": row["last"]["reward"][place],
            "fixed_reward": row["fixed"]["reward"][place],
        }
        for row in own
        for beta in design["training_betas"]
        for place in [design["betas"].index(beta)]
    ]
    columns: Columns = {
        "loss": pages.plain("loss"),
        "β": pages.BETA,
        f"arms 1 to 5 after {design['steps']:,} steps": pages.plain("last"),
        "at the fixed point": pages.plain("fixed"),
        "mean reward": pages.figure_of("reward", 3),
        "at the fixed point ": pages.figure_of("fixed_reward", 3),
    }
    text = (
        "The minimiser of the same loss on the same pairs, found by Newton's method: where the steps would lead in "
        "the end. Arm 5 never won a pair and vanishes for every loss; the others beat each other in a circle, so that "
        "a finite optimum exists among them. φ's loss has several minima; the lowest of four starts is taken."
    )
    return pages.text_section("Not the fixed point", text, table(rows, columns, "Probabilities of the arms."))


_DRAWS: Columns = {
    "loss": _name,
    "mean reward at equal KL": lambda row: interval_text(row["equal_kl"]["difference"], 3, signed=True),
    "ahead of DPO, % of sets": pages.figure_of("equal_kl.ahead", 0, scale=100),
    "on the paper's own pairs": pages.figure_of("equal_kl.own", 3),
    "sets with a smaller difference, %": pages.figure_of("equal_kl.sets_below_own", 0, scale=100),
    "best over β": pages.interval("best_minus_dpo", 3, signed=True),
    "one arm above 0.9, points": pages.share("collapsed_minus_dpo", 1, signed=True),
}


def _redrawn(results: Results) -> Section:
    design, rows = results["config"]["design"], results["redrawn"]
    text = (
        f"{design['sets']:,} sets of 16 pairs: two different arms evenly, one draw of each reward, the larger wins, "
        "equal ones either way. Every loss sees the same sets; a line is read over β = "
        f"{', '.join(f'{beta:g}' for beta in design['set_betas'])}. Steps are {design['set_stride']} times as long "
        f"and as few, which on the paper's own pairs moves no mean reward by more than {results['stride_error']:.2g}."
    )
    columns: Columns = {
        "loss": _name,
        "best mean reward over β": pages.interval("best", 3),
        "SD over sets": pages.figure_of("best_sd", 2),
        f"one arm above {DOMINANT:g} at β {min(design['set_betas']):g}, %": pages.share("collapsed", 1),
    }
    at_kl = [{"name": row["name"], **one} for row in rows for one in row["at_kl"] if one["sets"] > 1]
    reads: Columns = {
        "loss": _name,
        "KL": pages.plain("kl"),
        "sets that reach it": pages.plain("sets"),
        "mean reward": pages.interval("reward", 3),
        "SD over sets": pages.figure_of("sd_over_sets", 2),
        "less DPO": pages.interval("minus_dpo", 3, signed=True),
    }
    return pages.text_section(
        "Is it the method or the draw?",
        text,
        table(rows, columns, "Each loss over the sets, 95% intervals."),
        table(at_kl, reads, "At equal KL, over the sets whose lines both reach it; less DPO on the same sets."),
        picture("redrawn", "Mean reward against KL over β, mean over redrawn sets, DPO and φ.",
                "One point a β, mean over sets; whiskers are 95% intervals."),
    )  # fmt: skip


_LIMITS = (
    "One φ for all, as the paper has it: with one state the weight is a second β, and only φ's link is at trial.",
    "The paper's values of ε and β, and what it drew its figures from, are not public: its numbers are read off them.",
    "An ε above 5/λ, such as −2 log φ, is narrowed to that by the library's link (here 1.67).",
    "At larger β the fixed step size overshoots φ's narrow blend around 0: tied arms jitter by about 0.01.",
    "Slopes are read off a table of the library's loss by straight pieces; log-probabilities stay within 2e-5 of it.",
)
