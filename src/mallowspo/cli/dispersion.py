"""`mallowspo dispersion`: how much people agree on each prompt, from a reference, from votes or from rankings."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mallowspo.cli.options import FileLimits, option
from mallowspo.errors import InputError
from mallowspo.outputs import writable_file, writable_folder

if TYPE_CHECKING:
    from mallowspo.dispersion.settings import DispersionSettings

__all__ = ["DispersionOptions", "dispersion"]

_ESTIMATORS = "mean_entropy, answer_entropy, first_token, divergent_token, reference_margin or panel"


@dataclass(frozen=True, kw_only=True)
class DispersionOptions(FileLimits):
    """Say how much people agree on each prompt, what the weights will do, and whether model and people agree.

    Give --reference, --votes or --rankings; with the first and one of the others they are compared. Files of votes
    hold a column `votes` ([chosen, rejected] or with ties), one row a vote, or a published form (MultiPref, HelpSteer2
    and 3, UltraFeedback, collective alignment, PandaLM, WMT); files of rankings hold a column `rankings`, or one row a
    ranking and one column an item. --columns tells other names.
    """

    reference: Path | None = option("A store written by `mallowspo reference`.", None, group="What is read")
    dataset_name: str | None = option("The data that the store was made from, to show its words.", None)
    dataset_config: str | None = option("Configuration of a hub data set.", None)
    dataset_train_split: str = option("Split of the data and of the votes.", "train")
    votes: str | None = option("A file of people's votes on pairs; may be the data set itself.", None)
    votes_column: str = option("Column of the votes.", "votes")
    rankings: tuple[str, ...] = option("A file of people's rankings; may be given several times.", ())
    rankings_column: str = option("Column of the rankings.", "rankings")
    truth: str | None = option("A file with the true ranking, to measure the centres by.", None)
    columns: str = option(
        "Column names of --votes and --rankings, such as prompt=question,first=a,second=b,vote=winner.",
        "",
        commas=True,
    )
    invalid_rows: str = option("error, or drop: rows that cannot be used.", "error")

    dispersion_estimator: str = option(
        f"The index that is read off the reference: {_ESTIMATORS}.", "mean_entropy", group="From index to weight"
    )
    dispersion_map: str = option(
        "How it becomes a weight: neglog, quantile, mallows (with --alternatives) or isotonic (with people).", "neglog"
    )
    alternatives: str | None = option(
        "mallows: among how many answers people choose; auto reads it off the reference.", None
    )
    spread: tuple[float, float] | None = option(
        "quantile: -log phi of the most contested and the most agreed prompt.", None
    )
    dispersion_shrink: str = option(
        "How far the index is believed: none (as it is), votes (fitted on --votes or --rankings), or the factor.",
        "none",
    )
    dispersion_power: float = option("Tempered weight: w to this power, 0 to 1.", 1.0)
    dispersion_scale: str = option("phi*: auto (mean weight 1) or a number.", "auto")
    dispersion_clip: tuple[float, float] = option("Lowest and highest weight.", (0.0, 10.0))
    dispersion_per: str = option("One index per prompt or pair.", "prompt")
    beta: float = option("The beta that you will train with.", 0.1)

    vote_prior: float = option("Pseudo-votes added to each side.", 0.5, group="What people said")
    distance: str = option("Of the rankings: kendall or spearman.", "kendall")
    ranking_prior: float = option("Pseudo-rankings drawn at random; 0 is maximum likelihood.", 0.0)
    fit_draws: int = option("Samples of the test of fit of rankings; 0 leaves it out.", 99)
    level: float = option("Coverage of the intervals.", 0.95)
    seed: int = option("Of every random draw.", 0, low=0)

    output_dir: Path = option(
        "Where dispersion.parquet, summary.json and report.html go.",
        Path("output/dispersion"),
        group="What is written",
    )
    write_preferences: Path | None = option(
        "Write what the majority of the votes prefers as a .jsonl file to train on; for published forms.", None
    )

    def settings(self) -> DispersionSettings:
        """How to analyse: the options of the same names, `dispersion_` before them or not."""
        from mallowspo.dispersion.settings import DispersionSettings

        given = {item.name.removeprefix("dispersion_"): getattr(self, item.name) for item in fields(self)}
        return DispersionSettings(
            **{item.name: given[item.name] for item in fields(DispersionSettings) if given.get(item.name) is not None}
        )

    def check(self) -> None:
        """Raise `InputError` for options that cannot work together."""
        from mallowspo.data.sources import keep_source

        if self.reference is None and self.votes is None and not self.rankings:
            raise InputError("dispersion: nothing to read; give --reference, --votes or --rankings")
        writable_folder(self.output_dir, "output_dir")
        for source in (self.votes, self.dataset_name, *self.rankings):
            keep_source(self.output_dir / "dispersion.parquet", "output_dir", source, self.dataset_train_split)
        if self.truth is not None and not self.rankings:
            raise InputError("truth: only rankings are compared with a true ranking; add --rankings")
        if self.columns and self.votes is None and not self.rankings:
            raise InputError("columns: they name the columns of --votes and --rankings; add one of these")
        if self.dispersion_shrink == "votes" and (self.reference is None or not (self.votes or self.rankings)):
            raise InputError(
                "dispersion_shrink: 'votes' fits the factor of a reference's index on people's word; give --reference "
                "and, beside it, --votes or --rankings"
            )
        if self.write_preferences is not None:
            if self.votes is None:
                raise InputError("write_preferences: preference data are made of votes; add --votes")
            if self.write_preferences.suffix != ".jsonl":
                raise InputError(
                    f"write_preferences: got {self.write_preferences}, expected a file that ends in .jsonl"
                )
            writable_file(self.write_preferences, "write_preferences")
            keep_source(self.write_preferences, "write_preferences", self.votes, self.dataset_train_split)
        if self.dataset_name is not None and self.reference is None:
            raise InputError("dataset_name: only a reference store needs the data beside it; add --reference")


def dispersion(options: DispersionOptions) -> None:
    """Analyse, write the table, the summary and the page, and print what was found."""
    from mallowspo.cli.dispersion_run import run_dispersion
    from mallowspo.data.limits import Limits
    from mallowspo.progress import progress_bar

    settings = options.settings()
    with Limits.of(options).in_force(), progress_bar("mallowspo dispersion") as progress:
        summary = run_dispersion(options, settings, progress=progress)
    _show(summary, options.output_dir)


def _show(summary: dict[str, Any], folder: Path) -> None:
    """Print what was found, in a table."""
    from rich.console import Console
    from rich.table import Table

    from mallowspo.dispersion.analysis import worth_words
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
    if "reference" in summary:
        console.print(f"worth: {worth_words(summary['reference']['worth'])}", markup=False)
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
