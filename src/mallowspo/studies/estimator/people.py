"""Does a model's dispersion index track people's disagreement? Every index against votes and rankings.

For each data set, each index of the family is compared with what people said: over pairs and over prompts by rank
correlation, and by how well it tells pairs on which voters contradict each other from unanimous ones. Beside the
indexes stand controls that need no model (length, difference in length, overlap of the two responses): an index that
does not beat them has read nothing but the surface.

The model scores each response once, in jobs of some prompts, and answers a part of the prompts itself; what it said is
kept, and compared with people without it. A study of its own, `PEOPLE`, and a part of the study `estimator`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mallowspo.dispersion import ESTIMATORS, prompt_index, votes_index
from mallowspo.dispersion.analysis import PromptOpinion
from mallowspo.dispersion.diagnostics import correlation, statistic
from mallowspo.dispersion.entropy import ReferenceStatistics
from mallowspo.dispersion.panel import PANEL_ALTERNATIVES
from mallowspo.dispersion.reference_analysis import analyse_reference
from mallowspo.dispersion.settings import DispersionSettings
from mallowspo.dispersion.side_by_side import side_by_side
from mallowspo.dispersion.votes_file import VoteRows
from mallowspo.errors import InputError
from mallowspo.reports.blocks import Block, Meta, Report, Section, Table, literal
from mallowspo.reports.figures import grouped_interval_figure
from mallowspo.reports.sections import picture, table
from mallowspo.reports.text import interval_text
from mallowspo.stats.bootstrap import auroc
from mallowspo.stats.intervals import Interval
from mallowspo.stats.verdicts import verdict
from mallowspo.studies.estimator.bench import prompt_tokens, score_pairs
from mallowspo.studies.estimator.indexes import PANELS, SAMPLED, read_indexes
from mallowspo.studies.pages import interval
from mallowspo.studies.policies import check_at_least, check_known
from mallowspo.studies.study import Done, Results, Stage, Study

__all__ = [
    "CONTROLS", "PEOPLE", "PeopleSettings", "compare", "contradiction_table", "open_model", "people_figures",
    "people_sections", "people_stages",
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
    prompt_format: str = "auto"  # `chat`: the user's turn of the model's chat template; `text`; `auto`: chat if it can
    # Name of a data set → words before each of its prompts, such as a task that its file does not state
    instructions: Mapping[str, str] = field(default_factory=dict)
    batch_size: int = 16  # responses a batch
    prompts_per_job: int = 8  # prompts between two saves
    rows: int | None = None  # pairs that are used of each data set; all where None
    sampled_prompts: int = 0  # prompts of each data set, drawn at random, to which the model gives answers of its own
    samples: int = 16  # answers to each of them, at temperature 1
    max_new_tokens: int = 32  # tokens after which a sampled answer is cut
    resamples: int = 2000  # bootstrap draws over prompts
    seed: int = 0  # of the bootstrap
    trust_remote_code: bool = False  # run code that comes with the model
    workers: int = 0  # without effect: the model is used in the calling process

    def __post_init__(self) -> None:
        from mallowspo.evaluation.local_model import PROMPT_FORMATS

        check_at_least(self, prompts_per_job=1, samples=2, max_new_tokens=1, sampled_prompts=0)
        check_known(self, "prompt_format", PROMPT_FORMATS)
        if self.data and self.instructions:
            check_known(self, "instructions", self.data)


@dataclass(frozen=True)
class ReadingJob:
    """Some prompts of one data set of people's votes, for the model to read or to answer."""

    name: str
    path: str
    instruction: str
    prompts: tuple[int, ...]  # in the order of the file


@dataclass(frozen=True)
class CompareJob:
    """One data set of people's votes, and what the model said of it, a job after the other."""

    name: str
    path: str
    readings: Sequence[Results]
    answers: Sequence[Results]


@dataclass(frozen=True)
class _Bench:
    settings: PeopleSettings
    model: Any
    tokenizer: Any


def reading_jobs(settings: PeopleSettings, data: Mapping[str, str], *, answered: bool) -> list[ReadingJob]:
    """Every data set in parts of some prompts, all of them or those drawn to be answered."""
    jobs = []
    for place, (name, path) in enumerate(data.items()):
        if name != Path(name).name:
            raise InputError(f"data: got the name {name!r}, expected one without a slash")
        prompts = np.arange(len(set(_usable(name, path, settings.rows).prompt_ids)))
        if answered:
            prompts = np.random.default_rng([settings.seed, place]).permutation(prompts)[: settings.sampled_prompts]
        for first in range(0, len(prompts), settings.prompts_per_job):
            here = tuple(prompts[first : first + settings.prompts_per_job].tolist())
            jobs.append(ReadingJob(name, path, settings.instructions.get(name, ""), here))
    return jobs


