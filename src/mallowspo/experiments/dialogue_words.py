"""What the numbers of the dialogue study allow to say, in sentences. Every sentence follows from the results."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from mallowspo.experiments.dialogue_summary import BASELINE, THIRDS
from mallowspo.reports.figure_style import METHOD_STYLES
from mallowspo.reports.text import format_interval, format_number, format_signed

__all__ = [
    "challengers",
    "conclusions",
    "difference_sentences",
    "index_sentences",
    "interval_text",
    "judge_sentences",
    "label",
    "overview_rows",
    "spread_sentence",
    "test_label",
    "weight_sentences",
    "win_rate_rows",
    "win_rate_sentences",
]

Row = dict[str, Any]

_AGAINST = {"better": "ahead of DPO", "worse": "behind DPO", "open": "not told apart from DPO"}
_TESTS = {"test": "in distribution", "ood": "out of distribution", "votes": "people's majority votes"}


def label(method: str) -> str:
    """What a reader calls a method."""
    return METHOD_STYLES[method].label


def test_label(results: Row, name: str) -> str:
    """A test set by its file and its part in the study."""
    source = str(results["data"][name]["source"]).rsplit("/", 1)[-1].split(".")[0]
    return f"{source} ({_TESTS[name]})"


def challengers(results: Row) -> list[str]:
    """The methods that are compared with DPO."""
    return [method for method in results["config"]["methods"] if method != BASELINE]


def number(value: float | None) -> float:
    """A number of the results; what JSON has no word for comes back as NaN."""
    return float("nan") if value is None else float(value)


def interval_text(interval: Row, digits: int = 1, *, scale: float = 100.0, signed: bool = False) -> str:
    """An interval of the results as text; without ends it shows as a plain number."""
    mean, low, high = (scale * number(interval[end]) for end in ("mean", "low", "high"))
    if math.isnan(low) or math.isnan(high):
        return format_signed(mean, digits) if signed else format_number(mean, digits)
    return format_interval(mean, low, high, digits, signed=signed)


def joined(names: Iterable[str]) -> str:
    """Names with commas and an `and`."""
    names = list(names)
    return "".join(names) if len(names) < 2 else f"{', '.join(names[:-1])} and {names[-1]}"


def _both(found: Row, digits: int = 1, *, scale: float = 100.0) -> str:
    """A difference with its two intervals."""
    rows = interval_text(found["rows"], digits, scale=scale, signed=True)
    seeds = interval_text(found["seeds"], digits, scale=scale, signed=True).partition(" ")[2]
    return f"{rows} over rows" + (f", {seeds} over seeds" if seeds else "")


def _shown(results: Row, test: str, kind: str, method: str) -> Row:
    """The entry of a method at the judged β."""
    beta = shown_beta(results)
    for row in results["tests"][test][kind]:
        if row["method"] == method and row["beta"] == beta:
            return dict(row)
    raise KeyError((test, kind, method))


def shown_beta(results: Row) -> float:
    """The β whose policies are judged and shown by thirds."""
    config = results["config"]
    return float(config["betas"][0] if config["judged_beta"] is None else config["judged_beta"])


def overview_rows(results: Row) -> list[list[str]]:
    """One row for each test set, β and method: accuracy, margin, log loss, overconfidence, KL."""
    rows = []
    for test in results["tests"]:
        for found in results["tests"][test]["settings"]:
            policy = next(
                row for row in results["policies"] if (row["method"], row["beta"]) == (found["method"], found["beta"])
            )
            rows.append(
                [
                    test_label(results, test),
                    f"{found['beta']:g}",
                    label(found["method"]),
                    interval_text(found["accuracy"]["all"]["rows"]),
                    interval_text(found["accuracy"]["all"]["seeds"]),
                    interval_text(found["margin"]["all"]["rows"], 3, scale=1.0),
                    interval_text(found["log_loss"]["all"]["rows"], 3, scale=1.0),
                    interval_text(found["overconfidence"]["all"]["rows"], signed=True),
                    interval_text(policy["kl"], 2, scale=1.0),
                ]
            )
    return rows


def difference_sentences(results: Row, method: str) -> list[str]:
    """A method against DPO on each test set: accuracy at the same β and at equal KL, and the log loss."""
    texts = []
    for test in results["tests"]:
        row = _shown(results, test, "differences", method)
        accuracy, loss = row["accuracy"]["all"], row["log_loss"]["all"]
        text = (
            f"*{label(method)}* on {test_label(results, test)}, β {row['beta']:g}: accuracy "
            f"{_AGAINST[accuracy['verdict']]} ({_both(accuracy)} points), log loss {_AGAINST[loss['verdict']]} "
            f"({_both(loss, 4, scale=1.0)} nats)"
        )
        equal = [found for found in results["tests"][test]["equal_kl"] if found["method"] == method]
        if equal and equal[0]["seeds"]:
            found = equal[0]
            text += (
                f"; at equal KL ({format_number(number(found['kl_low']))}–{format_number(number(found['kl_high']))} "
                f"nats, {found['seeds']} seeds) accuracy {interval_text(found['accuracy'], signed=True)} points"
            )
        elif equal:
            text += "; the two never came equally far from the reference, so that equal KL cannot be read"
        texts.append(text + ".")
    return texts


def index_sentences(results: Row) -> list[str]:
    """How accuracy and calibration go with the dispersion of the prompts, under DPO and the others."""
    texts = []
    for test in results["tests"]:
        parts = []
        for method in results["config"]["methods"]:
            row = _shown(results, test, "settings", method)
            gap = row["accuracy_agreed_minus_contested"]
            over = [row["overconfidence"][third]["rows"] for third in THIRDS]
            parts.append(
                f"{label(method)}: accuracy on the third that the index calls agreed minus the contested one "
                f"{interval_text(gap, signed=True)} points; overconfidence from agreed to contested "
                f"{', '.join(interval_text(interval, signed=True) for interval in over)}"
            )
        texts.append(f"{test_label(results, test)}: {'; '.join(parts)}.")
    return texts


def spread_sentence(results: Row) -> str:
    """How far the training weights lie from DPO's, which are all 1."""
    parts = [
        f"{label(row['method'])} at β {row['beta']:g}: {format_number(row['weight_std'])}"
        for row in results["policies"]
        if row["weight_std"] is not None
    ]
    if not parts:
        return "No method here has weights."
    return (
        f"Standard deviation of the training weights, whose mean is 1 as DPO's all are: {joined(parts)}. The smaller, "
        "the less there is that could tell the methods apart."
    )


