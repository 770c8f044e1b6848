"""What the numbers of the bandit study allow to say, in sentences. Every sentence follows from the results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mallowspo.experiments.bandit_config import METHODS
from mallowspo.experiments.bandit_figures import STYLES, population_name
from mallowspo.experiments.bandit_verdicts import REGIMES, design_of
from mallowspo.reports.figures import METHOD_STYLES
from mallowspo.reports.text import format_interval, format_number

__all__ = [
    "collapse_facts",
    "counted",
    "exactness_sentence",
    "interval_text",
    "label",
    "overall",
    "percent",
    "regime_sentences",
    "scale_sentence",
    "setting_name",
    "thirds_sentences",
]

Results = dict[str, Any]

CHALLENGERS = tuple(
    name for name, method in METHODS.items() if method.objective.startswith("mallows") and method.index != "votes"
)


def label(method: str) -> str:
    """What a reader calls a method."""
    return STYLES[method].label if method in STYLES else METHOD_STYLES[method].label


def interval_text(interval: Sequence[float | None] | None, digits: int = 2, *, signed: bool = False) -> str:
    """An interval [mean, low, high] as text; an en dash where there is none.

    Example:
        >>> interval_text([0.5, 0.4, 0.6]), interval_text([None, None, None])
        ('0.50 [0.40, 0.60]', '–')
    """
    if interval is None or interval[0] is None:
        return "–"
    mean, low, high = (float("nan") if end is None else end for end in interval)
    return format_interval(mean, low, high, digits, signed=signed)


def percent(interval: Sequence[float | None], digits: int = 0) -> str:
    """A share with its interval, in percent."""
    mean, low, high = (None if end is None else 100 * end for end in interval)
    return interval_text([mean, low, high], digits)


def setting_name(row: dict[str, Any]) -> str:
    """The setting of a row of `settings` within its regime."""
    parts = [population_name(row["phis"])] if len(row["phis"]) == 1 else []
    parts.append(f"{row['pairs']:,} pairs")
    if row["learning_rate"] is not None:
        parts.append(f"learning rate {row['learning_rate']:g}")
    return ", ".join(parts)


def counted(words: dict[str, int]) -> str:
    """Words and how often they were said.

    Example:
        >>> counted({"less collapsed": 2, "not told apart": 1})
        'less collapsed in 2 of 3, not told apart in 1'
    """
    parts = [f"{word} in {count}" for word, count in sorted(words.items(), key=lambda item: (-item[1], item[0]))]
    parts[0] += f" of {sum(words.values())}"
    return ", ".join(parts)


def collapse_facts(results: Results) -> list[str]:
    """What the pairs alone decide, for each population with the fewest pairs."""
    sentences = []
    fewest = min(job["pairs"] for job in results["exact"])
    for job in results["exact"]:
        if job["pairs"] == fewest:
            facts = job["facts"]
            sentences.append(
                f"{population_name(job['phis'])}, {fewest} pairs of each state: a finite minimiser exists in "
                f"{format_number(100 * facts['attained'], 0)}% of the data sets; in {percent(facts['one_arm'])}% all "
                f"of the mass ends on one arm, for DPO, θ and φ alike, at every β, with the true φ or any other"
                + ("." if facts["same_limits"] else " (φ's kept arms differed in some).")
                + f" In {format_number(100 * facts['open'], 0)}% several arms stay unbeaten."
            )
    return sentences


def exactness_sentence(results: Results) -> str:
    """How exact the minimisers are, and how often φ's loss has several minima."""
    facts = [job["facts"] for job in results["exact"]]
    most = max(one["kendall_several_minima"] for one in facts)
    return (
        f"No minimiser has a slope of the mean loss above {max(one['largest_slope'] for one in facts):.1e}. "
        "φ's loss is not convex; its four starts ended in more than one stationary point in up to "
        f"{format_number(100 * most, 0)}% of the problems of a setting, and the lowest one is taken."
    )


