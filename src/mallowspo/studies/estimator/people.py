"""Does a model's dispersion index track people's disagreement? Every index against votes and rankings.

For each data set, each index of the family is compared with what people said: over pairs and over prompts by rank
correlation, and by how well it tells pairs on which voters contradict each other from unanimous ones. Beside the
indexes stand controls that need no model (length, difference in length, overlap of the two responses): an index that
does not beat them has read nothing but the surface.

A study of its own, `PEOPLE`, and a part of the study `estimator`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mallowspo.dispersion import ESTIMATORS, prompt_index, votes_index
from mallowspo.dispersion.analysis import PromptOpinion
from mallowspo.dispersion.diagnostics import correlation, statistic
from mallowspo.dispersion.settings import DispersionSettings
from mallowspo.dispersion.side_by_side import side_by_side
from mallowspo.dispersion.votes_file import VoteRows
from mallowspo.errors import InputError
from mallowspo.reports.blocks import Meta, Report, Section, Table, literal
from mallowspo.reports.figures import grouped_interval_figure
from mallowspo.reports.sections import picture, table
from mallowspo.reports.text import interval_text
from mallowspo.stats.bootstrap import auroc
from mallowspo.stats.intervals import Interval
from mallowspo.stats.verdicts import verdict
from mallowspo.studies.estimator.bench import score_pairs
from mallowspo.studies.pages import interval
from mallowspo.studies.study import Done, Results, Stage, Study

__all__ = [
    "CONTROLS", "PEOPLE", "PeopleJob", "PeopleSettings", "compare", "contradiction_table", "open_model",
    "people_figures", "people_sections", "people_stage",
]  # fmt: skip

Floats = NDArray[np.float64]

CONTROLS = ("length", "length_difference", "overlap")
"""What needs no model: mean length and difference in length (characters), and the responses' share of common words."""


@dataclass(frozen=True, kw_only=True)
class PeopleSettings:
    """Settings of the comparison with people."""

    model: str  # folder or name of a causal language model
    # Name of a data set → file of votes (see `mallowspo.dispersion.votes_file`). One that also holds rankings is
    # compared with these as well
    data: Mapping[str, str] = field(default_factory=dict)
    output_dir: str = "output/people"  # where `results.json`, the page and its figures go
    max_prompt_tokens: int = 128  # of a longer prompt the end is kept
    max_length: int = 512  # tokens of prompt and response together
    batch_size: int = 16  # responses a batch
    rows: int | None = None  # pairs that are used of each data set; all where None
    resamples: int = 2000  # bootstrap draws over prompts
    seed: int = 0  # of the bootstrap
    trust_remote_code: bool = False  # run code that comes with the model
    workers: int = 0  # without effect: the model is used in the calling process


@dataclass(frozen=True)
class PeopleJob:
    """One data set of people's votes: its name and its file."""

    name: str
    path: str


@dataclass(frozen=True)
class _Bench:
    settings: PeopleSettings
    model: Any
    tokenizer: Any


def people_jobs(data: Mapping[str, str]) -> list[PeopleJob]:
    """One job a data set; its name is part of a file's."""
    for name in data:
        if name != Path(name).name:
            raise InputError(f"data: got the name {name!r}, expected one without a slash")
    return [PeopleJob(name, path) for name, path in data.items()]


def open_model(settings: PeopleSettings, job: PeopleJob, folder: Path) -> _Bench:
    """Load the model and its tokenizer."""
    from mallowspo.compat import add_score_head
    from mallowspo.evaluation.local_model import load_causal_model, load_tokenizer
    from mallowspo.scoring.self_check import check_scores

    loading: dict[str, Any] = {"option": "model_name_or_path", "trust_remote_code": settings.trust_remote_code}
    model = load_causal_model(settings.model, dtype="auto", use_cpu=True, **loading).float()
    add_score_head(model)
    check_scores(model, model.device, packed=False)
    return _Bench(settings, model, load_tokenizer(settings.model, **loading))


