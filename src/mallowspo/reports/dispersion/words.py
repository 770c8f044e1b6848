"""The sentences of the dispersion report; every number comes from the summary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mallowspo.reports.blocks import literal
from mallowspo.reports.text import MISSING, format_interval, format_number, format_p
from mallowspo.stats.bootstrap import FEW_GROUPS

__all__ = [
    "MAP_WORDS",
    "conclusions",
    "count",
    "flip_sentences",
    "interval",
    "percent",
    "side_sentence",
    "summary_words",
]

Summary = Mapping[str, Any]

MAP_WORDS = {
    "neglog": "`w = −φ* log u`, the paper's map. It keeps the order of the prompts and compresses their spread.",
    "mallows": "φ is read off u as the entropy of a choice among a known number of answers (`mallows`).",
    "quantile": "The prompts' ranks under u are laid on a stated spread of −log φ (`quantile`): only the order of u "
    "is used.",
    "isotonic": "A falling curve fitted to what people said on some of the prompts (`isotonic`). Where the index does "
    "not follow people, the curve is flat and the weights are equal.",
}


def percent(share: float, digits: int = 1) -> str:
    """Write a share in per cent."""
    return f"{format_number(100 * share, digits)}%"


def count(number: float, word: str) -> str:
    """Write a number of things, with the plural where it is due."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def interval(item: Summary, digits: int = 2) -> str:
    """Write an estimate of the summary with its interval, as far as they exist."""
    if item["value"] is None:
        return MISSING
    if item["low"] is None or item["high"] is None:
        return f"{format_number(item['value'], digits)} (no interval)"
    return format_interval(item["value"], item["low"], item["high"], digits)


def _percent_interval(item: Summary) -> str:
    if item["value"] is None:
        return MISSING
    ends = "" if item["low"] is None else f" [{percent(item['low'])}, {percent(item['high'])}]"
    return percent(item["value"]) + ends


def summary_words(summary: Summary) -> str:
    """The answer in a few sentences, per source."""
    parts = []
    if "reference" in summary:
        facts = summary["reference"]
        weights = facts["weight"]["quantiles"]
        length = next(item for item in facts["correlations"] if item["with"].startswith("response length"))
        parts.append(
            f"The reference model read {count(facts['rows'], 'row')} with {count(facts['prompts'], 'prompt')}. Nine "
            f"tenths of the weights lie between {format_number(weights['0.05'])} and "
            f"{format_number(weights['0.95'])}, and the rows are worth {percent(facts['effective_share'], 0)} of as "
            "many equally weighted ones. The index follows the length of the responses with a rank correlation of "
            f"{interval(length)}."
        )
    if "votes" in summary:
        facts = summary["votes"]
        words = f"People voted on {count(facts['voted'], 'pair')} of {count(facts['prompts'], 'prompt')}."
        differ = facts["flip"]["differ"]
        if differ["value"] is not None:
            words += f" Two voters who both see a difference disagree {_percent_interval(differ)} of the time."
        parts.append(words)
    if "rankings" in summary:
        parts.append(_ranking_words(summary["rankings"]))
    parts += [side_sentence(facts) for facts in summary["side_by_side"]]
    return "\n\n".join(parts)


def _ranking_words(facts: Summary) -> str:
    detail = facts["detail"]
    if len(detail) == 2:
        key = facts["distance"]
        less, more = sorted(detail, key=lambda item: item[key]["phi"])
        words = (
            f"{less['prompt']} is less dispersed than {more['prompt']}: φ = "
            f"{format_interval(less[key]['phi'], less[key]['low'], less[key]['high'], 3)} against "
            f"{format_interval(more[key]['phi'], more[key]['low'], more[key]['high'], 3)}."
        )
        if all("truth" in item for item in detail):
            words += (
                f" The centres order {less['truth']['center_distance']} and {more['truth']['center_distance']} pairs "
                "of items against the truth."
            )
        return words
    return (
        f"People ranked the responses to {count(facts['prompts'], 'prompt')}; the median φ is "
        f"{format_number(facts['phi']['quantiles']['0.5'])}."
    )


def flip_sentences(facts: Summary) -> list[str]:
    """How often a single label goes against the consensus, and what the figure rests on."""
    flip = facts["flip"]
    few = []
    if 3 <= facts["prompts"] < FEW_GROUPS:
        few = [
            f"These intervals rest on {count(facts['prompts'], 'prompt')}: with fewer than {FEW_GROUPS} they hold the "
            "truth less often than they say (simulated at 95%: about 0.75 of the time with 5, 0.85 with 10)."
        ]
    if facts["source"] == "votes":
        sentences = []
        if flip["bounds"] is not None:
            low, high = flip["bounds"]
            sentences.append(
                f"Two voters who both see a difference disagree {_percent_interval(flip['differ'])} of the time. A "
                f"single vote therefore goes against what most people would say in {percent(low)} (if all pairs were "
                f"alike) to {percent(high)} of the cases (if people were split evenly on some and agreed on the "
                "rest). This is the label-flip rate of data that asks one person a pair; `label_smoothing` wants it."
            )
        sentences.append(
            f"The minority's share among the votes is {_percent_interval(flip['minority'])}; with few votes a pair it "
            f"is too low. The smoothed φ/(1+φ) averages {_percent_interval(flip['rate'])}; with few votes a pair "
            "it is drawn to the middle, too high where people agree and too low where they are split, and its "
            "interval knows nothing of that."
        )
        return sentences + few
    if facts["source"] == "rankings":
        return [
            "One person's order of two responses that are neighbours in the centre is the other way round in "
            f"{_percent_interval(flip['rate'])} of the cases: φ/(1+φ), mean over prompts.",
            *few,
        ]
    if flip["scale_measured"]:
        return [
            "If the index is right, one person's label goes against the consensus in "
            f"{_percent_interval(flip['rate'])} of the cases: φ/(1+φ), mean over rows. The scale "
            "of φ comes from the map, so it is as good as what the map was told.",
            *few,
        ]
    return [
        "The index orders the prompts; it does not measure φ. The scale φ* is set so that the mean weight is 1, and "
        f"at that scale φ/(1+φ) averages {_percent_interval(flip['rate'])}: use it to compare prompts, not as the "
        "label-flip rate of the data. For that, give votes (`--votes`), or a map that knows the scale (`isotonic`, or "
        "`mallows` with the number of answers)."
    ]


