"""What to run after the dispersion report: commands that train with what the page shows."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from mallowspo.reports.html import Block, CodeBlock, Paragraph, Section

__all__ = ["next_section"]

Summary = Mapping[str, Any]


def _training_line(store: str, settings: Summary) -> str:
    """The command that trains with the index and the weights of this page."""
    given = [f"--reference_store {shlex.quote(store)}"]
    if settings["estimator"] != "mean_entropy":
        given.append(f"--dispersion_estimator {settings['estimator']}")
    if settings["map"] != "neglog":
        given.append(f"--dispersion_map {settings['map']}")
    if settings["map"] == "mallows":
        given.append(f"--dispersion_alternatives {settings['alternatives']}")
    if settings["map"] == "quantile":
        given.append("--dispersion_spread {:g} {:g}".format(*settings["spread"]))
    if settings["per"] != "prompt":
        given.append(f"--dispersion_per {settings['per']}")
    if settings["scale"] != "auto":
        given.append(f"--dispersion_scale {settings['scale']}")
    if settings["clip"] != [0.0, 10.0]:
        given.append("--dispersion_clip {:g} {:g}".format(*settings["clip"]))
    return " ".join(["mallowspo train", *given, "..."])


def next_section(summary: Summary) -> Section:
    """Commands for what comes next."""
    blocks: list[Block] = []
    if "reference" in summary:
        settings = summary["settings"]
        if settings["map"] != "isotonic":
            words = "Train with this index, or with another read off the same store without another pass:"
            blocks += [Paragraph(words), CodeBlock(_training_line(summary["files"]["reference"], settings))]
        if "dataset" in summary["files"]:
            blocks.append(
                CodeBlock(
                    "mallowspo train --dataset_name dispersion.parquet --dispersion column ...",
                    "The table holds the data with a column `dispersion`; training on it gives these weights.",
                )
            )
    elif "votes" in summary:
        blocks.append(
            CodeBlock(
                "mallowspo train --dataset_name DATA --dispersion votes ...",
                "Where the data has a column of votes. In Python: `votes_index` and `calibrate`.",
            )
        )
    else:
        blocks.append(
            CodeBlock(
                "mallowspo train --dataset_name DATA --dispersion rankings ...",
                "Where the data has a column of rankings. In Python: `rankings_index` and `calibrate`.",
            )
        )
    return Section("Where to go from here", blocks)
