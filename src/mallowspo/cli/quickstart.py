"""`mallowspo quickstart`: small generated worlds, four ways of training on them, one report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mallowspo.cli.experiment.shared import FAST, run_and_tell
from mallowspo.cli.options import option

__all__ = ["QuickstartOptions", "quickstart"]


@dataclass(frozen=True, kw_only=True)
class QuickstartOptions:
    """Compare DPO and MallowsPO-theta, its index estimated or true, in generated worlds whose truth is known."""

    output_dir: Path = option("Where report.html and results.json go.", Path("output/quickstart"))
    seeds: int | None = option(
        "Worlds, each with its own people and pairs; more make the intervals narrower.",
        None,
        shown="5, with --fast 1",
        low=1,
    )
    workers: int | None = option(
        "Processes that train side by side; changes no result.", None, shown="2, with --fast 0", low=0
    )
    fast: bool = option(FAST, False)


def quickstart(options: QuickstartOptions) -> None:
    """Run the study `world` in its preset for a first look."""
    from mallowspo.studies.world.page import headline
    from mallowspo.studies.world.study import WORLD

    settings = WORLD.presets["quickstart_fast" if options.fast else "quickstart"](str(options.output_dir))
    if options.seeds is not None:
        settings = replace(settings, seeds=tuple(range(options.seeds)))
    if options.workers is not None:
        settings = replace(settings, workers=options.workers)
    run_and_tell("quickstart", WORLD, settings, headline)