def compare_jobs(settings: PeopleSettings, data: Mapping[str, str], done: Done) -> list[CompareJob]:
    """One job a data set."""
    said: dict[str, dict[str, list[Results]]] = {}
    for stage, answered in (("readings", False), ("answers", True)):
        for job, result in zip(reading_jobs(settings, data, answered=answered), done[stage], strict=True):
            said.setdefault(job.name, {"readings": [], "answers": []})[stage].append(result)
    return [CompareJob(name, path, **said[name]) for name, path in data.items()]


def open_model(settings: PeopleSettings, job: ReadingJob, folder: Path) -> _Bench:
    """Load the model and its tokenizer."""
    from mallowspo.compat import add_score_head
    from mallowspo.evaluation.local_model import load_causal_model, load_tokenizer
    from mallowspo.scoring.self_check import check_scores

    loading: dict[str, Any] = {"option": "model_name_or_path", "trust_remote_code": settings.trust_remote_code}
    model = load_causal_model(settings.model, dtype="auto", use_cpu=True, **loading).float()
    add_score_head(model)
    check_scores(model, model.device, packed=False)
    return _Bench(settings, model, load_tokenizer(settings.model, **loading))


_COUNTS = ("prompts", "responses", "cut_responses", "cut_prompts")
_STATISTICS = ("logp_nk", "entropy_sum_nk", "length_nk", "first_entropy_nk", "divergent_entropy_nk")


def read_part(bench: _Bench, job: ReadingJob) -> Results:
    """Score every response to some prompts."""
    settings, rows = bench.settings, _usable(job.name, job.path, bench.settings.rows)
    here = {name for place, name in enumerate(dict.fromkeys(rows.prompt_ids)) if place in job.prompts}
    places = [n for n, name in enumerate(rows.prompt_ids) if name in here]
    taken = _take(rows, places)
    scored = score_pairs(
        bench.model,
        bench.tokenizer,
        replace(taken, prompts=[job.instruction + text for text in taken.prompts]),
        max_prompt_tokens=settings.max_prompt_tokens,
        max_length=settings.max_length,
        batch_size=settings.batch_size,
        chat=_speaks_chat(settings, bench.tokenizer),
    )
    return {
        "places": places,
        **{name: getattr(scored.statistics, name) for name in _STATISTICS},
        "vocab_size": scored.statistics.vocab_size,
        **{name: getattr(scored, name) for name in _COUNTS},
    }


def answer_part(bench: _Bench, job: ReadingJob) -> Results:
    """Sample answers to some prompts."""
    settings, rows = bench.settings, _usable(job.name, job.path, bench.settings.rows)
    names = list(dict.fromkeys(rows.prompt_ids))
    text_of = dict(zip(rows.prompt_ids, rows.prompts, strict=True))
    chat = _speaks_chat(settings, bench.tokenizer)
    answers = []
    for prompt in job.prompts:
        text = job.instruction + text_of[names[prompt]]
        ids, _ = prompt_tokens(bench.tokenizer, text, most=settings.max_prompt_tokens, chat=chat)
        answers.append(sampled_answers(bench, ids, seed=[settings.seed, prompt]))
    return {"names": [names[prompt] for prompt in job.prompts], "answers": answers}