def side_sentence(facts: Summary) -> str:
    """What the comparison of model and people allows to say."""
    correlation = facts["correlation"]
    text = (
        f"On the {count(facts['prompts'], 'prompt')} that both judged, the model's index follows people's "
        f"{facts['people']} with a rank correlation of {interval(correlation)}: "
    )
    if correlation["low"] is None:
        return text + "too few prompts for an interval, so it says nothing yet."
    if correlation["low"] > 0:
        return text + "it orders the prompts better than chance."
    if correlation["high"] < 0:
        return text + "it orders them the wrong way round, and training on it would pull where people differ."
    return text + "that is compatible with knowing nothing of what people think."


_STRONG = 0.3


def conclusions(summary: Summary) -> list[str]:
    """What to do about it."""
    points = [
        _narrow_words(summary[name], name)
        for name in ("reference", "votes", "rankings")
        if name in summary and _narrow(summary[name]["weight"]["quantiles"])
    ]
    if "reference" in summary:
        facts = summary["reference"]
        length = next(item for item in facts["correlations"] if item["with"].startswith("response length"))
        if length["value"] is not None and abs(length["value"]) >= _STRONG:
            points.append(
                f"The index goes with length ({interval(length)}). Unless people really differ more on "
                f"{'long' if length['value'] > 0 else 'short'} answers, try `--dispersion_estimator divergent_token`: "
                "the store has what it needs."
            )
        if not summary["side_by_side"]:
            points.append(
                "Nothing here shows that the index follows people. Votes on some tens of the prompts would "
                "(`--votes`), and with `--dispersion_map isotonic` they would also set the scale."
            )
    for facts in summary["side_by_side"]:
        points.append(side_sentence(facts))
        if facts["correlation"]["low"] is not None and facts["correlation"]["low"] <= 0:
            points.append(
                "Before training on this index, compare the others (`--dispersion_estimator`), or take the weights "
                f"from the people themselves: `--dispersion {facts['people']}`."
            )
    for name in ("votes", "rankings"):
        if name in summary and summary[name]["effective_share"] < 0.5:
            points.append(
                f"The weights from {name} leave the data worth {percent(summary[name]['effective_share'], 0)} of its "
                "rows: few rows do the teaching. Smooth more, or narrow `--dispersion_clip`."
            )
    if "votes" in summary and summary["votes"].get("label_against_votes"):
        points.append(
            f"{count(summary['votes']['label_against_votes'], 'pair')} call the response *chosen* that lost the vote: "
            "look at them before training."
        )
    if "rankings" in summary and summary["rankings"]["detail"]:
        points += _ranking_points(summary["rankings"])
    if not points:
        points.append("Nothing stands against training with these weights.")
    return points


def _narrow(weights: Summary) -> bool:
    return bool(weights) and weights["0.95"] - weights["0.05"] < 0.5


def _narrow_words(facts: Summary, source: str) -> str:
    weights = facts["weight"]["quantiles"]
    advice = (
        " `--dispersion_map quantile` or `mallows` widens them, if you trust the order."
        if source == "reference"
        else ""
    )
    return (
        f"The weights from {'the ' if source == 'reference' else ''}{source} hardly differ (90% between "
        f"{format_number(weights['0.05'])} and {format_number(weights['0.95'])}): training will be close to the same "
        f"objective with `dispersion: none`, DPO for `mallows_theta`.{advice}"
    )


def _ranking_points(facts: Summary) -> list[str]:
    points = []
    equal = facts["equal_phi"]
    if equal is not None:
        which = "the same amount of agreement" if len(facts["detail"]) > 2 else "equal agreement in both"
        points.append(
            f"The rankings speak {'against' if equal['p'] < 0.05 else 'neither for nor against'} {which}: "
            f"{format_p(equal['p'])} for one common φ."
        )
    poor = [item["prompt"] for item in facts["detail"] if item["fit_p"] is not None and item["fit_p"] < 0.05]
    if poor:
        points.append(
            f"One φ does not describe the people behind {literal(', '.join(poor))}: look for groups among them before "
            "reading φ as disagreement between alike people."
        )
    return points
