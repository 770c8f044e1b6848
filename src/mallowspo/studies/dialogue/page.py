"""The page of the dialogue study and its figures, made from `results.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mallowspo.reports.blocks import (
    Block,
    BulletList,
    Callout,
    Definitions,
    Example,
    Examples,
    Meta,
    Paragraph,
    Report,
    Section,
    Table,
)
from mallowspo.reports.curves import Curve, FrontierCurve
from mallowspo.reports.figures import MethodStyle, frontier_figure, grouped_interval_figure
from mallowspo.reports.palette import MUTED
from mallowspo.reports.sections import Columns, comparison, picture, table, verdict_line
from mallowspo.reports.text import format_duration, format_number, interval_text, verdict_word
from mallowspo.stats.intervals import Interval
from mallowspo.studies.dialogue.design import HELDOUT_JUDGE
from mallowspo.studies.dialogue.summary import THIRDS
from mallowspo.studies.policies import BASELINE, label

__all__ = ["figures", "page"]

Results = Mapping[str, Any]
Row = Mapping[str, Any]

_TESTS = {"test": "in distribution", "ood": "out of distribution", "votes": "people's majority votes"}
_DIAGONAL = {"optimum": MethodStyle("Calibrated", MUTED, "", "-")}


def _file(path: object) -> str:
    return str(path).rsplit("/", 1)[-1]


def _test_name(results: Results, name: str) -> str:
    """A test set by its file and its part in the study."""
    return f"{_file(results['data'][name]['source']).split('.')[0]} ({_TESTS[name]})"


def _challengers(results: Results) -> list[str]:
    return [method for method in results["config"]["methods"] if method != BASELINE]


def _beta(results: Results) -> float:
    """The β whose policies are judged, and shown by thirds."""
    config = results["config"]
    return float(config["betas"][0] if config["judged_beta"] is None else config["judged_beta"])


def _shown(results: Results, kind: str, test: str, method: str) -> Row:
    """`settings` or `differences` of a method at the judged β."""
    rows: Sequence[Row] = results["tests"][test][kind]
    return next(row for row in rows if (row["method"], row["beta"]) == (method, _beta(results)))


def _percent(interval: Row, digits: int = 1, *, signed: bool = False) -> str:
    return interval_text(interval, digits, scale=100.0, signed=signed)


def figures(results: Results) -> dict[str, Any]:
    """Draw every figure, by name; `frontier` where there are two values of β."""
    found = {
        "accuracy": _accuracy_figure(results),
        "calibration": _calibration_figure(results),
        "reliability": _reliability_figure(results),
        "wins_reference": _wins_figure(results, "reference"),
        "wins_dpo": _wins_figure(results, BASELINE),
    }
    return found | ({"frontier": _frontier_figure(results)} if len(results["config"]["betas"]) > 1 else {})


def _accuracy_figure(results: Results) -> Any:
    tests = list(results["tests"])
    return grouped_interval_figure(
        {
            method: Interval.stack(
                [_shown(results, "settings", test, method)["accuracy"]["all"]["rows"] for test in tests], scale=100.0
            )
            for method in results["config"]["methods"]
        },
        [_test_name(results, test) for test in tests],
        x_label="Reward accuracy (%), 50 is guessing; intervals over rows",
        title=f"Whose implicit reward agrees with people, β {_beta(results):g}",
        zero_line=False,
        better="right",
    )


def _calibration_figure(results: Results) -> Any:
    places = [(test, third) for test in results["tests"] for third in THIRDS]
    return grouped_interval_figure(
        {
            method: Interval.stack(
                [_shown(results, "settings", test, method)["overconfidence"][third]["rows"] for test, third in places],
                scale=100.0,
            )
            for method in results["config"]["methods"]
        },
        [f"{_test_name(results, test).split(' ')[0]}, {third} third" for test, third in places],
        x_label="Confidence − accuracy (points); right of 0: too sure of itself",
        title=f"Calibration by third of the dispersion index, β {_beta(results):g}",
    )


def _reliability_figure(results: Results) -> Any:
    test = next(iter(results["tests"]))
    curves, ends = {}, [50.0]
    for method in results["config"]["methods"]:
        bins = _shown(results, "settings", test, method)["reliability"]
        x, y = (100 * np.asarray([part[name] for part in bins]) for name in ("confidence", "accuracy"))
        curves[method] = FrontierCurve(x=Interval.exact(x), y=Interval.exact(y))
        ends.append(float(x.max()))
    line = np.asarray([50.0, max(ends)])
    return frontier_figure(
        curves,
        optimum=Curve(line, line),
        title=f"Reliability on {_test_name(results, test)}, β {_beta(results):g}, all seeds' rows in five bins",
        x_label="Confidence that the method puts on its choice (%)",
        y_label="Accuracy (%)",
        styles=_DIAGONAL,
    )


def _frontier_figure(results: Results) -> Any:
    test = next(iter(results["tests"]))
    curves = {}
    for method in results["config"]["methods"]:
        rows = [row for row in results["tests"][test]["settings"] if row["method"] == method]
        curves[method] = FrontierCurve(
            x=Interval.stack([_policy(results, row)["kl"] for row in rows]),
            y=Interval.stack([row["accuracy"]["all"]["seeds"] for row in rows], scale=100.0),
        )
    return frontier_figure(
        curves,
        title=f"Accuracy on {_test_name(results, test)} against distance from the reference; intervals over seeds",
        y_label="Reward accuracy (%)",
    )


def _wins_figure(results: Results, baseline: str) -> Any:
    rows = [row for row in results["win_rates"] if row["baseline"] == baseline]
    values = {
        method: Interval.stack([row["above_even"]["rows"] for row in rows if row["method"] == method], scale=100.0)
        for method in dict.fromkeys(row["method"] for row in rows)
    }
    return grouped_interval_figure(
        values,
        [f"Temperature {value:g}" for value in results["config"]["temperatures"]],
        x_label="Win rate above 50% (points); intervals over prompts",
        title=f"Against {'the reference' if baseline == 'reference' else 'DPO'}, β {_beta(results):g}",
        better="right",
    )


def _policy(results: Results, row: Row) -> Row:
    """The training behind a method and β."""
    found: Row = next(
        one for one in results["policies"] if (one["method"], one["beta"]) == (row["method"], row["beta"])
    )
    return found


def page(results: Results) -> Report:
    """What the page says."""
    config = results["config"]
    extra = {
        "Processor time of the training runs": format_duration(results["cpu_seconds"]),
        "Base model": _file(config["setup"]["model_name_or_path"]),
    }
    return Report(
        title="Dialogue: does a dispersion index help on real preferences?",
        summary=(
            "DPO and MallowsPO were trained from one reference on the same dialogues, with equal budgets; shown are "
            f"differences from DPO at the same β ({_beta(results):g}) with 95% intervals over test rows and over "
            f"{len(config['seeds'])} seed(s), and a verdict is given only where both leave out 0."
        ),
        sections=[
            _question(),
            _method(results),
            _accuracy(results),
            *([_equal_kl(results)] if len(config["betas"]) > 1 else []),
            _dispersion(results),
            _wins(results),
            Section("Limits", [BulletList(_LIMITS)]),
        ],
        meta=Meta(seeds=config["seeds"], extra=extra),
        verdicts=_verdicts(results),
    )


def _verdicts(results: Results) -> Table:
    def differences(row: tuple[str, str], quantity: str) -> Row:
        found: Row = _shown(results, "differences", *row)[quantity]["all"]
        return found

    rows = [(test, method) for method in _challengers(results) for test in results["tests"]]
    columns: dict[str, Any] = {
        "method": lambda row: label(row[1]),
        "test set": lambda row: _test_name(results, row[0]),
    }
    shown = {"accuracy": ("points", 1, 100.0), "log_loss": ("nats", 4, 1.0)}
    for name, (unit, digits, scale) in shown.items():
        title = name.replace("_", " ")
        for over in ("rows", "seeds"):
            columns[f"{title}, {unit}, over {over}"] = lambda row, at=(name, over, digits, scale): interval_text(
                differences(row, at[0])[at[1]], at[2], scale=at[3], signed=True
            )
        columns[f"verdict on {title}"] = lambda row, name=name: verdict_word(differences(row, name)["verdict"])
    return table(rows, columns)


def _question() -> Section:
    text = (
        "MallowsPO weighs each prompt by how much people are thought to agree on it; the estimate comes from the "
        "entropy of the reference model. The paper reports that this improves on DPO in dialogue and generalises "
        "well. Asked here: does the trained policy's implicit reward side with people more often than DPO's, in and "
        "out of distribution, is the probability that it gives to people's choice better calibrated, does either "
        "change with the dispersion of the prompt, and does a judge prefer its answers?"
    )
    terms = [
        ("Margin", "β times the log-ratio gap between the chosen and the rejected response, policy to reference."),
        ("Reward accuracy", "Share of pairs with a margin above 0; a tie counts half. 50% is guessing."),
        (
            "Confidence, overconfidence",
            "The probability that the method's own link gives to the response that it favours: σ(margin) for DPO, "
            "σ(w · margin) for MallowsPO-θ, Kendall's link for MallowsPO-φ. Overconfidence is its mean minus the "
            "accuracy; 0 is calibrated.",
        ),
        (
            "Log loss",
            "Mean −log of the probability given to people's choice; log 2 = 0.693 is a coin. Where DPO's is above "
            "that, being ahead of it takes less confidence, not a better opinion.",
        ),
        (
            "Thirds of the dispersion",
            "The rows of a test set by the index that training uses, the reference's mean normalised entropy on both "
            "responses: low is called agreed, high contested.",
        ),
        ("KL", "Of the policy from the reference over whole sampled answers at temperature 1, in nats."),
        (
            "Over rows, over seeds",
            "Two sources of chance: other test rows, drawn by whole dialogues with the policies as they are; other "
            "training pairs and orders, with the test set as it is. One seed has no interval, so that all stays open.",
        ),
    ]
    return Section("What is asked", [Paragraph(text), Definitions(terms)])


def _method(results: Results) -> Section:
    config, setup, data = results["config"], results["config"]["setup"], results["data"]
    text = (
        f"The data was split by dialogue into three parts. On the first ({data['sft']['rows']:,} rows) the base model "
        f"was fine-tuned on the chosen responses for {setup['sft_steps']} steps of {setup['batch_size']}: the "
        f"reference. Each seed draws {setup['train_pairs']:,} pairs of the second ({data['policy']['rows']:,} rows), "
        f"the same for every method, and trains {setup['epochs']} pass(es) at learning rate "
        f"{setup['learning_rate']:g} through `MallowsPOTrainer`. The parts are kept apart because a reference that "
        "has learnt the chosen responses of the very pairs leaves only their rejected ones to learn from."
    )
    if config["judge"] == HELDOUT_JUDGE:
        text += (
            f" The third ({data['judge']['rows']:,} rows) trained the judge, a reward model, for "
            f"{config['judge_steps']} steps; it shares no dialogue with what the policies saw."
        )
    sets: Columns = {
        "set": lambda item: item[0],
        "file": lambda item: _file(item[1]["source"]),
        "rows used": lambda item: f"{item[1]['rows']:,}",
        "what became of the rows of the file": lambda item: ", ".join(
            f"{count:,} {reason}" for reason, count in item[1]["account"].items()
        ),
    }
    reference: Columns = {
        "test set": lambda item: _test_name(results, item[0]),
        "nats a token of the chosen response": lambda item: format_number(item[1]["nats_per_token_chosen"], 3),
        "longer is chosen, %": lambda item: _percent(item[1]["longer_is_chosen"]),
        "likelier is chosen, %": lambda item: _percent(item[1]["likelier_is_chosen"]),
    }
    said = (
        f"Only rows that fit whole into {setup['max_length']} tokens are used; test sets are sampled down to "
        f"{setup['test_pairs']:,} rows."
    )
    tables = [
        table(data.items(), sets, said),
        table(
            results["reference"].items(),
            reference,
            "The reference before any preference training, and what length alone tells.",
        ),
    ]
    return Section("How", [Paragraph(text), *tables])


def _accuracy(results: Results) -> Section:
    rows = [
        {**row, "test": test, "kl": _policy(results, row)["kl"]}
        for test, found in results["tests"].items()
        for row in found["settings"]
    ]
    columns: Columns = {
        "test set": lambda row: _test_name(results, row["test"]),
        "β": lambda row: f"{row['beta']:g}",
        "method": lambda row: label(row["method"]),
        "accuracy, % (rows)": lambda row: _percent(row["accuracy"]["all"]["rows"]),
        "accuracy, % (seeds)": lambda row: _percent(row["accuracy"]["all"]["seeds"]),
        "margin": lambda row: interval_text(row["margin"]["all"]["rows"], 3),
        "log loss, nats": lambda row: interval_text(row["log_loss"]["all"]["rows"], 3),
        "overconfidence, points": lambda row: _percent(row["overconfidence"]["all"]["rows"], signed=True),
        "KL, nats": lambda row: interval_text(row["kl"]),
    }
    figure = picture(
        "accuracy",
        "Reward accuracy of every method on every test set with intervals over rows.",
        "Right of 50 is better than guessing.",
    )
    caption = "Every setting; means over seeds, intervals over rows where nothing else is said; KL over seeds."
    return Section("Reward accuracy and margins", [figure, table(rows, columns, caption)])


def _equal_kl(results: Results) -> Section:
    rows = [{**row, "test": test} for test, found in results["tests"].items() for row in found["equal_kl"]]
    columns: Columns = {
        "method": lambda row: label(row["method"]),
        "test set": lambda row: _test_name(results, row["test"]),
        "accuracy minus DPO's, points": lambda row: _percent(row["accuracy"], signed=True),
        "lowest KL, nats": lambda row: format_number(row["kl_low"]),
        "highest KL, nats": lambda row: format_number(row["kl_high"]),
        "seeds that share a KL": lambda row: str(row["seeds"]),
    }
    lines = [
        verdict_line(
            f"{label(row['method'])} on {_test_name(results, row['test'])}",
            {"verdict": row["verdict"], "difference": row["accuracy"]},
            f"{_percent(row['accuracy'], signed=True)} points of accuracy",
        )
        for row in rows
    ]
    figure = picture(
        "frontier",
        "Reward accuracy in distribution against KL from the reference, by method and β.",
        "The points of a line are the values of β; intervals over seeds.",
    )
    text = (
        "The same β moves different methods differently far. Here accuracy is read along each seed's own line over β, "
        "where method and DPO have moved equally far; intervals are over seeds alone."
    )
    return comparison("At equal KL", text, figure, rows, columns, lines)


def _dispersion(results: Results) -> Section:
    rows = [
        {**_shown(results, "settings", test, method), "test": test}
        for test in results["tests"]
        for method in results["config"]["methods"]
    ]
    columns: dict[str, Any] = {
        "test set": lambda row: _test_name(results, row["test"]),
        "method": lambda row: label(row["method"]),
        "accuracy, agreed minus contested third, points": lambda row: _percent(
            row["accuracy_agreed_minus_contested"], signed=True
        ),
    }
    for third in THIRDS:
        columns[f"overconfidence, {third} third, points"] = lambda row, third=third: _percent(
            row["overconfidence"][third]["rows"], signed=True
        )
    for name in ("rows", "seeds"):
        columns[f"gained by the weight, nats ({name})"] = lambda row, name=name: interval_text(
            row["log_probability_gained_by_weight"][name], 4, signed=True
        )
    spread: Columns = {
        "method": lambda row: label(row["method"]),
        "β": lambda row: f"{row['beta']:g}",
        "standard deviation of the training weights": lambda row: format_number(row["weight_std"]),
    }
    weighted = [row for row in results["policies"] if row["weight_std"] is not None]
    text = (
        f"β {_beta(results):g}, intervals over rows unless seeds are named. *Gained by the weight* is the "
        "log-probability of people's choice with the method's own link minus with σ(margin), for the very same "
        "policy: above 0 the weighted probabilities describe people better. The weights have a mean of 1, as DPO's "
        "all are: the smaller their spread, the less there is that could tell the methods apart."
    )
    return Section(
        "Calibration and the dispersion index",
        [
            Paragraph(text),
            picture(
                "calibration",
                "Confidence minus accuracy by method, test set and third of the dispersion index.",
                "Intervals over rows.",
            ),
            picture(
                "reliability",
                "Accuracy against confidence in five bins for every method, with the line of calibration.",
                "Below the line: too sure of itself.",
            ),
            table(weighted, spread, "How far the training weights lie from DPO's."),
            table(rows, columns, "By third of the dispersion index, and what the weight does."),
        ],
    )


def _wins(results: Results) -> Section:
    setup, judge = results["config"]["setup"], results["judge"]
    text = (
        f"Every policy with β {_beta(results):g} and the reference answered {judge['prompts']} prompts of the "
        f"in-distribution test set, at most {setup['max_new_tokens']} tokens, at each temperature. With the "
        f"{judge['human_pairs']:,} human pairs below, {judge['pairs']:,} pairs were judged; {judge['identical']:,} "
        "were equal texts, which are ties."
    )
    worth: Columns = {
        "judge": lambda row: row["name"],
        "sides with people, %": lambda row: _percent(row["accuracy"]),
        "the longer response would, %": lambda row: _percent(row["longer_is_chosen"]),
        "prefers the longer, %": lambda row: _percent(row["prefers_longer"]),
        "distances from 50% shrink to, %": lambda row: format_number(100 * row["shrinkage"], 0),
        "undecided": lambda row: str(row["undecided"]),
        "refused": lambda row: str(row["refused"]),
    }
    wins: Columns = {
        "method": lambda row: label(row["method"]),
        "against": lambda row: label(row["baseline"]),
        "temperature": lambda row: f"{row['temperature']:g}",
        "win rate, %": lambda row: format_number(100 * row["win_rate"], 1),
        "above 50 (prompts)": lambda row: _percent(row["above_even"]["rows"], signed=True),
        "above 50 (seeds)": lambda row: _percent(row["above_even"]["seeds"], signed=True),
        "verdict": lambda row: verdict_word(row["verdict"]),
        "length-controlled, %": lambda row: format_number(100 * row["length_controlled"], 1),
        "characters": lambda row: (
            f"{format_number(row['characters'], 0)} / {format_number(row['baseline_characters'], 0)}"
        ),
    }
    body: list[Block] = [
        Paragraph(text),
        Callout(
            "warning",
            "A win rate says what the judge likes. Where the interval of how often it sides with people holds 50%, it "
            "says nothing about people. Otherwise, if its mistakes fall on both sides alike, distances from 50% among "
            "people shrink as the table says. Undecided and refused verdicts are ties.",
        ),
        table([judge], worth, f"The judge on {judge['human_pairs']:,} human pairs of {_test_name(results, 'test')}."),
        picture("wins_reference", "Win rate above 50% by method and temperature, against the reference."),
        picture("wins_dpo", "Win rate above 50% by method and temperature, against DPO."),
        table(results["win_rates"], wins, "Characters: mean of the method's / the baseline's."),
    ]
    examples = Examples(
        [
            Example(row["prompt"], [(label(who), text) for who, text in row["answers"].items()])
            for row in results["examples"]
        ],
        f"The first prompts, first seed, temperature {results['config']['temperatures'][0]:g}; nobody picked them.",
    )
    return Section("Win rates", body, [Section("Answers to read for oneself", [examples])])


_LIMITS = (
    "One base model, one SFT, one split of the data: the intervals cover other test rows, other draws of pairs and "
    "other orders of training, not other models.",
    "Few seeds resolve little; where no significant difference is shown, one may still exist. Each interval stands on "
    "its own: among as many as are shown, about one in twenty leaves out 0 by chance.",
    "Only rows that fit whole into the length are used: short dialogues.",
    "The judge `heldout` is a stand-in of the size of the policy. Name a capable one by `--judge` before believing a "
    "win rate.",
)