def compare(bench: _Bench, job: PeopleJob) -> Results:
    """Hold every index of the model, and every control, against one data set."""
    from mallowspo.dispersion.votes_file import load_votes

    settings = bench.settings
    rows = _usable(job.name, load_votes(job.path), settings.rows)
    scored = score_pairs(
        bench.model,
        bench.tokenizer,
        rows,
        max_prompt_tokens=settings.max_prompt_tokens,
        max_length=settings.max_length,
        batch_size=settings.batch_size,
    )
    indexes = {estimator: read(scored.statistics) for estimator, read in ESTIMATORS.items()}
    controls = _controls(rows)
    names, phi, length = rows.prompt_ids, votes_index(rows.votes).phi_n, controls["length"]
    first, second = rows.votes[:, 0], rows.votes[:, 1]
    # A pair that all found equal is neither agreed upon nor contested: it has no direction to agree on.
    contradicted = np.minimum(first, second) > 0
    unanimous = (np.minimum(first, second) == 0) & (np.maximum(first, second) >= 2) & (rows.votes[:, 2] == 0)
    clear = contradicted | unanimous
    opinions = _opinions(rows, job.path, settings)

    def ask(name: str, index: Floats) -> Results:
        """All that is asked of one index; every index meets the same draws."""
        drawing: dict[str, Any] = {"rng": np.random.default_rng(settings.seed), "resamples": settings.resamples}
        found: Results = {
            "pairs": correlation(index, phi, groups=names, **drawing),
            "pairs_given_length": correlation(_without(index, length), _without(phi, length), groups=names, **drawing),
            "auroc": statistic(
                auroc(index[clear], contradicted[clear], groups=[names[i] for i in np.flatnonzero(clear)], **drawing),
                int(clear.sum()),
            ),
        }
        whole = prompt_index(name, index, names) if name in ESTIMATORS else index
        for opinion in opinions:
            found[f"prompts_{opinion.source}"] = side_by_side(whole, names, opinion, **drawing).summary["correlation"]
        return found

    return {
        "pairs": len(rows.votes),
        "votes": float(rows.votes.sum()),
        "prompts": scored.prompts,
        "responses": scored.responses,
        "cut_responses": scored.cut_responses,
        "cut_prompts": scored.cut_prompts,
        "contradicted": int(contradicted.sum()),
        "unanimous": int(unanimous.sum()),
        "indexes": {name: ask(name, index) for name, index in (indexes | controls).items()},
        "per_prompt": {opinion.source: len(opinion.neg_log_phi) for opinion in opinions},
    }


def _usable(name: str, rows: VoteRows, count: int | None) -> VoteRows:
    """Leave out pairs without words and pairs of equal words, which say nothing that a model could have read."""
    kept = [n for n, (first, second) in enumerate(rows.responses) if first.strip() and second.strip()]
    kept = [n for n in kept if rows.responses[n][0] != rows.responses[n][1]][:count]
    if not kept:
        raise InputError(f"data: {name} has votes on responses without words, which no model can score")
    return VoteRows(
        rows.votes[kept],
        [rows.prompt_ids[n] for n in kept],
        rows.row_index[kept],
        [rows.prompts[n] for n in kept],
        [rows.responses[n] for n in kept],
        rows.form,
    )


def _controls(rows: VoteRows) -> dict[str, Floats]:
    """The surface of the pairs, of the whole texts, whatever the model saw of them."""
    length = np.array([[len(text) for text in pair] for pair in rows.responses], np.float64)
    words = [tuple(set(text.lower().split()) for text in pair) for pair in rows.responses]
    return {
        "length": length.mean(axis=1),
        "length_difference": np.abs(length[:, 0] - length[:, 1]),
        "overlap": np.array([len(a & b) / max(1, len(a | b)) for a, b in words]),
    }


def _opinions(rows: VoteRows, path: str, settings: PeopleSettings) -> list[PromptOpinion]:
    from mallowspo.dispersion.rankings_analysis import opinion_of_rankings
    from mallowspo.dispersion.rankings_file import load_rankings
    from mallowspo.dispersion.votes_analysis import opinion_of_votes
    from mallowspo.dispersion.votes_file import VOTE_FORMS

    # Half a ranking at random: three people who agree by chance should not outweigh everybody else.
    own = DispersionSettings(seed=settings.seed, ranking_prior=0.5)
    opinions = [opinion_of_votes(rows, settings=own)]
    if rows.form == VOTE_FORMS[3]:
        opinions.append(opinion_of_rankings(load_rankings(path), settings=own))
    return opinions


def _without(values: Floats, control: Floats) -> Floats:
    """Ranks of values after a linear fit to the ranks of a control is taken away: a partial rank correlation."""
    y, x = rankdata(values), rankdata(control)
    x = x - x.mean()
    if not x.any():
        return np.asarray(y, np.float64)
    return np.asarray(y - y.mean() - x * float(x @ y) / float(x @ x), np.float64)


_QUESTIONS = {
    "pairs": "over pairs",
    "pairs_given_length": "over pairs, length held fixed",
    "prompts_votes": "over prompts, votes",
    "prompts_rankings": "over prompts, rankings",
    "auroc": "AUROC, contradicted pairs",
}
"""What is asked of an index, as the tables call it."""