def regime_sentences(results: Results, regime: str) -> list[str]:
    """One sentence for each MallowsPO method: how often it is less or more collapsed than DPO, and who is ahead."""
    sentences = []
    for row in results["verdicts"]:
        if row["regime"] == regime and row["method"] in CHALLENGERS:
            sentences.append(
                f"{label(row['method'])}: {counted(row['collapse'])}; agreement at equal KL: "
                f"{counted(row['agreement'])}."
            )
    return sentences


def overall(results: Results, regime: str) -> str:
    """The verdict on the claim of mitigated collapse in one regime: with the true φ, and with φ from the pairs."""
    parts = [
        _claim(
            [
                row
                for row in results["verdicts"]
                if row["regime"] == regime and row["method"] in CHALLENGERS and METHODS[row["method"]].index == index
            ],
            name,
        )
        for index, name in (("true", "the true φ"), ("pairs", "φ from the pairs"))
    ]
    return f"{REGIMES[regime]}: {' '.join(part for part in parts if part)}"


def _claim(rows: Sequence[dict[str, Any]], name: str) -> str:
    """What the counts of θ and φ say of the claim."""
    total, compared = (sum(sum(row[key].values()) for row in rows) for key in ("collapse", "agreement"))
    if not total:
        return ""
    less, more, same = (
        sum(row["collapse"].get(word, 0) for row in rows) for word in ("less collapsed", "more collapsed", "the same")
    )
    ahead, behind = (sum(row["agreement"].get(word, 0) for row in rows) for word in ("ahead", "behind"))
    if total in (less, more):
        said = (
            "the claim holds throughout" if less else "the claim is turned round: MallowsPO collapses more throughout"
        )
    elif less and more:
        said = "the claim holds in some settings and is turned round in others"
    elif less or more:
        said = "the claim holds in part" if less else "the claim does not hold: MallowsPO collapses as much or more"
    else:
        said = "the claim does not hold: no difference shows"
    return (
        f"With {name} {said}. θ and φ keep more entropy than DPO in {less} of {total} comparisons at matched scale, "
        f"less in {more}, and are the same policy in {same}; their agreement at equal KL is ahead in {ahead} of "
        f"{compared} and behind in {behind}."
    )


def scale_sentence(results: Results) -> str:
    """What matched scale means here, with the values of β."""
    strength = design_of(results).shown_strength
    job = next(job for job in results["exact"] if len(job["phis"]) > 1)
    betas = ", ".join(
        f"{label(name)} {job['methods'][name]['matched']['beta']:.3g}"
        for name in ("dpo", "ipo", "mallows_theta_true", "mallows_phi_true")
    )
    return (
        f"At the scale shown here a method's own optimum, on infinitely many pairs, has a KL of {strength:g} nats. "
        f"With many states that takes these values of β: {betas}. Verdicts are counted over all scales: "
        f"{', '.join(f'{one:g}' for one in design_of(results).strengths)} nats."
    )


def points(interval: Sequence[float | None], digits: int = 2) -> str:
    """A difference of probabilities in points (hundredths), with its sign."""
    return interval_text([None if end is None else 100 * end for end in interval], digits, signed=True)


def thirds_sentences(results: Results) -> list[str]:
    """Where the KL of many states is spent at the exact minimiser: the agreed and the contested third, at equal KL."""
    many = [job for job in results["exact"] if len(job["phis"]) > 1]
    sentences = []
    for job in dict.fromkeys((0, len(many) - 1)):
        for method in ("mallows_theta_true", "mallows_phi_true"):
            equal = many[job]["methods"][method]["equal_kl"]
            sentences.append(
                f"{many[job]['pairs']:,} pairs, {label(method)}: {points(equal['agreement'])} points of agreement "
                f"against DPO at equal KL; {points(equal['agreement_agreed'])} on the most agreed third, "
                f"{points(equal['agreement_contested'])} on the most contested third, where its entropy differs by "
                f"{interval_text(equal['entropy_contested'], signed=True)} nats; collapsed states "
                f"{points(equal['collapsed'], 1)} points."
            )
    return sentences
