"""What the study of the indexes allows to say, in sentences made from its results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mallowspo.experiments.estimator_summary import AIM, SPREAD_AIM, VOTED
from mallowspo.reports.formatting import format_interval, format_number

__all__ = [
    "LABELS",
    "aim_sentence",
    "downstream_sentences",
    "interval_text",
    "label",
    "paper_sentence",
    "people_sentence",
    "points",
    "spread_sentence",
    "survivors",
    "winner",
]

Results = dict[str, Any]

LABELS = {
    "mean_entropy": "mean entropy",
    "answer_entropy": "answer entropy",
    "first_token": "first token",
    "divergent_token": "divergent token",
    "reference_margin": "reference margin",
    "sampled": "samples, exact match",
    "sampled_clusters": "samples, clusters",
    "weighted_clusters": "samples, weighted clusters",
    "topic_entropy": "topic entropy, N told",
    "topic_entropy_auto": "topic entropy, N estimated",
    "panel": "panel, one pass",
    "panel_sampled": "panel with samples",
    "panel_topics": "panel with samples and topics",
    VOTED: "chosen by votes",
    "theta_mean_entropy": "θ, mean entropy",
    "theta_panel": "θ, panel of one pass",
    "theta_true": "θ, true index",
    "dpo": "DPO",
}


def label(name: str) -> str:
    """How an index, a method or a condition reads in text.

    Example:
        >>> label("first_token"), label("style_agreed+prefix_contested")
        ('first token', 'style agreed + prefix contested')
    """
    return LABELS.get(name, name.replace("+", " + ").replace("_", " "))


def interval_text(interval: Results, digits: int = 2, *, scale: float = 1.0, signed: bool = False) -> str:
    """An estimate with its interval; alone where there is none."""
    if interval["mean"] is None:
        return "–"
    if interval["low"] is None:
        return format_number(scale * interval["mean"], digits)
    mean, low, high = (scale * interval[end] for end in ("mean", "low", "high"))
    return format_interval(mean, low, high, digits, signed=signed)


def points(interval: Results) -> str:
    """A difference of agreement in points of 0.01."""
    return interval_text(interval, scale=100.0, signed=True)


def paper_sentence(results: Results) -> str:
    """The paper's check in a sentence."""
    rows = results["paper"]
    parts = []
    for distance in dict.fromkeys(row["distance"] for row in rows):
        own = [row for row in rows if row["distance"] == distance]
        correlations, spreads = [row["correlation"] for row in own], [row["spread"] for row in own]
        rising = "rises with" if all(row["rising"] for row in own) else "does not always rise with"
        parts.append(
            f"Under {'Kendall’s tau' if distance == 'kendall' else 'Spearman’s rho'} the estimate {rising} the true "
            f"−log φ for n = {min(row['items'] for row in own)} to {max(row['items'] for row in own)}; Pearson's "
            f"correlation with it lies between {format_number(min(correlations), 3)} and "
            f"{format_number(max(correlations), 3)}, its spread between {format_number(min(spreads))} and "
            f"{format_number(max(spreads))} of the truth's."
        )
    return " ".join(parts)


def survivors(results: Results) -> list[str]:
    """Indexes of the reference alone whose mean rank correlation reaches the aim in every condition."""
    return [name for name, found in results["survival"].items() if name != VOTED and found["reached"] == found["of"]]


def aim_sentence(results: Results) -> str:
    """Whether an index survives."""
    found, names = results["survival"], survivors(results)
    seeds = min(len(row["seeds"]) for row in results["stress"])
    aim = format_number(AIM, 1)
    if seeds < 2:
        return "One seed decides nothing: whether an index survives is open."
    if names:
        firm = [name for name in names if found[name]["worst_low"] is not None and found[name]["worst_low"] >= AIM]
        listed = "; ".join(f"*{label(name)}* ({_worst(found[name])})" for name in names)
        end = (
            f" For {' and '.join(label(name) for name in firm)} every interval lies above {aim} as well."
            if firm
            else f" No index has every interval above {aim}."
        )
        return f"In the mean over seeds a rank correlation of {aim} is reached in every condition by {listed}.{end}"
    indexes = [name for name in found if name != VOTED]
    highest = max(indexes, key=lambda name: found[name]["worst"])
    most = max(indexes, key=lambda name: (found[name]["reached"], found[name]["worst"]))
    said = {name: f"*{label(name)}* ({_reached(found[name])}, {_worst(found[name])})" for name in (highest, most)}
    nearest = (
        f"The nearest is {said[most]}."
        if highest == most
        else f"In the most conditions it is reached by {said[most]}; the highest worst value has {said[highest]}."
    )
    return f"No index reaches a rank correlation of {aim} in every condition. {nearest}"


