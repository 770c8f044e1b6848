"""Does a model's dispersion index track people's disagreement? Every index against votes and rankings.

For each data set, each index of the family is compared with what people said: over pairs and over prompts by rank
correlation, and by how well it tells pairs on which voters contradict each other from unanimous ones. Beside the
indexes stand controls that need no model (length, difference in length, overlap of the two responses): an index that
does not beat them has read nothing but the surface.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mallowspo.dispersion import ESTIMATORS, prompt_index, votes_index
from mallowspo.dispersion.diagnostics import correlation, statistic
from mallowspo.dispersion.reference_analysis import PromptOpinion
from mallowspo.dispersion.settings import DispersionSettings
from mallowspo.dispersion.side_by_side import side_by_side
from mallowspo.dispersion.votes_file import VoteRows
from mallowspo.errors import InputError
from mallowspo.files import write_json
from mallowspo.outputs import writable_folder
from mallowspo.progress import Progress, silent
from mallowspo.stats.bootstrap import auroc
from mallowspo.stats.intervals import Interval

__all__ = ["CONTROLS", "EstimatorConfig", "run_estimator_study"]

Floats = NDArray[np.float64]
CONTROLS = ("length", "length_difference", "overlap")
"""What needs no model: mean length and difference in length (characters), and the responses' share of common words."""


@dataclass(frozen=True, kw_only=True)
class EstimatorConfig:
    """Settings of the study.

    Attributes:
        model: Folder or name of a causal language model.
        data: Name of a data set -> file of votes (see `mallowspo.dispersion.votes_file`). One that also holds
            rankings is compared with these as well.
        output_dir: Where `results.json` and the figures go.
        max_prompt_tokens: Of a longer prompt the end is kept.
        max_length: Tokens of prompt and response together.
        batch_size: Responses a batch.
        rows: Pairs that are used of each data set; all where None.
        resamples: Bootstrap draws over prompts.
        seed: Of the bootstrap.
        trust_remote_code: Run code that comes with the model.
    """

    model: str
    data: Mapping[str, str]
    output_dir: str
    max_prompt_tokens: int = 128
    max_length: int = 512
    batch_size: int = 16
    rows: int | None = None
    resamples: int = 2000
    seed: int = 0
    trust_remote_code: bool = False


