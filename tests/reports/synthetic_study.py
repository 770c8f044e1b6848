"""A study with synthetic numbers: every figure and every block, as the pages of the library use them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure as MatplotlibFigure

from mallowspo.reports.blocks import (
    BulletList,
    Callout,
    CodeBlock,
    Definitions,
    Example,
    Examples,
    Figure,
    Meta,
    Paragraph,
    Report,
    Section,
    Table,
)
from mallowspo.reports.figure_style import save_figure
from mallowspo.reports.figures import (
    Curve,
    frontier_figure,
    grouped_interval_figure,
    histogram_figure,
    index_scatter_figure,
    line_figure,
)
from mallowspo.reports.text import format_interval
from mallowspo.stats.intervals import Interval

METHODS = ["dpo", "mallows_theta", "mallows_theta_true", "mallows_phi", "ipo", "simpo"]
GROUPS = ["Agreed third", "Middle third", "Contested third", "All prompts"]


def around(mean, half):
    mean = np.asarray(mean, dtype=float)
    return Interval(mean, mean - half, mean + half)


def synthetic_frontier() -> MatplotlibFigure:
    kl = np.array([0.4, 1.3, 2.6, 5.2, 8.8])
    curves = {
        name: Curve(
            around(kl * (1 + 0.08 * place), 0.06 * kl),
            around(0.45 + 0.25 * (1 - np.exp(-kl / 2)) - 0.012 * place - 0.004 * kl, 0.012),
        )
        for place, name in enumerate(METHODS)
    }
    curves["reference"] = Curve(around([0.0], 0.0), around([0.44], 0.01))
    x = np.linspace(0, 10, 80)
    optimum = Curve(x, 0.45 + 0.28 * (1 - np.exp(-x / 2)))
    return frontier_figure(curves, optimum=optimum, title="Agreement with people against distance from the reference")


def synthetic_scatter(count: int = 240) -> MatplotlibFigure:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.05, 2.9, count)
    estimated = 0.6 + 0.35 * truth + rng.normal(0, 0.15, count)
    terciles = np.array(["Contested third", "Middle third", "Agreed third"])[np.digitize(truth, [1.0, 1.95])]
    return index_scatter_figure(
        estimated,
        truth,
        correlation=Interval(0.89, 0.86, 0.91),
        groups=terciles.tolist(),
        title="Entropy at the first divergent token",
    )


def synthetic_groups() -> MatplotlibFigure:
    rng = np.random.default_rng(1)
    values = {name: around(rng.normal(0.01, 0.02, len(GROUPS)), 0.025) for name in METHODS[1:]}
    return grouped_interval_figure(
        values,
        GROUPS,
        x_label="Agreement minus that of DPO, same prompts (share)",
        title="Where the difference lies",
        better="right",
    )


def synthetic_histogram() -> MatplotlibFigure:
    weights = np.random.default_rng(2).gamma(4.0, 0.25, 2000)
    return histogram_figure(weights, x_label="Dispersion weight w", title="Weights on the training set")


def synthetic_lines() -> MatplotlibFigure:
    steps = np.arange(0, 400, 10)
    curves = {
        name: Curve(steps, around(np.log(2) * np.exp(-steps / (150 + 40 * place)), 0.02))
        for place, name in enumerate([*METHODS[:4], "my own run"])
    }
    return line_figure(curves, x_label="Optimiser step", y_label="Loss (nats per pair)", title="Training loss")


MAKERS = {
    "frontier": synthetic_frontier,
    "index": synthetic_scatter,
    "terciles": synthetic_groups,
    "weights": synthetic_histogram,
    "loss": synthetic_lines,
}


def build_report(folder: Path) -> Report:
    pictures = {
        name: Figure(
            save_figure(maker(), folder, name).svg,
            alt=f"The figure of {name}; the numbers stand in the table below.",
            caption="*Bars* are 95 % intervals over 5 seeds; `beta` is DPO's β.",
        )
        for name, maker in MAKERS.items()
    }
    rows = [
        [name, 0.51 + 0.01 * place, format_interval(0.5 + 0.01 * place, 0.48, 0.55), "converged after 400 steps"]
        for place, name in enumerate(["DPO", "MallowsPO-θ", "MallowsPO-φ", "IPO"])
    ]
    compared = [
        Paragraph("Each method trains with `beta=0.1`.\n\nA prompt's index is *measured*, not assumed."),
        Definitions([("agreement", "the share of people who'd pick the answer"), ("`phi`", "dispersion")]),
        BulletList(["5 seeds", "400 steps", "48 held-out prompts"]),
    ]
    header = ["method", "win rate", "agreement [95 %]", "remark"]
    agreement = [
        pictures["frontier"],
        Table(header, rows, caption="At β = 0.1."),
        Callout("result", "MallowsPO-θ is ahead of DPO."),
        Callout("warning", "The interval does not include the choice of β."),
    ]
    index = [pictures["index"], pictures["weights"], Callout("note", "Ties are ½."), Callout("problem", "None.")]
    answers = [("Reference model", "24"), ("MallowsPO-θ", "It is *24*, `as` computed.\nYes.")]
    examples = [
        Example("<script>alert('x')</script> What is 2 * 3 * 4?", answers, note="Both are `right`."),
        Example("אילו מילים?", [("DPO", "A long answer " * 20)]),
    ]
    command = CodeBlock("mallowspo train --config recipe.yaml \\\n  --objective mallows_theta", "To repeat it:")
    parts = [Section("By tercile", [pictures["terciles"]]), Section("Training", [pictures["loss"]])]
    return Report(
        title="Does knowing *dispersion* help?",
        summary="MallowsPO-θ agrees with people on **more** prompts than DPO at the same KL: +0.03 [+0.01, +0.05]."
        "\n\nThe gain comes from the contested third.",
        sections=[
            Section("What is compared", compared),
            Section("Agreement & KL", agreement, parts),
            Section("The index", index),
            Section("Read for yourself", [Examples(examples, caption="Two held-out prompts."), command]),
        ],
        meta=Meta(
            command="mallowspo quickstart --output_dir out --name '<b>'",
            versions={"mallowspo": "0.1.0", "trl": "1.16.0"},
            date="2026-01-31 12:00 UTC",
            seeds=[0, 1, 2],
            run_time=192.0,
            extra={"Machine": "2 CPU cores"},
        ),
    )