def _reached(item: Results) -> str:
    return f"{item['reached']} of {item['of']} conditions"


def _worst(item: Results) -> str:
    return f"worst {format_number(item['worst'])}, under {label(item['worst_condition'])}"


def spread_sentence(results: Results, name: str) -> str:
    """In how many conditions the spread of an index is near the truth's, for its best map."""
    item = results["survival"][name]
    reached = item["spread_reached"]
    best = max(reached, key=lambda map_name: reached[map_name])
    low, high = (format_number(end) for end in SPREAD_AIM)
    return (
        f"*{label(name)}*: the spread of the weights is between {low} and {high} of the truth's in {reached[best]} of "
        f"{item['of']} conditions with the map `{best}`."
    )


def downstream_sentences(results: Results) -> list[str]:
    """What an index was worth in training."""
    return [
        f"{label(row['condition']).capitalize()}: *{label(row['method'])}* {_compared(row)} "
        f"{label(row['baseline'])}, {points(row['difference'])} points at equal KL "
        f"({row['seeds']} seed{'' if row['seeds'] == 1 else 's'})."
        for row in results["downstream"]
    ]


def _compared(row: Results) -> str:
    if row["difference"]["mean"] is None:
        return "never came as far from the reference as"
    if row["difference"]["low"] is None:
        return "was compared in one seed, which decides nothing, with"
    return {"better": "is ahead of", "worse": "is behind", "open": "is not told apart from"}[row["verdict"]]


def people_sentence(results: Results) -> str:
    """The panel against people's votes."""
    people = results["people"]
    if people is None:
        return "No model was held against people in this run."
    parts = []
    for name, facts in people["data"].items():
        item = facts["indexes"]["panel"]
        pairs, clear = item["pairs"], item["auroc"]
        parts.append(
            f"{name}: rank correlation with people's φ over pairs "
            f"{_with_ends(pairs)}, AUROC for contradicted pairs {_with_ends(clear)}"
        )
    return f"The panel of one pass, read from `{people['model']}`, against people: {'; '.join(parts)}."


def _with_ends(found: Mapping[str, Any]) -> str:
    """A statistic with its interval; dashes stand for what too few votes leave open."""
    value, low, high = (float("nan") if found[end] is None else found[end] for end in ("value", "low", "high"))
    return format_interval(value, low, high)


def winner(results: Results) -> str:
    """What to use, as far as the run allows to say."""
    names = survivors(results)
    if len(results["stress"][0]["seeds"]) < 2:
        return "One seed recommends nothing."
    one_pass = results["survival"]["panel"]
    option = [row["sensitivity"]["10"]["rank"] for row in results["stress"] if row["trained"]]
    option_text = (
        f"The panel of one pass, told N, reached {_reached(one_pass)}, "
        f"{_worst(one_pass)}; it is the option `dispersion_estimator: panel`, whose N is 10 and which reached "
        f"{sum(rank >= AIM for rank in option)} of them, worst {format_number(min(option))}. In Python "
        "`panel_neg_log_phi` takes any N, and `vote_log_likelihood` weighs it against votes."
    )
    if "panel" in names:
        return f"Recommended where answers are short and the reference fits its data: the panel. {option_text}"
    if names:
        return (
            f"Recommended where answers are short and the reference fits its data: the {label(names[-1])}, which "
            f"needs sampled answers (`mallowspo.dispersion.answer_samples`, `panel_neg_log_phi`). {option_text}"
        )
    best = max(("panel", "panel_sampled", "panel_topics"), key=lambda name: results["survival"][name]["worst"])
    released = results["survival"]["mean_entropy"]
    return (
        f"None can be trusted blindly. The released index, mean entropy, reached {_reached(released)}, "
        f"{_worst(released)}. Of the panels the highest worst value has the {label(best)}. {option_text}"
    )
