"""`mallowspo quickstart`: the embedded world, four ways of training on it, one report."""

from __future__ import annotations

from pathlib import Path

import typer

__all__ = ["quickstart"]


def quickstart(
    output_dir: Path = typer.Option(Path("output/quickstart"), help="Where report.html and results.json go."),
    seeds: int = typer.Option(5, min=2, help="Preference data sets drawn; more make the intervals narrower."),
) -> None:
    """Compare DPO, MallowsPO-theta and MallowsPO-phi on a generated language whose truth is known."""
    from rich.console import Console

    from mallowspo.experiments.quickstart import QuickstartConfig, run_quickstart

    run_quickstart(QuickstartConfig(output_dir=output_dir, seeds=seeds))
    Console().print(f"Open {output_dir / 'report.html'} in a browser; the numbers are in {output_dir / 'results.json'}")
