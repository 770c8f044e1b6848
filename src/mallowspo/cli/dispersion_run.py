"""What `mallowspo dispersion` does: read the sources, analyse them, write the table, the summary and the report."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mallowspo.cli.options import DATASET_OPTIONS, read_pairs
from mallowspo.dispersion.analysis import Analysis, PromptOpinion
from mallowspo.dispersion.entropy import ReferenceStatistics
from mallowspo.dispersion.judged_rows import mixed_judges
from mallowspo.dispersion.reference_analysis import RowTexts, analyse_reference
from mallowspo.dispersion.settings import DispersionSettings
from mallowspo.dispersion.side_by_side import SideBySide, side_by_side
from mallowspo.errors import InputError, told_as
from mallowspo.files import atomic_path, write_json, write_lines
from mallowspo.progress import Progress, silent

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

    from mallowspo.cli.dispersion import DispersionOptions
    from mallowspo.dispersion.judged_rows import Judged
    from mallowspo.dispersion.rankings_file import RankingRows
    from mallowspo.scoring import StoredRows

__all__ = ["run_dispersion"]


def run_dispersion(
    options: DispersionOptions, settings: DispersionSettings, *, progress: Progress = silent
) -> dict[str, Any]:
    """Analyse the sources and write `dispersion.parquet`, `summary.json` and `report.html`."""
    from mallowspo.reports.dispersion.report import write_dispersion_report

    started = time.perf_counter()
    options.check()
    steps = [name for name in ("votes", "rankings", "reference") if getattr(options, name)]
    found: dict[str, Analysis] = {}
    opinions: list[PromptOpinion] = []
    for done, name in enumerate(steps):
        progress("Reading and analysing", done, len(steps) + 1)
        if name == "votes":
            found[name] = _votes(options, settings, opinions)
        elif name == "rankings":
            found[name] = _rankings(options, settings, opinions, progress)
    summary: dict[str, Any] = {"settings": asdict(settings)}
    sides: list[SideBySide] = []
    pairs: datasets.Dataset | None = None
    if options.reference is not None:
        found["reference"], pairs, made_with = _reference(options, settings, opinions)
        summary["made_with"] = made_with
        columns = found["reference"].columns
        rng = np.random.default_rng(settings.seed + 1)
        sides = [
            side_by_side(
                columns["index"],
                columns["prompt_id"],
                opinion,
                rng=rng,
                resamples=settings.resamples,
                level=settings.level,
            )
            for opinion in opinions
        ]
    summary |= {name: analysis.summary for name, analysis in found.items()}
    summary["side_by_side"] = [side.summary for side in sides]
    summary["files"] = _sources(options)
    main = next(name for name in ("reference", "votes", "rankings") if name in found)
    _write_table(options.output_dir / "dispersion.parquet", found[main].columns, pairs, opinions, main)
    progress("Reading and analysing", len(steps), len(steps) + 1)
    summary["seconds"] = time.perf_counter() - started
    write_json(options.output_dir / "summary.json", summary)
    write_dispersion_report(options.output_dir, {name: found[name].columns for name in found}, sides)
    progress("Reading and analysing", len(steps) + 1, len(steps) + 1)
    return summary


def _sources(options: DispersionOptions) -> dict[str, Any]:
    named = {"reference": options.reference, "votes": options.votes, "dataset": options.dataset_name}
    sources: dict[str, Any] = {name: str(value) for name, value in named.items() if value is not None}
    if options.rankings:
        sources["rankings"] = [str(path) for path in options.rankings]
    if options.truth:
        sources["truth"] = str(options.truth)
    return sources


def _votes(options: DispersionOptions, settings: DispersionSettings, opinions: list[PromptOpinion]) -> Analysis:
    from mallowspo.dispersion.votes_analysis import analyse_votes, opinion_of_votes
    from mallowspo.dispersion.votes_file import load_votes

    assert options.votes is not None
    with told_as(DATASET_OPTIONS | {"dataset": "votes"}):
        rows = load_votes(
            options.votes,
            column=options.votes_column,
            columns=options.columns,
            split=options.dataset_train_split,
            invalid_rows=options.invalid_rows,
        )
    if options.write_preferences is not None and rows.judged is None:
        raise InputError(
            f"write_preferences: {options.votes} holds counted votes or scores; with chosen and rejected it is "
            "preference data already, and without them there are no words to write"
        )
    opinions.append(opinion_of_votes(rows, settings=settings))
    analysis = analyse_votes(rows, settings=settings)
    if options.write_preferences is not None and rows.judged is not None:
        written = _write_preferences(rows.judged, options.write_preferences, options.votes)
        analysis.summary["preferences"] = {"file": str(options.write_preferences), "rows": written}
    return analysis


def _write_preferences(judged: Judged, path: Path, source: str) -> int:
    """Write the votes as preference data and say how many rows these are."""
    from mallowspo.dispersion.judged_rows import preference_rows

    rows = preference_rows(judged)
    first = next(rows, None)
    if first is None:
        raise InputError(
            f"write_preferences: {source} has no two responses with their words of which a majority prefers one"
        )
    return write_lines(path, itertools.chain([first], rows))


def _rankings(
    options: DispersionOptions, settings: DispersionSettings, opinions: list[PromptOpinion], progress: Progress
) -> Analysis:
    from mallowspo.dispersion.rankings_analysis import analyse_rankings, opinion_of_rankings
    from mallowspo.dispersion.rankings_file import load_rankings, load_truth

    names = {"column": options.rankings_column, "columns": options.columns, "split": options.dataset_train_split}
    with told_as(DATASET_OPTIONS | {"dataset": "rankings"}):
        parts = [load_rankings(path, **names) for path in options.rankings]
    rows = _joined(parts)
    truth = None
    if options.truth is not None:
        sizes = {ranks.shape[1] for ranks in rows.ranks}
        if len(sizes) > 1:
            raise InputError(f"truth: the rankings are of {min(sizes)} to {max(sizes)} items, one truth fits one size")
        with told_as({"dataset": "truth"}):
            truth = load_truth(options.truth, items=sizes.pop())
    if (mixed := mixed_judges([name for part in parts for name in part.judges])) is not None:
        rows = replace(rows, notes=(f"These rankings are of {mixed}, and so may their dispersions.", *rows.notes))
    opinions.append(opinion_of_rankings(rows, settings=settings))
    return analyse_rankings(rows, settings=settings, truth=truth, progress=progress)


def _joined(parts: list[RankingRows]) -> RankingRows:
    from mallowspo.dispersion.rankings_file import RankingRows

    ties = {part.ties for part in parts if part.tied or any(np.isnan(ranks).any() for ranks in part.ranks)}
    if len(ties) > 1:
        raise InputError(
            "rankings: equal scores in one of these files say that two responses are equal, and shared or open ranks "
            "in another that no order was given; analyse the files one at a time"
        )
    return RankingRows(
        ranks=[ranks for part in parts for ranks in part.ranks],
        prompt_ids=[name for part in parts for name in part.prompt_ids],
        prompts=[text for part in parts for text in part.prompts],
        items=[items for part in parts for items in part.items],
        form="; ".join(dict.fromkeys(part.form for part in parts)),
        counts=[counts for part in parts for counts in part.people],
        ties=ties.pop() if ties else "unordered",
        notes=tuple(note for part in parts for note in part.notes),
    )


def _reference(
    options: DispersionOptions, settings: DispersionSettings, opinions: list[PromptOpinion]
) -> tuple[Analysis, datasets.Dataset | None, dict[str, str]]:
    from mallowspo.scoring import ReferenceStore

    assert options.reference is not None
    try:
        store = ReferenceStore.open(options.reference)
        rows = store.read() if store.manifest.rows else None
    except InputError as error:
        raise InputError(f"reference: {error}") from error
    if rows is None:
        raise InputError(f"reference: {options.reference} has no rows")
    pairs = None if options.dataset_name is None else _data_of(options, rows, "objective" in store.manifest.made_with)
    analysis = analyse_reference(
        ReferenceStatistics.of(rows.scores, vocab_size=rows.vocab_size),
        rows.prompt_ids,
        settings=settings,
        row_index=rows.row_index.tolist(),
        texts=None if pairs is None else _texts(pairs),
        people=opinions[0] if opinions else None,
    )
    return analysis, pairs, dict(store.manifest.made_with)


def _data_of(options: DispersionOptions, rows: StoredRows, lists: bool) -> datasets.Dataset:
    """The rows of the store, which may be those of whole lists, as they stand in the data, in the store's order."""
    from mallowspo.data.records import prompt_id_of_text
    from mallowspo.scoring.store_reader import numbered_pairs

    pairs = read_pairs(options, lists=lists)[1].dataset
    numbers, stored = pairs["row_index"][:], rows.row_index.tolist()
    places = {key: place for place, key in enumerate(numbered_pairs(numbers))}
    in_data, in_store = Counter(numbers), Counter(stored)
    chosen: list[int] = []
    for number, nth in numbered_pairs(stored):
        if number not in in_data:
            raise InputError(
                f"dataset_name: {options.dataset_name} has no row {number + 1:,}, which the store {options.reference} "
                "has; give the data and the split of `mallowspo reference`"
            )
        place = places.get((number, nth), -1)
        # A store keeps the order of its data; a number of a user's own may name other rows here.
        if place <= (chosen[-1] if chosen else -1):
            raise _other_data(options, number)
        if in_data[number] != in_store[number]:
            raise InputError(
                f"dataset_name: row {number + 1:,} of {options.dataset_name} gives {in_data[number]} pairs, of which "
                f"the store {options.reference} has {in_store[number]}, for the others were left out as tokens; which "
                "ones cannot be told, so take that row out of the data and make the store again, or leave out "
                "dataset_name"
            )
        chosen.append(place)
    found = pairs.select(chosen)
    context = [name for name in ("tools", "chat_template_kwargs") if name in found.column_names]
    for row, number, name in zip(found.select_columns(["prompt", *context]), stored, rows.prompt_ids, strict=True):
        if prompt_id_of_text(row["prompt"], {column: row[column] for column in context}) != name:
            raise _other_data(options, number)
    return found