def _asked(facts: Results, *names: str) -> dict[str, str]:
    """Those of the questions that the data set has an answer to."""
    indexes = facts["indexes"].values()
    return {key: _QUESTIONS[key] for key in names or _QUESTIONS if any(key in found for found in indexes)}


def _name(index: str) -> str:
    return index.replace("_", " ") + (" (no model)" if index in CONTROLS else "")


def people_figures(data: Results) -> dict[str, Any]:
    """A figure for each data set: the rank correlation of every index with people."""
    found = {}
    for name, facts in data.items():
        indexes = facts["indexes"]
        asked = _asked(facts, "pairs", "prompts_votes", "prompts_rankings")
        found[f"people_{name}"] = grouped_interval_figure(
            {text: Interval.stack([item[key] for item in indexes.values()]) for key, text in asked.items()},
            [_name(index) for index in indexes],
            x_label="Rank correlation with people's φ (above 0: rises with disagreement)",
            title=f"{name}: {facts['pairs']:,} pairs, {facts['prompts']:,} prompts",
        )
    return found


def contradiction_table(data: Results) -> Table:
    """Whether an index is larger where voters contradict each other: what the interval of its AUROC says."""
    words = {"more": "larger", "less": "smaller", "open": "no significant difference"}

    def said(facts: Results, index: str) -> str:
        chance = Interval.of(facts["indexes"][index]["auroc"])
        above = Interval(chance.mean - 0.5, chance.low - 0.5, chance.high - 0.5)
        return f"{words[verdict(above, more_is='more')]}, {interval_text(chance)}"

    # An index that a data set lacks is one that its run did not know yet.
    indexes = list(dict.fromkeys(index for facts in data.values() for index in facts["indexes"]))
    rows = [[_name(index), *(said(facts, index) for facts in data.values())] for index in indexes]
    return Table(["index", *(f"on contradicted pairs, AUROC, {name}" for name in data)], rows)


def people_sections(data: Results) -> list[Section]:
    """A section for each data set: what it holds, the figure and every answer."""
    sections = []
    for name, facts in data.items():
        held = ("pairs", "prompts", "votes", "contradicted", "unanimous", "responses", "cut_responses", "cut_prompts")
        counts = Table([name.replace("_", " ") for name in held], [[f"{facts[name]:,.0f}" for name in held]])
        columns: dict[str, Any] = {"index": lambda row: _name(row[0])}
        columns |= {title: interval(f"1.{key}") for key, title in _asked(facts).items()}
        figure = picture(
            f"people_{name}",
            f"Rank correlation of every index with people, {name}.",
            "Whiskers are 95% intervals, by drawing whole prompts anew.",
        )
        sections.append(Section(literal(name), [counts, figure, table(facts["indexes"].items(), columns)]))
    return sections


def page(results: Results) -> Report:
    """What the page says."""
    return Report(
        title="Does a model's dispersion index track people's disagreement?",
        summary=(
            "Rank correlations with people's φ are 1 at best, negative the wrong way round; the AUROC is the chance "
            "that a pair on which voters contradict each other has the larger index than a unanimous one, ½ by chance "
            "(brackets: 95% intervals, by drawing whole prompts anew; *no model*: needs none)."
        ),
        sections=people_sections(results["data"]),
        meta=Meta(seeds=[results["config"]["seed"]], extra={"Model": Path(results["config"]["model"]).name}),
        verdicts=contradiction_table(results["data"]),
    )


def people_stage(setup: Callable[[Any, Done], PeopleSettings]) -> Stage[Any]:
    """The stage that compares a model with people; one process uses the model."""
    return Stage(
        "people", "Comparing with people", lambda settings, done: people_jobs(settings.data), setup, compare,
        bench=open_model, parallel=False,
    )  # fmt: skip


def _setup(settings: PeopleSettings, done: Done) -> PeopleSettings:
    """What every data set depends on; neither where results go nor which other data sets there are."""
    if not settings.data:
        raise InputError("data: name at least one file of votes")
    return replace(settings, data={}, output_dir="", workers=0)


PEOPLE: Study[PeopleSettings] = Study(
    name="people",
    version=1,
    stages=(people_stage(_setup),),
    summarise=lambda settings, done: {"data": dict(zip(settings.data, done["people"], strict=True))},
    figures=lambda results: people_figures(results["data"]),
    page=page,
    presets={},
    imports=(),
)
"""The declaration, for any model and any files of votes: `run_study(PEOPLE, PeopleSettings(model=…, data=…))`."""