def weight_sentences(results: Row) -> list[str]:
    """Whether the weighted probabilities describe people better than σ(margin) of the very same policy."""
    texts = []
    for method in challengers(results):
        parts = []
        for test in results["tests"]:
            found = _shown(results, test, "settings", method)["log_probability_gained_by_weight"]
            parts.append(f"{_both(found, 4, scale=1.0)} on {test_label(results, test)}")
        texts.append(
            f"*{label(method)}*: log-probability of people's choice with its own link minus with σ(margin), nats a "
            f"pair: {'; '.join(parts)}."
        )
    return texts


def judge_sentences(results: Row) -> list[str]:
    """What the judge is, and what it is worth."""
    judge = results["judge"]
    accuracy = interval_text(judge["accuracy"])
    texts = [
        f"On {judge['human_pairs']} pairs of {test_label(results, 'test')} the judge `{judge['name']}` sides with "
        f"people in {accuracy}%; choosing the longer response would do so in "
        f"{interval_text(judge['longer_is_chosen'])}%, and the judge prefers the longer one in "
        f"{interval_text(judge['prefers_longer'])}%."
    ]
    shrinkage = number(judge["shrinkage"])
    low = number(judge["accuracy"]["low"])
    if low > 0.5:
        shown = 50 + 10 * shrinkage
        texts.append(
            f"If its mistakes fall on both sides alike, a win rate of 60% among people shows as "
            f"{format_number(shown, 1)}% with it: distances from 50% shrink to {format_number(100 * shrinkage, 0)}%."
        )
    else:
        texts.append(
            "That is not told apart from guessing: its win rates say what this judge likes, and nothing about people."
        )
    if judge["undecided"] or judge["refused"]:
        texts.append(f"{judge['undecided']} verdicts stayed undecided and {judge['refused']} were refused: ties.")
    return texts


