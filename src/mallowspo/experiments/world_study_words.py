"""What the numbers of the study `world` allow to say, in sentences. Every sentence follows from the results."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mallowspo.experiments.quickstart_words import found, interval_text, joined, label, number, points
from mallowspo.experiments.world_study_config import BASELINE
from mallowspo.reports.text import format_number

__all__ = [
    "agreement_verdicts",
    "challengers",
    "choice_of",
    "choice_sentence",
    "conclusions",
    "equal_kl_sentence",
    "index_sentences",
    "settings_text",
    "share_sentence",
]

Row = dict[str, Any]

_AGREEMENT = {"better": "ahead of DPO", "worse": "behind DPO", "open": "not told apart from DPO"}


def challengers(results: Row) -> list[str]:
    """The methods that are compared with DPO."""
    return [method for method in results["config"]["methods"] if method != BASELINE]


def choice_of(results: Row, method: str) -> Row:
    """A method at the settings that the selection prompts chose."""
    return next(row for row in results["choice"] if row["method"] == method)


def _one_seed(results: Row) -> bool:
    return len(results["config"]["seeds"]) < 2


def settings_text(row: Row) -> str:
    """The settings that were chosen, the most frequent first, with how many seeds chose them."""
    counts = Counter((chosen["beta"], chosen["learning_rate"]) for chosen in row["chosen"])
    shown = [f"β {beta:g}, rate {rate:g}: {count}" for (beta, rate), count in counts.most_common(3)]
    rest = len(row["chosen"]) - sum(count for _, count in counts.most_common(3))
    return "; ".join(shown) + (f"; others: {rest}" if rest else "")


def choice_sentence(results: Row, method: str) -> str:
    """One sentence: a method against DPO, each at its own chosen settings."""
    gap = choice_of(results, method)["differences"]["agreement"]
    if _one_seed(results):
        return f"*{label(method)}*: {points(gap)} points in one seed, which decides nothing."
    said = _AGREEMENT[gap["verdict"]]
    kl = choice_of(results, method)["differences"]["kl"]
    moved = {"more": "further from the reference", "less": "closer to the reference", "open": "about as far away"}
    return (
        f"*{label(method)}* is {said}: {points(gap)} points, {moved[kl['verdict']]} "
        f"({interval_text(kl, 3, signed=True)} nats of KL)."
    )


def equal_kl_sentence(results: Row, method: str) -> str:
    """One sentence: a method against DPO at equal KL."""
    row = found(results, method, "agreement")
    if row["difference"]["mean"] is None:
        return f"*{label(method)}* and DPO never came equally far from the reference: they cannot be compared so."
    if _one_seed(results):
        return f"*{label(method)}*: {points(row['difference'])} points in one seed, which decides nothing."
    return (
        f"*{label(method)}* is {_AGREEMENT[row['verdict']]}: {points(row['difference'])} points, over KL from "
        f"{format_number(number(row['kl_low']), 3)} to {format_number(number(row['kl_high']), 3)} nats."
    )


def share_sentence(results: Row) -> str:
    """How much of what is possible each method reaches at its chosen settings."""
    parts = [
        f"*{label(row['method'])}* {interval_text(row['values']['share_of_optimum'], 0, scale=100)}%"
        for row in results["choice"]
    ]
    return (
        f"Of what any policy could gain over the reference at the same KL, the methods reach, each at its own chosen "
        f"settings: {joined(parts)}."
    )


def index_sentences(results: Row) -> list[str]:
    """What is to be said of the index: its ranks and its spread."""
    index = results["index"]
    if "estimated" not in index:
        return []
    low, _, high = index["estimated"]["weight_quantiles"]
    texts = [
        f"Over the training prompts the index that the trainer reads off the reference has a rank correlation of "
        f"{interval_text(index['estimated']['rank_correlation'])} with the true −log φ; nine tenths of its weights "
        f"lie between {format_number(low)} and {format_number(high)}."
    ]
    if "true" in index:
        low, _, high = index["true"]["weight_quantiles"]
        texts.append(
            f"With the true index nine tenths of the weights lie between {format_number(low)} and "
            f"{format_number(high)}."
        )
    return texts


def agreement_verdicts(results: Row) -> dict[str, tuple[str, str]]:
    """Method -> verdict at the chosen settings, verdict at equal KL."""
    return {
        method: (
            choice_of(results, method)["differences"]["agreement"]["verdict"],
            found(results, method, "agreement")["verdict"],
        )
        for method in challengers(results)
    }


def _index_conclusion(verdicts: dict[str, tuple[str, str]]) -> list[str]:
    """What a perfect index changes, by the comparison at equal KL."""
    texts = []
    for name in ("mallows_theta", "mallows_phi"):
        if name not in verdicts or f"{name}_true" not in verdicts:
            continue
        own, true = verdicts[name][1], verdicts[f"{name}_true"][1]
        if true == "better" and own != "better":
            texts.append(
                f"*{label(name)}* is ahead of DPO at equal KL with the true index and not with the estimated one: the "
                "index holds it back."
            )
        elif true == "better":
            texts.append(f"*{label(name)}* is ahead of DPO at equal KL with either index.")
        elif true == "worse":
            texts.append(f"Even with the true index *{label(name)}* is behind DPO at equal KL.")
        else:
            texts.append(
                f"Even with the true index *{label(name)}* is not told apart from DPO at equal KL: what knowing the "
                "dispersion is worth here, if anything, is less than these seeds resolve."
            )
    return texts


def conclusions(results: Row) -> list[str]:
    """What to take away, each point decided by the intervals."""
    if _one_seed(results):
        return ["One seed resolves nothing: run more before concluding anything."]
    verdicts = agreement_verdicts(results)
    texts = []
    for place, where in ((0, "each at the settings that the selection prompts chose"), (1, "at equal KL")):
        groups = {
            verdict: [f"*{label(method)}*" for method, said in verdicts.items() if said[place] == verdict]
            for verdict in ("better", "worse", "open")
        }
        parts = [
            f"{joined(names)} {'is' if len(names) == 1 else 'are'} {_AGREEMENT[verdict]}"
            for verdict, names in groups.items()
            if names
        ]
        texts.append(f"{where[0].upper()}{where[1:]}, {'; '.join(parts)}.")
    texts += _index_conclusion(verdicts)
    edges = [f"*{label(row['method'])}*" for row in results["choice"] if max(row["at_an_end"].values()) > 0.5]
    if edges:
        texts.append(
            f"More than half of the seeds chose a setting at an end of the grid for {joined(edges)}: a wider grid "
            "might serve them better."
        )
    return texts
