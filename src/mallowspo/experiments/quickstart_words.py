"""What the numbers of the quick start allow to say, in sentences. Every sentence follows from the results."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from mallowspo.experiments.quickstart_config import METHODS
from mallowspo.experiments.quickstart_figures import GROUPS
from mallowspo.reports.figures import METHOD_STYLES
from mallowspo.reports.text import format_interval, format_number, format_signed

__all__ = [
    "conclusions",
    "diversity_sentence",
    "found",
    "index_sentences",
    "interval_text",
    "joined",
    "label",
    "number",
    "overall_sentence",
    "points",
    "rate_sentence",
    "tercile_sentence",
    "verdict_word",
]

Row = dict[str, Any]

CHALLENGERS = tuple(method for method in METHODS if method != "dpo")
_WORDS = {"better": "ahead of DPO", "worse": "behind DPO", "open": "not told apart from DPO"}


def label(method: str) -> str:
    """What a reader calls a method."""
    return METHOD_STYLES[method].label


def number(value: float | None) -> float:
    """A number of the results; what JSON has no word for comes back as NaN."""
    return float("nan") if value is None else float(value)


def interval_text(
    interval: dict[str, float | None], digits: int = 2, *, scale: float = 1.0, signed: bool = False
) -> str:
    """An interval of the results as text; a single seed has none, and shows as a plain number."""
    mean, low, high = (scale * number(interval[end]) for end in ("mean", "low", "high"))
    if math.isnan(low) or math.isnan(high):
        return format_signed(mean, digits) if signed else format_number(mean, digits)
    return format_interval(mean, low, high, digits, signed=signed)


def points(interval: dict[str, float | None]) -> str:
    """A difference of agreement in points (hundredths); a third decimal where an end would otherwise round to 0."""
    ends = [100.0 * number(interval[end]) for end in ("low", "high")]
    digits = 3 if any(0 < abs(end) < 0.005 for end in ends) else 2
    return interval_text(interval, digits, scale=100.0, signed=True)


def found(results: Row, method: str, quantity: str, learning_rate: float | None = None) -> Row:
    """The comparison of a method with DPO for a quantity; learning rate None: each at its better one."""
    for row in results["comparisons"]:
        if (row["method"], row["quantity"], row["learning_rate"]) == (method, quantity, learning_rate):
            return dict(row)
    raise KeyError((method, quantity, learning_rate))


def verdict_word(row: Row) -> str:
    """What a comparison allows to say, in words."""
    return _WORDS[row["verdict"]]


def joined(names: Iterable[str]) -> str:
    """Names in a sentence: commas, and an "and" before the last."""
    names = list(names)
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def overall_sentence(results: Row, method: str) -> str:
    """One sentence: a method against DPO over all prompts, at equal KL."""
    row = found(results, method, "agreement")
    if row["difference"]["mean"] is None:
        return f"*{label(method)}* and DPO never came equally far from the reference: this run cannot compare them."
    gap = points(row["difference"])
    if len(results["config"]["seeds"]) < 2:
        return (
            f"*{label(method)}* differs from DPO by {gap} points in the one seed that was run, which decides nothing."
        )
    if row["verdict"] == "open":
        return f"*{label(method)}* is not told apart from DPO: {gap} points, an interval that holds 0."
    ahead = "ahead of" if row["verdict"] == "better" else "behind"
    return f"*{label(method)}* is {ahead} DPO: {gap} points."


def index_sentences(results: Row) -> list[str]:
    """What is to be said of the estimated index: its ranks and its spread."""
    index = results["index"]
    mean, summed = index["mean_entropy"], index["answer_entropy"]
    quantiles = index["weight_quantiles"]
    low, _, high = quantiles["estimated"]
    true_low, _, true_high = quantiles["true"]
    texts = [
        f"Ranks: over all training prompts its rank correlation with the true −log φ is "
        f"{interval_text(mean['rank_correlation'])}. Within one family of questions it is "
        f"{format_number(number(mean['within_families']))} on average, so that most of the first figure lies "
        f"between families.",
        f"Spread: nine tenths of the weights lie between {format_number(low)} and {format_number(high)}; with the "
        f"true index they lie between {format_number(true_low)} and {format_number(true_high)}."
        + (
            " The estimate knows the order better than the size: MallowsPO with it stays closer to DPO than it would "
            "with the truth."
            if high - low < true_high - true_low
            else ""
        ),
    ]
    better = number(summed["rank_correlation"]["mean"]) - number(mean["rank_correlation"]["mean"])
    texts.append(
        f"For comparison: the same entropies summed over the answer, not averaged over its tokens, correlate "
        f"{interval_text(summed['rank_correlation'])} with the truth, "
        f"{'more' if better > 0 else 'less' if better < 0 else 'as much'}. They were not trained with here."
    )
    return texts


def tercile_sentence(results: Row, method: str) -> str:
    """One sentence: where a method is ahead, behind or neither."""
    rows = {group: found(results, method, quantity) for quantity, group in GROUPS.items() if quantity != "agreement"}
    parts = []
    for verdict in ("better", "worse", "open"):
        groups = [
            f"{group.lower()} ({points(row['difference'])})"
            for group, row in rows.items()
            if row["verdict"] == verdict
        ]
        if groups:
            parts.append(f"{_WORDS[verdict]} on the {joined(groups)}")
    return f"*{label(method)}*: {'; '.join(parts)}."


def rate_sentence(results: Row, method: str) -> str:
    """One sentence: whether the finding holds at each learning rate on its own; empty where there is only one."""
    rates: Sequence[float] = results["config"]["learning_rates"]
    if len(rates) < 2:
        return ""
    parts = []
    for rate in rates:
        row = found(results, method, "agreement", rate)
        parts.append(f"{verdict_word(row)} at {rate:g} ({points(row['difference'])})")
    return f"*{label(method)}*: {joined(parts)}."


def diversity_sentence(results: Row, method: str) -> str:
    """One sentence: a method's diversity on contested prompts against DPO's at equal KL."""
    row = found(results, method, "entropy_contested")
    gap = interval_text(row["difference"], 3, signed=True)
    words = {"more": "keeps more diversity than DPO", "less": "keeps less diversity than DPO"}
    said = words.get(row["verdict"], "keeps as much diversity as DPO, as far as this run can tell")
    return f"*{label(method)}* {said}: {gap} nats."


def conclusions(results: Row) -> list[str]:
    """What to take away, each point decided by the intervals."""
    config = results["config"]
    if len(config["seeds"]) < 2:
        return ["One seed resolves nothing: run the full quick start before concluding anything."]
    verdicts = {method: found(results, method, "agreement")["verdict"] for method in CHALLENGERS}
    texts = []
    estimated = [method for method in ("mallows_theta", "mallows_phi") if verdicts[method] == "better"]
    behind = [method for method in ("mallows_theta", "mallows_phi") if verdicts[method] == "worse"]
    if estimated:
        texts.append(f"With an index that anyone can have, {joined(map(label, estimated))} did better than DPO here.")
    if behind:
        texts.append(f"With the estimated index, {joined(map(label, behind))} did worse than DPO here.")
    if not estimated and not behind:
        texts.append("With the estimated index, neither MallowsPO method can be told apart from DPO here.")
    theta, true = verdicts["mallows_theta"], verdicts["mallows_theta_true"]
    if true == "better" and theta != "better":
        texts.append(
            "With the true index θ does better than DPO, with the estimated one it does not: here it is the index, "
            "not the objective, that holds MallowsPO back. Where you have votes or rankings, use them."
        )
    elif true == "better":
        texts.append("A perfect index helps too: the objective does what it promises once it knows who agrees.")
    elif true == "worse":
        texts.append("Even a perfect index does not help here: θ with the true index does worse than DPO.")
    else:
        texts.append(
            "Even with the true index θ cannot be told apart from DPO here: if knowing the dispersion is worth "
            "something in this world, it is worth less than this run can resolve."
        )
    texts += _rate_conclusions(results)
    texts.append(
        f"{len(config['seeds'])} seeds resolve little: a difference that is not told apart here may still exist. Run "
        "more seeds before you decide anything by a small difference."
    )
    return texts


def _rate_conclusions(results: Row) -> list[str]:
    """Warn of findings that hold at one learning rate only."""
    rates = results["config"]["learning_rates"]
    texts = []
    for method in CHALLENGERS if len(rates) > 1 else ():
        per_rate = [found(results, method, "agreement", rate)["verdict"] for rate in rates]
        if len(set(per_rate)) > 1 and set(per_rate) != {"open"}:
            said = [f"{_WORDS[word]} at learning rate {rate:g}" for word, rate in zip(per_rate, rates, strict=True)]
            texts.append(f"{label(method)} is {joined(said)}: how it compares depends on how hard both are driven.")
    return texts
