"""`mallowspo dispersion`: how much people agree on each prompt, from a reference, from votes or from rankings."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["dispersion"]

_ESTIMATORS = "mean_entropy, answer_entropy, first_token, divergent_token, reference_margin or panel"


_OutputDir = Annotated[
    Path, typer.Option("--output_dir", help="Where dispersion.parquet, summary.json and report.html go.")
]
_Reference = Annotated[Path | None, typer.Option("--reference", help="A store written by `mallowspo reference`.")]
_Votes = Annotated[
    str | None, typer.Option("--votes", help="A file of people's votes on pairs; may be the data set itself.")
]
_Rankings = Annotated[
    list[str] | None, typer.Option("--rankings", help="A file of people's rankings; may be given several times.")
]
_Truth = Annotated[
    str | None, typer.Option("--truth", help="A file with the true ranking, to measure the centres by.")
]
_DatasetName = Annotated[
    str | None, typer.Option("--dataset_name", help="The data that the store was made from, to show its words.")
]
_DatasetConfig = Annotated[str | None, typer.Option("--dataset_config", help="Configuration of a hub data set.")]
_DatasetTrainSplit = Annotated[str, typer.Option("--dataset_train_split", help="Split of the data and of the votes.")]
_VotesColumn = Annotated[str, typer.Option("--votes_column", help="Column of the votes.")]
_Columns = Annotated[
    str,
    typer.Option(
        "--columns",
        help="Column names of --votes and --rankings, such as prompt=question,first=a,second=b,vote=winner.",
    ),
]
_WritePreferences = Annotated[
    Path | None,
    typer.Option(
        "--write_preferences",
        help="Write what the majority of the votes prefers as a .jsonl file to train on; for published forms.",
    ),
]
_RankingsColumn = Annotated[str, typer.Option("--rankings_column", help="Column of the rankings.")]
_InvalidRows = Annotated[str, typer.Option("--invalid_rows", help="error, or drop: rows that cannot be used.")]
_DispersionEstimator = Annotated[
    str, typer.Option("--dispersion_estimator", help=f"The index that is read off the reference: {_ESTIMATORS}.")
]
_DispersionMap = Annotated[
    str,
    typer.Option(
        "--dispersion_map",
        help="How it becomes a weight: neglog, quantile, mallows (with --alternatives) or isotonic (with people).",
    ),
]
_DispersionScale = Annotated[str, typer.Option("--dispersion_scale", help="phi*: auto (mean weight 1) or a number.")]
_DispersionClip = Annotated[tuple[float, float], typer.Option("--dispersion_clip", help="Lowest and highest weight.")]
_DispersionPer = Annotated[str, typer.Option("--dispersion_per", help="One index per prompt or pair.")]
_Alternatives = Annotated[
    int | None, typer.Option("--alternatives", help="mallows: among how many answers people choose.")
]
_Spread = Annotated[
    tuple[float, float] | None,
    typer.Option("--spread", help="quantile: -log phi of the most contested and the most agreed prompt."),
]
_Distance = Annotated[str, typer.Option("--distance", help="Of the rankings: kendall or spearman.")]
_VotePrior = Annotated[float, typer.Option("--vote_prior", help="Pseudo-votes added to each side.")]
_RankingPrior = Annotated[
    float, typer.Option("--ranking_prior", help="Pseudo-rankings drawn at random; 0 is maximum likelihood.")
]
_FitDraws = Annotated[
    int, typer.Option("--fit_draws", help="Samples of the test of fit of rankings; 0 leaves it out.")
]
_Beta = Annotated[float, typer.Option("--beta", help="The beta that you will train with.")]
_Level = Annotated[float, typer.Option("--level", help="Coverage of the intervals.")]
_Seed = Annotated[int, typer.Option("--seed", help="Of every random draw.")]
_MaxLineMb = Annotated[int, typer.Option("--max_line_mb", help="MiB that a line, or a row of a CSV file, may have.")]
_MaxNesting = Annotated[int, typer.Option("--max_nesting", help="Levels of lists and objects in a value.")]
_MaxColumns = Annotated[int, typer.Option("--max_columns", help="Different columns of all rows together.")]


def dispersion(
    *,
    output_dir: _OutputDir = Path("output/dispersion"),
    reference: _Reference = None,
    votes: _Votes = None,
    rankings: _Rankings = None,
    truth: _Truth = None,
    dataset_name: _DatasetName = None,
    dataset_config: _DatasetConfig = None,
    dataset_train_split: _DatasetTrainSplit = "train",
    votes_column: _VotesColumn = "votes",
    rankings_column: _RankingsColumn = "rankings",
    columns: _Columns = "",
    write_preferences: _WritePreferences = None,
    invalid_rows: _InvalidRows = "error",
    dispersion_estimator: _DispersionEstimator = "mean_entropy",
    dispersion_map: _DispersionMap = "neglog",
    dispersion_scale: _DispersionScale = "auto",
    dispersion_clip: _DispersionClip = (0.0, 10.0),
    dispersion_per: _DispersionPer = "prompt",
    alternatives: _Alternatives = None,
    spread: _Spread = None,
    distance: _Distance = "kendall",
    vote_prior: _VotePrior = 0.5,
    ranking_prior: _RankingPrior = 0.0,
    fit_draws: _FitDraws = 99,
    beta: _Beta = 0.1,
    level: _Level = 0.95,
    seed: _Seed = 0,
    max_line_mb: _MaxLineMb = 64,
    max_nesting: _MaxNesting = 64,
    max_columns: _MaxColumns = 1_000,
) -> None:
    """Say how much people agree on each prompt, what the weights will do, and whether model and people agree.

    Give --reference, --votes or --rankings; with the first and one of the others they are compared. Files of votes
    hold a column `votes` ([chosen, rejected] or with ties), one row a vote, or a published form (MultiPref, HelpSteer2
    and 3, UltraFeedback, collective alignment, PandaLM, WMT); files of rankings hold a column `rankings`, or one row a
    ranking and one column an item. --columns tells other names.
    """
    given = dict(locals())
    from mallowspo.cli.dispersion_run import DispersionRequest, run_dispersion
    from mallowspo.data.limits import Limits
    from mallowspo.dispersion.settings import DispersionSettings
    from mallowspo.progress import progress_bar

    given |= {name.removeprefix("dispersion_"): value for name, value in given.items()}
    given |= {"rankings": tuple(rankings or ())}
    settings = DispersionSettings(
        **{item.name: given[item.name] for item in fields(DispersionSettings) if given.get(item.name) is not None}
    )
    request = DispersionRequest(**{item.name: given[item.name] for item in fields(DispersionRequest)})
    with (
        Limits(max_line_mb, max_nesting, max_columns).in_force(),
        progress_bar("mallowspo dispersion") as progress,
    ):
        summary = run_dispersion(request, settings, progress=progress)
    _show(summary, output_dir)


def _show(summary: dict[str, Any], folder: Path) -> None:
    """Print what was found, in a table."""
    from rich.console import Console
    from rich.table import Table

    from mallowspo.reports.text import interval_text, percent

    table = Table(title="Dispersion", title_justify="left")
    for heading in ("", "rows", "prompts", "phi 5%", "50%", "95%", "w 5%", "95%", "worth"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for name in ("reference", "votes", "rankings"):
        if name not in summary:
            continue
        facts = summary[name]
        phi, weight = facts["phi"]["quantiles"], facts["weight"]["quantiles"]
        numbers = [phi["0.05"], phi["0.5"], phi["0.95"], weight["0.05"], weight["0.95"]]
        table.add_row(
            name,
            f"{facts['rows']:,}",
            f"{facts['prompts']:,}",
            *(f"{number:.3f}" for number in numbers),
            percent(facts["effective_share"], 0),
        )
    console = Console(soft_wrap=True)
    console.print(table)
    for note in summary.get("votes", {}).get("notes", []):
        console.print(f"votes: {note}", markup=False)
    for item in summary.get("rankings", {}).get("detail", []):
        fit = item[summary["rankings"]["distance"]]
        end = f", centre {item['truth']['center_distance']} pairs from the truth" if "truth" in item else ""
        console.print(
            f"{item['prompt']}: phi {fit['phi']:.3f} [{fit['low']:.3f}, {fit['high']:.3f}]{end}", markup=False
        )
    for note in summary.get("rankings", {}).get("notes", []):
        console.print(note, markup=False)
    for facts in summary["side_by_side"]:
        console.print(
            f"index against {facts['people']}: rank correlation {interval_text(facts['correlation'])}", markup=False
        )
    console.print(
        f"Open {folder}/report.html in a browser; the table is {folder}/dispersion.parquet.",
        markup=False,
        soft_wrap=True,
    )
