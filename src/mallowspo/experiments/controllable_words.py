"""What the numbers of the controllable-generation study allow to say, in sentences that follow from the results."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from mallowspo.reports.figures import METHOD_STYLES
from mallowspo.reports.text import format_interval, format_number, format_p, format_signed

__all__ = [
    "comparison_sentence",
    "conclusions",
    "interval_text",
    "label",
    "number",
    "optimum_sentence",
    "preference_sentence",
    "rate_sentence",
    "weight_sentence",
]

Row = dict[str, Any]

_WORDS = {"better": "ahead of", "worse": "behind", "open": "not told apart from"}
THETA, PHI = "mallows_theta", "mallows_phi"


def label(method: str) -> str:
    """What a reader calls a method."""
    return METHOD_STYLES[method].label


def number(value: float | None) -> float:
    """A number of the results; what JSON has no word for comes back as NaN."""
    return float("nan") if value is None else float(value)


def interval_text(interval: Row, digits: int = 3, *, signed: bool = False) -> str:
    """An interval of the results as text; a single seed has none, and shows as a plain number."""
    mean, low, high = (number(interval[end]) for end in ("mean", "low", "high"))
    if math.isnan(low) or math.isnan(high):
        return format_signed(mean, digits) if signed else format_number(mean, digits)
    return format_interval(mean, low, high, digits, signed=signed)


def _joined(names: Iterable[str]) -> str:
    names = list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def comparison_sentence(results: Row, row: Row) -> str:
    """One sentence: a method against another at equal KL."""
    method, baseline = label(row["method"]), label(row["baseline"])
    if row["difference"]["mean"] is None:
        return f"*{method}* and {baseline} never came equally far from the reference: this run cannot compare them."
    gap = interval_text(row["difference"], signed=True)
    if len(results["config"]["seeds"]) < 2:
        return f"*{method}* differs from {baseline} by {gap} in the one seed that was run, which decides nothing."
    said = f"*{method}* is {_WORDS[row['verdict']]} {baseline}: {gap}"
    if row["verdict"] == "open":
        return f"{said}, an interval that holds 0."
    count = len(results["comparisons"])
    corrected = number(row["p_holm"])
    held = "holds" if corrected < 0.05 else "does not hold"
    return f"{said}; it {held} once the {count} comparisons are counted ({format_p(corrected)} after Holm)."


def preference_sentence(results: Row) -> str:
    """One sentence: how pairs were made."""
    design, facts = results["config"]["design"], results["facts"]
    how = (
        "the response with the higher reward is the chosen one, and equal rewards give no pair"
        if design["preferences"] == "sign"
        else (
            f"the chosen one is drawn by Bradley–Terry, with a logit of {design['preference_scale']:g} times the "
            f"difference of the rewards, so that {format_number(100 * facts['against_reward'], 0)}% of the pairs go "
            "against the reward"
        )
    )
    return (
        f"The policy's start writes {design['samples_per_prompt']} responses to each of {facts['train_prompts']:,} "
        f"prompts; of every two, {how}. Of the first seed's {facts['compared']:,} comparisons {facts['equal']:,} "
        f"gave no pair; the rewards of the other {facts['pairs']:,} differ by {format_number(facts['mean_gap'])} on "
        "average."
    )


def rate_sentence(results: Row) -> str:
    """One sentence: how the learning rate was chosen."""
    choice, config = results["learning_rate"], results["config"]
    if choice["rule"] == "given":
        return f"The learning rate, {choice['chosen']:g}, was given; nothing was chosen by this study's results."
    rates = ", ".join(f"{rate:g}" for rate in config["learning_rates"])
    rule = (
        f"the largest area under DPO's frontier over the KL that all of them reach "
        f"({format_number(choice['kl_low'])} to {format_number(choice['kl_high'])} nats)"
        if choice["rule"] == "area"
        else "the highest mean reward of DPO, since no KL is reached by all of them"
    )
    return (
        f"The learning rate, {choice['chosen']:g}, was chosen among {rates} on DPO alone, with pairs and draws of "
        f"seed {config['pilot_seed']} that no comparison uses: it had {rule}."
    )


def weight_sentence(results: Row) -> str:
    """One sentence: how far the weights of MallowsPO are spread, which bounds what they can do."""
    if THETA not in results["weights"]:
        return ""
    low, middle, high = results["weights"][THETA]
    tight = " Where all weights are nearly 1, MallowsPO-θ is nearly DPO." if low > 0.75 and high < 1.35 else ""
    return (
        f"Nine tenths of the weights of MallowsPO-θ lie between {format_number(low)} and {format_number(high)} "
        f"(median {format_number(middle)}).{tight}"
    )


def optimum_sentence(results: Row) -> str:
    """One sentence: DPO's highest reward and what the same reward costs at best."""
    rows = [row for row in results["settings"] if row["method"] == "dpo"]
    best = max(rows, key=lambda row: number(row["reward"]["mean"]))
    reward, kl = number(best["reward"]["mean"]), number(best["kl"]["mean"])
    curve = list(zip(results["optimum"]["reward"], results["optimum"]["kl"], strict=True))
    if reward <= curve[0][0]:
        return "DPO gains nothing on the reference."
    cheaper = next((cost for gain, cost in curve if gain >= reward), None)
    if cheaper is None:
        return ""
    return (
        f"DPO's highest mean reward is {format_number(reward)}, at a KL of {format_number(kl)} nats; the tilted "
        f"reference has it at {format_number(cheaper)} nats."
    )


def conclusions(results: Row) -> list[str]:
    """What to take away, each point decided by the intervals."""
    if len(results["config"]["seeds"]) < 2:
        return ["One seed resolves nothing: run the full study before concluding anything."]
    against_dpo = {row["method"]: row for row in results["comparisons"] if row["baseline"] == "dpo"}
    texts = []
    for word, said in (
        ("better", "bought more reward than DPO at equal KL"),
        ("worse", "bought less reward than DPO at equal KL"),
        ("open", "cannot be told apart from DPO at equal KL"),
    ):
        names = [label(method) for method, row in against_dpo.items() if row["verdict"] == word]
        if names:
            texts.append(f"{_joined(names)} {said} here.")
    mallows = [against_dpo[method]["verdict"] for method in (THETA, PHI) if method in against_dpo]
    if all(word == "better" for word in mallows):
        texts.append("This agrees with the paper, which reports MallowsPO above DPO on its frontier.")
    elif "better" in mallows:
        texts.append("The paper reports MallowsPO above DPO on its frontier; here one of the two methods is.")
    else:
        texts.append("The paper reports MallowsPO above DPO on its frontier; at this size that is not seen.")
    texts.append(
        f"{len(results['config']['seeds'])} seeds resolve little: a difference that is not told apart may still exist."
    )
    return texts