def _other_data(options: DispersionOptions, number: int) -> InputError:
    return InputError(
        f"dataset_name: row {number + 1:,} of {options.dataset_name} is not the one that the store "
        f"{options.reference} was made from; give the data and the split of `mallowspo reference`"
    )


def _texts(pairs: datasets.Dataset) -> RowTexts:
    from mallowspo.dispersion.published import number_or_none
    from mallowspo.dispersion.votes_file import SCORE_COLUMNS, as_text

    margin = None
    for chosen, rejected in SCORE_COLUMNS:
        if {chosen, rejected} <= set(pairs.column_names):
            scores = ([number_or_none(value) for value in pairs[name][:]] for name in (chosen, rejected))
            better, worse = (np.array(values, np.float64) for values in scores)  # None becomes NaN
            margin = better - worse
            break
    return RowTexts(
        prompts=[as_text(value) for value in pairs["prompt"]],
        responses=[(as_text(a), as_text(b)) for a, b in zip(pairs["chosen"], pairs["rejected"], strict=True)],
        reward_margin=margin,
    )


def _write_table(
    path: Path,
    columns: dict[str, Any],
    pairs: datasets.Dataset | None,
    opinions: list[PromptOpinion],
    main: str,
) -> None:
    """Write the table; with the data's own columns where they are known, so that it can be trained on as it is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mallowspo.data.tables import parquet_table

    table: pa.Table = pa.table({name: pa.array(values) for name, values in columns.items()})
    if main == "reference":
        for opinion in opinions:
            nan = float("nan")
            phi = np.exp(-np.array([opinion.neg_log_phi.get(name, nan) for name in columns["prompt_id"]]))
            table = table.append_column(f"{opinion.source}_dispersion", pa.array(phi))
    if pairs is not None:
        kept = [name for name in pairs.column_names if name not in table.column_names]
        words: pa.Table = pairs.select_columns(kept).with_format("arrow")[:]
        for name in words.column_names:
            table = table.append_column(name, words.column(name))
    with atomic_path(path) as beside:
        pq.write_table(parquet_table(table), beside, compression="zstd")