def sampled_answers(bench: _Bench, prompt: Sequence[int], *, seed: Sequence[int]) -> list[list[Any]]:
    """Answers of the model's own: the tokens of each, how often it came, its log-probability, its entropies."""
    import torch
    from transformers import GenerationConfig

    from mallowspo.evaluation.local_model import end_token_ids, up_to_end, without_own_settings

    settings, model = bench.settings, bench.model
    ends = end_token_ids(model, bench.tokenizer)
    ids = torch.tensor([list(prompt)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        config = GenerationConfig(
            do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=settings.samples,
            max_new_tokens=settings.max_new_tokens, eos_token_id=list(ends), pad_token_id=ends[0], output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
        with without_own_settings(model, config):
            made = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    tokens = made.sequences[:, ids.shape[1] :]
    found: dict[tuple[int, ...], list[Any]] = {}
    logp_bt, entropy_bt = [], []
    for step, logits_bv in enumerate(made.logits):
        logp_bv = logits_bv.double().log_softmax(-1)
        logp_bt.append(logp_bv.gather(-1, tokens[:, step : step + 1])[:, 0])
        entropy_bt.append(-(logp_bv.exp() * logp_bv).sum(-1))
    for row, answer in enumerate(tokens.tolist()):
        kept = up_to_end(answer, ends)
        logp = float(sum(values[row] for values in logp_bt[: len(kept)]))
        entropies = [float(values[row]) for values in entropy_bt[: len(kept)]]
        found.setdefault(tuple(kept), [kept, 0, logp, entropies])[1] += 1
    return list(found.values())


def _speaks_chat(settings: PeopleSettings, tokenizer: Any) -> bool:
    there = bool(getattr(tokenizer, "chat_template", None))
    if settings.prompt_format == "chat" and not there:
        raise InputError("prompt_format: got 'chat', but the model has no chat template; take text or auto")
    return there and settings.prompt_format != "text"


def compare(settings: PeopleSettings, job: CompareJob) -> Results:
    """Hold every index of the model, and every control, against one data set."""
    rows = _usable(job.name, job.path, settings.rows)
    order = np.argsort(np.concatenate([np.asarray(one["places"]) for one in job.readings]), kind="stable")

    def read(name: str) -> Floats:
        parts = [np.asarray(one[name], np.float64).reshape(-1, 2) for one in job.readings]
        return np.asarray(np.concatenate(parts)[order], np.float64)

    vocab_size = int(job.readings[0]["vocab_size"])
    statistics = ReferenceStatistics(vocab_size=vocab_size, **{name: read(name) for name in _STATISTICS})
    indexes: dict[str, Floats] = {name: estimator(statistics) for name, estimator in ESTIMATORS.items()}
    opinions = _opinions(rows, job.path, settings)
    found = _against_people(settings, rows, indexes | _controls(rows), opinions)
    sampled = _sampled_indexes(job.answers, rows, indexes, vocab_size)
    if sampled:
        names, by_prompt = sampled
        part = _take(rows, [n for n, name in enumerate(rows.prompt_ids) if name in names])
        spread = {index: np.array([by_prompt[index][names[name]] for name in part.prompt_ids]) for index in by_prompt}
        found["sampled"] = _against_people(settings, part, spread | _controls(part), [])
    worth = {name: _worth(name, statistics, rows, opinions[0], settings) for name in ESTIMATORS}
    return {**found, **{name: sum(one[name] for one in job.readings) for name in _COUNTS}, "worth": worth}


def _sampled_indexes(
    answered: Sequence[Results], rows: VoteRows, indexes: Mapping[str, Floats], vocab_size: int
) -> tuple[dict[str, int], dict[str, Floats]] | None:
    """Every index of one pass and of sampled answers, on the prompts that have some; None where none has."""
    names = [name for one in answered for name in one["names"]]
    if len(names) < 3:
        return None
    first = [rows.prompt_ids.index(name) for name in names]
    per_prompt = {
        name: prompt_index(name, index, rows.prompt_ids)[first] for name, index in indexes.items() if name != "panel"
    }
    reading = {"indexes": per_prompt, "answers": [given for one in answered for given in one["answers"]]}
    read = read_indexes(reading, vocab_size=vocab_size, alternatives=PANEL_ALTERNATIVES)
    return {name: place for place, name in enumerate(names)}, {name: index.u_p for name, index in read.items()}


def _worth(
    name: str, statistics: ReferenceStatistics, rows: VoteRows, votes: PromptOpinion, settings: PeopleSettings
) -> Results | None:
    """What this index's weights, by the released map, are worth by people's votes; None where there are none."""
    if not ESTIMATORS[name].bounded:
        return None  # the released map takes no entropy summed over an answer
    own = DispersionSettings(estimator=name, seed=settings.seed)
    try:
        found = analyse_reference(statistics, rows.prompt_ids, settings=own, people=votes)
    except InputError:  # the same for every prompt, so that there is nothing to weigh
        return None
    told: Results = found.summary["worth"]
    return {"variation": told["variation"], "people": told["people"]}


def _against_people(
    settings: PeopleSettings, rows: VoteRows, indexes: Mapping[str, Floats], opinions: Sequence[PromptOpinion]
) -> Results:
    """Every index, one value a pair, against the votes on its pairs and what people said of whole prompts."""
    controls = _controls(rows)
    length, difference = controls["length"], controls["length_difference"]
    names, phi = rows.prompt_ids, votes_index(rows.votes).phi_n
    first, second = rows.votes[:, 0], rows.votes[:, 1]
    # A pair that all found equal is neither agreed upon nor contested: it has no direction to agree on.
    contradicted = np.minimum(first, second) > 0
    unanimous = (np.minimum(first, second) == 0) & (np.maximum(first, second) >= 2) & (rows.votes[:, 2] == 0)
    clear = contradicted | unanimous

    def ask(name: str, index: Floats) -> Results:
        """All that is asked of one index; every index meets the same draws."""
        drawing: dict[str, Any] = {"rng": np.random.default_rng(settings.seed), "resamples": settings.resamples}
        found: Results = {
            "pairs": correlation(index, phi, groups=names, **drawing),
            "pairs_given_length": correlation(_without(index, length), _without(phi, length), groups=names, **drawing),
        }
        voted = [names[i] for i in np.flatnonzero(clear)]

        def told_apart(values: Floats) -> Results:
            return statistic(auroc(values[clear], contradicted[clear], groups=voted, **drawing), int(clear.sum()))

        found["auroc"] = told_apart(index)
        whole = prompt_index(name, index, names) if name in ESTIMATORS else index
        for opinion in opinions:
            found[f"prompts_{opinion.source}"] = side_by_side(whole, names, opinion, **drawing).summary["correlation"]
        found["auroc_given_length"] = told_apart(_without(index, length, difference))
        return found

    return {
        "pairs": len(rows.votes),
        "votes": float(rows.votes.sum()),
        "contradicted": int(contradicted.sum()),
        "unanimous": int(unanimous.sum()),
        "indexes": {name: ask(name, index) for name, index in indexes.items()},
        "per_prompt": {opinion.source: len(opinion.neg_log_phi) for opinion in opinions},
    }


@functools.lru_cache(maxsize=8)
def _usable(name: str, path: str, count: int | None) -> VoteRows:
    """Read votes but for pairs of no words and pairs of equal words, which say nothing that a model could read."""
    from mallowspo.dispersion.votes_file import load_votes

    rows = load_votes(path)
    kept = [n for n, (a, b) in enumerate(rows.responses) if a.strip() and b.strip() and a != b][:count]
    if not kept:
        raise InputError(f"data: {name} has votes on responses without words, which no model can score")
    return _take(rows, kept)


def _take(rows: VoteRows, kept: Sequence[int]) -> VoteRows:
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


def _without(values: Floats, *controls: Floats) -> Floats:
    """Ranks of values after a linear fit to the ranks of controls is taken away: a partial rank correlation."""
    y = rankdata(values) - (len(values) + 1) / 2
    x = np.stack([rankdata(control) - (len(values) + 1) / 2 for control in controls], axis=1)
    left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    # What the controls explain whole is tied, and not ordered by rounding.
    return np.asarray(np.round(left, 8) + 0.0, np.float64)


_QUESTIONS = {
    "pairs": "over pairs",
    "pairs_given_length": "over pairs, length held fixed",
    "prompts_votes": "over prompts, votes",
    "prompts_rankings": "over prompts, rankings",
    "auroc": "AUROC, contradicted pairs",
    "auroc_given_length": "AUROC, length and difference in length held fixed",
}
"""What is asked of an index, as the tables call it."""


def _asked(facts: Results, *names: str) -> dict[str, str]:
    """Those of the questions that the data set has an answer to."""
    indexes = facts["indexes"].values()
    return {key: _QUESTIONS[key] for key in names or _QUESTIONS if any(key in found for found in indexes)}


def _name(index: str) -> str:
    sampled = {**SAMPLED, **{name: text for name, text in PANELS.items() if name != "panel"}}
    return sampled.get(index, index.replace("_", " ")) + (" (no model)" if index in CONTROLS else "")


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
    # An index that a data set lacks is one that its run did not know yet.
    indexes = list(dict.fromkeys(index for facts in data.values() for index in facts["indexes"]))
    asked = {"auroc": "AUROC"}
    if any("auroc_given_length" in found for facts in data.values() for found in facts["indexes"].values()):
        asked["auroc_given_length"] = "length held fixed"

    def off_chance(area: Results) -> str:
        return f"{_off(area, 0.5, 'larger', 'smaller')}, {interval_text(area)}"

    rows = [
        [
            _name(index),
            *(
                "–" if _is_held(index, key) else off_chance(facts["indexes"][index][key])
                for facts in data.values()
                for key in asked
            ),
        ]
        for index in indexes
    ]
    return Table(
        ["index", *(f"on contradicted pairs, {how}, {name}" for name in data for how in asked.values())], rows
    )


def _is_held(index: str, key: str) -> bool:
    """Whether the index itself is what a question holds fixed."""
    return key == "auroc_given_length" and index in ("length", "length_difference")


def _off(interval: Results, nothing: float, more: str, less: str) -> str:
    """Whether an interval lies above or below what says nothing, in these words."""
    found = Interval.of(interval)
    off = Interval(found.mean - nothing, found.low - nothing, found.high - nothing)
    return {"more": more, "less": less, "open": "no significant difference"}[verdict(off, more_is="more")]


def people_sections(data: Results) -> list[Section]:
    """A section for each data set: what it holds, the figure and every answer."""
    sections = []
    for name, facts in data.items():
        held = ("pairs", "prompts", "votes", "contradicted", "unanimous", "responses", "cut_responses", "cut_prompts")
        counts = Table([name.replace("_", " ") for name in held], [[f"{facts[name]:,.0f}" for name in held]])
        figure = picture(
            f"people_{name}",
            f"Rank correlation of every index with people, {name}.",
            "Whiskers are 95% intervals, by drawing whole prompts anew.",
        )
        body: list[Block] = [counts, figure, _answers_table(facts)]
        if any(facts.get("worth", {}).values()):
            body.append(_worth_table(facts["worth"]))
        if "sampled" in facts:
            part = facts["sampled"]
            caption = (
                f"With indexes of sampled answers, on {part['pairs']:,} pairs ({part['contradicted']:,} contradicted, "
                f"{part['unanimous']:,} unanimous) of the prompts that the model answered."
            )
            body.append(_answers_table(part, caption))
        sections.append(Section(literal(name), body))
    return sections


def _answers_table(facts: Results, caption: str = "") -> Table:
    columns: dict[str, Any] = {"index": lambda row: _name(row[0])}
    for key, title in _asked(facts).items():
        shown = interval(f"1.{key}")
        columns[title] = lambda row, key=key, shown=shown: "–" if _is_held(row[0], key) else shown(row)
    return table(facts["indexes"].items(), columns, caption)


def _worth_table(worth: Results) -> Table:
    """G: what each index's weights are worth in pairs, by the votes."""
    caption = (
        "What the released map's weights are worth against equal ones at most, as a factor on the number of pairs: "
        "G. It supposes shared parameters, small gaps, and that the votes tell the truth of each prompt."
    )
    columns: dict[str, Any] = {
        "index": lambda row: _name(row[0]),
        "variation of the weights": lambda row: f"{row[1]['variation']:.2f}",
        "fitted shrink factor": interval("1.people.shrink"),
        "G": interval("1.people.gain"),
        "verdict": lambda row: _off(row[1]["people"]["gain"], 1.0, "worth more pairs", "costs pairs"),
    }
    return table(((name, found) for name, found in worth.items() if found and found["people"]), columns, caption)


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


def people_stages(setup: Callable[[Any, Done], PeopleSettings]) -> tuple[Stage[Any], ...]:
    """The stages that compare a model with people; one process uses the model."""

    def read_with(settings: Any, done: Done) -> PeopleSettings:
        """What the model's reading depends on; not what is asked of it later."""
        return replace(setup(settings, done), sampled_prompts=0, resamples=1, instructions={})

    def stage(name: str, title: str, work: Callable[[Any, Any], Results], *, answered: bool) -> Stage[Any]:
        return Stage(
            name,
            title,
            lambda settings, done: reading_jobs(setup(settings, done), settings.data, answered=answered),
            read_with,
            work,
            bench=open_model,
            parallel=False,
        )

    return (
        stage("readings", "Reading people's pairs", read_part, answered=False),
        stage("answers", "Answering people's prompts", answer_part, answered=True),
        Stage(
            "people",
            "Comparing with people",
            lambda settings, done: compare_jobs(setup(settings, done), settings.data, done),
            setup,
            compare,
            parallel=False,
        ),
    )


def _setup(settings: PeopleSettings, done: Done) -> PeopleSettings:
    """What every data set depends on; neither where results go nor which other data sets there are."""
    if not settings.data:
        raise InputError("data: name at least one file of votes")
    return replace(settings, data={}, output_dir="", workers=0)


PEOPLE: Study[PeopleSettings] = Study(
    name="people",
    version=2,
    stages=people_stages(_setup),
    summarise=lambda settings, done: {"data": dict(zip(settings.data, done["people"], strict=True))},
    figures=lambda results: people_figures(results["data"]),
    page=page,
    presets={},
    imports=(),
)
"""The declaration, for any model and any files of votes: `run_study(PEOPLE, PeopleSettings(model=…, data=…))`."""