def win_rate_rows(results: Row) -> list[list[str]]:
    """One row for each comparison."""
    return [
        [
            label(row["method"]),
            label(row["baseline"]),
            f"{row['temperature']:g}",
            format_number(100 * row["win_rate"], 1),
            interval_text(row["above_even"]["rows"], signed=True),
            interval_text(row["above_even"]["seeds"], signed=True),
            format_number(100 * number(row["length_controlled"]), 1),
            f"{format_number(row['characters'], 0)} / {format_number(row['baseline_characters'], 0)}",
            {"better": "ahead", "worse": "behind", "open": "not told apart"}[row["verdict"]],
        ]
        for row in results["win_rates"]
    ]


def win_rate_sentences(results: Row) -> list[str]:
    """Who wins against whom, at which temperatures."""
    texts = []
    pairs = dict.fromkeys((row["method"], row["baseline"]) for row in results["win_rates"])
    for method, baseline in pairs:
        rows = [row for row in results["win_rates"] if (row["method"], row["baseline"]) == (method, baseline)]
        parts = []
        for verdict, words in (("better", "ahead of"), ("worse", "behind"), ("open", "not told apart from")):
            here = [f"{row['temperature']:g} ({format_number(100 * row['win_rate'], 1)}%)" for row in rows
                    if row["verdict"] == verdict]  # fmt: skip
            if here:
                parts.append(f"{words} {label(baseline)} at temperature {joined(here)}")
        texts.append(f"*{label(method)}* is {'; '.join(parts)}.")
    return texts


def _coin_sentence(results: Row) -> list[str]:
    """Where DPO's probabilities are worse than a coin's, a lower log loss may come from doubt alone."""
    coin = [
        f"{test_label(results, test)} ({format_number(loss, 3)})"
        for test in results["tests"]
        if (loss := number(_shown(results, test, "settings", BASELINE)["log_loss"]["all"]["rows"]["mean"]))
        > math.log(2)
    ]
    if not coin:
        return []
    return [
        f"DPO's log loss is above a coin's 0.693 nats on {joined(coin)}: to be ahead of it there takes less "
        "confidence, not a better opinion."
    ]


def conclusions(results: Row) -> list[str]:
    """What to take away, each point decided by the intervals."""
    if len(results["config"]["seeds"]) < 2:
        return ["One seed resolves nothing: every verdict here is open."]
    texts = []
    for method in challengers(results):
        verdicts = {
            (test, quantity): _shown(results, test, "differences", method)[quantity]["all"]["verdict"]
            for test in results["tests"]
            for quantity in ("accuracy", "log_loss")
        }
        told = [
            f"{_AGAINST[verdict]} in {quantity.replace('_', ' ')} on {test_label(results, test)}"
            for (test, quantity), verdict in verdicts.items()
            if verdict != "open"
        ]
        if told:
            still = len(verdicts) - len(told)
            rest = f"; not told apart in the other {still} of {len(verdicts)}" if still else ""
            texts.append(f"*{label(method)}* is {joined(told)}{rest}.")
        else:
            texts.append(
                f"*{label(method)}* is not told apart from DPO on any test set, neither in accuracy nor in log loss."
            )
    texts += _coin_sentence(results)
    apart = [
        f"{label(row['method'])} {'ahead of' if row['verdict'] == 'better' else 'behind'} {label(row['baseline'])} at "
        f"temperature {row['temperature']:g}"
        for row in results["win_rates"]
        if row["verdict"] != "open"
    ]
    texts.append(f"The judge tells apart: {joined(apart)}." if apart else "The judge tells no two models apart.")
    return texts