def run_estimator_study(config: EstimatorConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Run the study and write `results.json` and one figure per data set.

    Args:
        config: The settings.
        progress: Called as the work goes on.

    Returns:
        The findings, as in `results.json`.

    Raises:
        InputError: No data, or votes without the words of the responses.
    """
    from mallowspo.dispersion.votes_file import load_votes

    started = time.perf_counter()
    report = progress or silent
    if not config.data:
        raise InputError("data: name at least one file of votes")
    rows = {name: _usable(name, load_votes(path), config.rows) for name, path in config.data.items()}
    folder = writable_folder(config.output_dir, "output_dir")
    model, tokenizer = _load(config.model, config.trust_remote_code)
    results: dict[str, Any] = {"config": asdict(config), "data": {}}
    for name, given in rows.items():
        results["data"][name] = _compare(name, given, model, tokenizer, config, report)
    results["seconds"] = time.perf_counter() - started
    write_json(folder / "results.json", results)
    _draw(folder, results)
    return results


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


def _load(name: str, trust_remote_code: bool) -> tuple[Any, Any]:
    from mallowspo.compat import add_score_head
    from mallowspo.evaluation.local_model import load_causal_model, load_tokenizer
    from mallowspo.scoring.self_check import check_scores

    loading: dict[str, Any] = {"option": "model_name_or_path", "trust_remote_code": trust_remote_code}
    model = load_causal_model(name, dtype="auto", use_cpu=True, **loading).float()
    add_score_head(model)
    check_scores(model, model.device, packed=False)
    return model, load_tokenizer(name, **loading)


def _compare(
    name: str, rows: VoteRows, model: Any, tokenizer: Any, config: EstimatorConfig, report: Progress
) -> dict[str, Any]:
    from mallowspo.experiments.estimator_scores import score_pairs

    scored = score_pairs(
        model,
        tokenizer,
        rows,
        max_prompt_tokens=config.max_prompt_tokens,
        max_length=config.max_length,
        batch_size=config.batch_size,
        progress=report,
        stage=f"Scoring {name}",
    )
    indexes = {estimator: read(scored.statistics) for estimator, read in ESTIMATORS.items()}
    controls = _controls(rows)
    people = votes_index(rows.votes)
    first, second = rows.votes[:, 0], rows.votes[:, 1]
    # A pair that all found equal is neither agreed upon nor contested: it has no direction to agree on.
    contradicted = np.minimum(first, second) > 0
    unanimous = (np.minimum(first, second) == 0) & (np.maximum(first, second) >= 2) & (rows.votes[:, 2] == 0)
    opinions = _opinions(rows, config.data[name], config)
    return {
        "pairs": len(rows.votes),
        "votes": float(rows.votes.sum()),
        "prompts": scored.prompts,
        "responses": scored.responses,
        "cut_responses": scored.cut_responses,
        "cut_prompts": scored.cut_prompts,
        "contradicted": int(contradicted.sum()),
        "unanimous": int(unanimous.sum()),
        "indexes": {
            label: _judge(
                label, index, rows, people.phi_n, contradicted, unanimous, controls["length"], opinions, config
            )
            for label, index in (indexes | controls).items()
        },
        "per_prompt": {opinion.source: len(opinion.neg_log_phi) for opinion in opinions},
    }


def _controls(rows: VoteRows) -> dict[str, Floats]:
    """The surface of the pairs, of the whole texts, whatever the model saw of them."""
    length = np.array([[len(text) for text in pair] for pair in rows.responses], np.float64)
    words = [tuple(set(text.lower().split()) for text in pair) for pair in rows.responses]
    return {
        "length": length.mean(axis=1),
        "length_difference": np.abs(length[:, 0] - length[:, 1]),
        "overlap": np.array([len(a & b) / max(1, len(a | b)) for a, b in words]),
    }


def _opinions(rows: VoteRows, path: str, config: EstimatorConfig) -> list[PromptOpinion]:
    from mallowspo.dispersion.rankings_analysis import opinion_of_rankings
    from mallowspo.dispersion.rankings_file import load_rankings
    from mallowspo.dispersion.votes_analysis import opinion_of_votes
    from mallowspo.dispersion.votes_file import VOTE_FORMS

    # Half a ranking at random: three people who agree by chance should not outweigh everybody else.
    settings = DispersionSettings(seed=config.seed, ranking_prior=0.5)
    opinions = [opinion_of_votes(rows, settings=settings)]
    if rows.form == VOTE_FORMS[3]:
        opinions.append(opinion_of_rankings(load_rankings(path), settings=settings))
    return opinions


def _judge(
    label: str,
    index: Floats,
    rows: VoteRows,
    phi: Floats,
    contradicted: NDArray[np.bool_],
    unanimous: NDArray[np.bool_],
    length: Floats,
    opinions: list[PromptOpinion],
    config: EstimatorConfig,
) -> dict[str, Any]:
    """All that is asked of one index; each question with its own stream of draws."""
    drawing: dict[str, Any] = {"rng": np.random.default_rng(config.seed), "resamples": config.resamples}
    clear = contradicted | unanimous
    names = rows.prompt_ids
    found: dict[str, Any] = {
        "pairs": correlation(index, phi, groups=names, **drawing),
        "pairs_given_length": correlation(_without(index, length), _without(phi, length), groups=names, **drawing),
        "auroc": statistic(
            auroc(index[clear], contradicted[clear], groups=[names[i] for i in np.flatnonzero(clear)], **drawing),
            int(clear.sum()),
        ),
    }
    whole = prompt_index(label, index, names) if label in ESTIMATORS else index
    for opinion in opinions:
        compared = side_by_side(whole, names, opinion, **drawing)
        found[f"prompts_{opinion.source}"] = compared.summary["correlation"]
    return found


def _without(values: Floats, control: Floats) -> Floats:
    """Ranks of values after a linear fit to the ranks of a control is taken away: a partial rank correlation."""
    y, x = rankdata(values), rankdata(control)
    x = x - x.mean()
    if not x.any():
        return np.asarray(y, np.float64)
    return np.asarray(y - y.mean() - x * float(x @ y) / float(x @ x), np.float64)


def _draw(folder: Path, results: dict[str, Any]) -> None:
    from mallowspo.reports.figures import grouped_interval_figure, save_figure

    questions = {
        "pairs": "over pairs",
        "prompts_votes": "over prompts, votes",
        "prompts_rankings": "over prompts, rankings",
    }
    for name, facts in results["data"].items():
        labels = list(facts["indexes"])
        asked = {key: text for key, text in questions.items() if all(key in facts["indexes"][i] for i in labels)}
        values = {text: Interval.stack([facts["indexes"][i][key] for i in labels]) for key, text in asked.items()}
        figure = grouped_interval_figure(
            values,
            [i.replace("_", " ") + (" (no model)" if i in CONTROLS else "") for i in labels],
            x_label="Rank correlation with people's φ (above 0: rises with disagreement)",
            title=f"{name}: {facts['pairs']:,} pairs, {facts['prompts']:,} prompts",
        )
        save_figure(figure, folder, name)
