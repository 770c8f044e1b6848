"""The page of the dialogue study and its figures, made from `results.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mallowspo.reports.blocks import Callout, Definitions, Example, Examples, Meta, Report, Section, Table
from mallowspo.reports.figures import Curve, MethodStyle, frontier_figure, grouped_interval_figure
from mallowspo.reports.palette import MUTED
from mallowspo.reports.sections import Columns, picture, table
from mallowspo.reports.text import format_duration, format_number
from mallowspo.stats.intervals import Interval
from mallowspo.studies import pages
from mallowspo.studies.dialogue.design import HELDOUT_JUDGE
from mallowspo.studies.pages import Cell, Results, Row
from mallowspo.studies.policies import THIRDS, grouped, label, select_runs

__all__ = ["figures", "page"]

_TESTS = {"test": "in distribution", "ood": "out of distribution", "votes": "people's majority votes"}
_AGAINST = {"reference": "the reference", "dpo": "DPO"}
_DIAGONAL = {"optimum": MethodStyle("Calibrated", MUTED, "", "-")}


def _file(path: object) -> str:
    return str(path).rsplit("/", 1)[-1]


def _test_name(results: Results, name: str) -> str:
    """A test set by its file and its part in the study."""
    return f"{_file(results['data'][name]['source']).split('.')[0]} ({_TESTS[name]})"


def _test_of(results: Results) -> Cell:
    return lambda row: _test_name(results, row["test"])


def _beta(results: Results) -> float:
    """The β whose policies are judged, and shown by thirds."""
    config = results["config"]
    return float(config["betas"][0] if config["judged_beta"] is None else config["judged_beta"])


def _shown(results: Results, kind: str, test: str, method: str) -> Row:
    """`settings` or `differences` of a method at the judged β."""
    return select_runs(results["tests"][test][kind], method=method, beta=_beta(results))[0]


def _kl(results: Results, row: Row) -> Any:
    """How far the policies of a method and β have moved."""
    return select_runs(results["policies"], method=row["method"], beta=row["beta"])[0]["kl"]


def figures(results: Results) -> dict[str, Any]:
    """Draw every figure, by name; `frontier` where there are two values of β."""
    beta = f"β {_beta(results):g}"
    tests = list(results["tests"])
    thirds = [(test, third) for test in tests for third in THIRDS]
    found = {
        "accuracy": _by_method(
            results,
            [(test, "accuracy.all.rows") for test in tests],
            [_test_name(results, test) for test in tests],
            x_label="Reward accuracy (%), 50 is guessing; intervals over rows",
            title=f"Whose implicit reward agrees with people, {beta}",
            zero_line=False,
            better="right",
        ),
        "calibration": _by_method(
            results,
            [(test, f"overconfidence.{third}.rows") for test, third in thirds],
            [f"{_test_name(results, test).split(' ')[0]}, {third} third" for test, third in thirds],
            x_label="Confidence − accuracy (points); right of 0: too sure of itself",
            title=f"Calibration by third of the dispersion index, {beta}",
        ),
        "reliability": _reliability_figure(results, tests[0]),
        **{f"wins_{baseline}": _wins_figure(results, baseline) for baseline in _AGAINST},
    }
    if len(results["config"]["betas"]) > 1:
        found["frontier"] = _frontier_figure(results, tests[0])
    return found


def _by_method(results: Results, places: Sequence[tuple[str, str]], groups: list[str], **looks: Any) -> Any:
    """The settings at the judged β: of each test set what stands at a path, in percent."""
    values = {
        method: Interval.stack(
            [pages.value(_shown(results, "settings", test, method), path) for test, path in places], scale=100.0
        )
        for method in results["config"]["methods"]
    }
    return grouped_interval_figure(values, groups, **looks)


def _reliability_figure(results: Results, test: str) -> Any:
    curves, ends = {}, [50.0]
    for method in results["config"]["methods"]:
        bins = _shown(results, "settings", test, method)["reliability"]
        x, y = (100 * np.asarray([part[name] for part in bins]) for name in ("confidence", "accuracy"))
        curves[method] = Curve(x, y)
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


def _frontier_figure(results: Results, test: str) -> Any:
    curves = {}
    for method in results["config"]["methods"]:
        rows = select_runs(results["tests"][test]["settings"], method=method)
        curves[method] = Curve(
            Interval.stack([_kl(results, row) for row in rows]),
            Interval.stack([row["accuracy"]["all"]["seeds"] for row in rows], scale=100.0),
        )
    return frontier_figure(
        curves,
        title=f"Accuracy on {_test_name(results, test)} against distance from the reference; intervals over seeds",
        y_label="Reward accuracy (%)",
    )


def _wins_figure(results: Results, baseline: str) -> Any:
    methods = grouped(select_runs(results["win_rates"], baseline=baseline), lambda row: row["method"])
    values = {
        method: Interval.stack([row["above_even"]["rows"] for row in rows], scale=100.0)
        for method, rows in methods.items()
    }
    return grouped_interval_figure(
        values,
        [f"Temperature {temperature:g}" for temperature in results["config"]["temperatures"]],
        x_label="Win rate above 50% (points); intervals over prompts",
        title=f"Against {_AGAINST[baseline]}, β {_beta(results):g}",
        better="right",
    )


def page(results: Results) -> Report:
    """What the page says."""
    config = results["config"]
    return Report(
        title="Dialogue: does a dispersion index help on real preferences?",
        summary=(
            "DPO and MallowsPO were trained from one reference on the same dialogues, with equal budgets; shown are "
            f"differences from DPO at the same β ({_beta(results):g}) with 95% intervals over test rows and over "
            f"{len(config['seeds'])} seed(s), and a verdict is given only where both leave out 0."
        ),
        sections=[
            _method(results),
            _accuracy(results),
            *([_equal_kl(results)] if len(config["betas"]) > 1 else []),
            _dispersion(results),
            _wins(results),
            pages.limits(results, *_LIMITS),
        ],
        meta=Meta(
            seeds=config["seeds"],
            extra={
                "Processor time of the training runs": format_duration(results["cpu_seconds"]),
                "Base model": _file(config["setup"]["model_name_or_path"]),
            },
        ),
        verdicts=_verdicts(results),
    )


def _verdicts(results: Results) -> Table:
    rows = [
        {**_shown(results, "differences", test, method), "test": test}
        for method in pages.challengers(results)
        for test in results["tests"]
    ]
    columns: dict[str, Any] = {"method": pages.METHOD, "test set": _test_of(results)}
    shown = {"accuracy": ("points", 1, 100.0), "log_loss": ("nats", 4, 1.0)}
    for name, (unit, digits, scale) in shown.items():
        title = name.replace("_", " ")
        for over in ("rows", "seeds"):
            cell = pages.interval(f"{name}.all.{over}", digits, scale=scale, signed=True)
            columns[f"{title}, {unit}, over {over}"] = cell
        columns[f"verdict on {title}"] = pages.verdict_cell(f"{name}.all.verdict")
    return table(rows, columns)


_TERMS = [
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


def _method(results: Results) -> Section:
    text = (
        "The data was split by dialogue into three parts: on the chosen responses of the first the reference was "
        "fine-tuned, which so knows none of the policies' pairs; from the second every seed draws these, the same for "
        f"every method; the third is for the judge `{HELDOUT_JUDGE}`. Only rows that fit whole are used, and test "
        "sets are sampled down."
    )
    sets: Columns = {
        "set": pages.plain("0"),
        "file": lambda item: _file(item[1]["source"]),
        "rows used": pages.plain("1.rows"),
        "what became of the rows of the file": lambda item: ", ".join(
            f"{count:,} {reason}" for reason, count in item[1]["account"].items()
        ),
    }
    reference: Columns = {
        "test set": _test_of(results),
        "nats a token of the chosen response": pages.figure_of("nats_per_token_chosen", 3),
        "longer is chosen, %": pages.share("longer_is_chosen", 1),
        "likelier is chosen, %": pages.share("likelier_is_chosen", 1),
    }
    read = table(
        [{**found, "test": test} for test, found in results["reference"].items()],
        reference,
        "The reference before any preference training, and what length alone tells.",
    )
    return pages.text_section("How", text, Definitions(_TERMS), table(results["data"].items(), sets), read)


def _accuracy(results: Results) -> Section:
    rows = [
        {**row, "test": test, "kl": _kl(results, row)}
        for test, found in results["tests"].items()
        for row in found["settings"]
    ]
    columns: Columns = {
        "test set": _test_of(results),
        "β": pages.BETA,
        "method": pages.METHOD,
        "accuracy, % (rows)": pages.share("accuracy.all.rows", 1),
        "accuracy, % (seeds)": pages.share("accuracy.all.seeds", 1),
        "margin": pages.interval("margin.all.rows", 3),
        "log loss, nats": pages.interval("log_loss.all.rows", 3),
        "overconfidence, points": pages.share("overconfidence.all.rows", 1, signed=True),
        "KL, nats": pages.interval("kl"),
    }
    figure = picture(
        "accuracy",
        "Reward accuracy of every method on every test set with intervals over rows.",
        "Right of 50 is better than guessing. Whiskers are 95% intervals over rows.",
    )
    caption = "Every setting; means over seeds, intervals over rows where nothing else is said; KL over seeds."
    return Section("Reward accuracy and margins", [figure, table(rows, columns, caption)])


def _equal_kl(results: Results) -> Section:
    rows = [
        {**row, "test": test, "difference": row["accuracy"]}
        for test, found in results["tests"].items()
        for row in found["equal_kl"]
    ]
    gap = pages.share("accuracy", 1, signed=True)
    columns: Columns = {
        "method": pages.METHOD,
        "test set": _test_of(results),
        "accuracy minus DPO's, points": gap,
        "lowest KL, nats": pages.figure_of("kl_low"),
        "highest KL, nats": pages.figure_of("kl_high"),
        "seeds that share a KL": pages.plain("seeds"),
    }
    lines = pages.compared(
        rows,
        lambda row: f"{gap(row)} points of accuracy",
        who=lambda row: f"{label(row['method'])} on {_test_name(results, row['test'])}",
    )
    figure = picture(
        "frontier",
        "Reward accuracy in distribution against KL from the reference, by method and β.",
        "The points of a line are the values of β; whiskers are 95% intervals over seeds.",
    )
    text = (
        "The same β moves different methods differently far. Here accuracy is read along each seed's own line over β, "
        "where method and DPO have moved equally far; intervals are over seeds alone."
    )
    return pages.text_section("At equal KL", text, figure, lines, table(rows, columns))


def _dispersion(results: Results) -> Section:
    rows = [
        {**_shown(results, "settings", test, method), "test": test}
        for test in results["tests"]
        for method in results["config"]["methods"]
    ]
    columns: dict[str, Any] = {
        "test set": _test_of(results),
        "method": pages.METHOD,
        "accuracy, agreed minus contested third, points": pages.share(
            "accuracy_agreed_minus_contested", 1, signed=True
        ),
    }
    for third in THIRDS:
        columns[f"overconfidence, {third} third, points"] = pages.share(f"overconfidence.{third}.rows", 1, signed=True)
    for over in ("rows", "seeds"):
        gained = pages.interval(f"log_probability_gained_by_weight.{over}", 4, signed=True)
        columns[f"gained by the weight, nats ({over})"] = gained
    spread: Columns = {
        "method": pages.METHOD,
        "β": pages.BETA,
        "standard deviation of the training weights": pages.figure_of("weight_std"),
    }
    weighted = [row for row in results["policies"] if row["weight_std"] is not None]
    text = (
        f"β {_beta(results):g}, intervals over rows unless seeds are named. *Gained by the weight* is the "
        "log-probability of people's choice with the method's own link minus with σ(margin), for the very same "
        "policy: above 0 the weighted probabilities describe people better. The weights have a mean of 1, as DPO's "
        "all are: the smaller their spread, the less there is that could tell the methods apart."
    )
    return pages.text_section(
        "Calibration and the dispersion index",
        text,
        picture(
            "calibration",
            "Confidence minus accuracy by method, test set and third of the dispersion index.",
            "Whiskers are 95% intervals over rows.",
        ),
        picture(
            "reliability",
            "Accuracy against confidence in five bins for every method, with the line of calibration.",
            "Below the line: too sure of itself. Shares of all seeds' rows, without intervals.",
        ),
        table(weighted, spread, "How far the training weights lie from DPO's."),
        table(rows, columns, "By third of the dispersion index, and what the weight does."),
    )


def _wins(results: Results) -> Section:
    judge = results["judge"]
    text = (
        f"Every policy with β {_beta(results):g} and the reference answered {judge['prompts']} prompts of the "
        f"in-distribution test set at each temperature. With the human pairs below, {judge['pairs']:,} pairs were "
        f"judged; {judge['identical']:,} were equal texts, which are ties."
    )
    worth: Columns = {
        "judge": pages.plain("name"),
        "sides with people, %": pages.share("accuracy", 1),
        "the longer response would, %": pages.share("longer_is_chosen", 1),
        "prefers the longer, %": pages.share("prefers_longer", 1),
        "distances from 50% shrink to, %": pages.figure_of("shrinkage", 0, scale=100),
        "undecided": pages.plain("undecided"),
        "refused": pages.plain("refused"),
    }
    wins: Columns = {
        "method": pages.METHOD,
        "against": pages.named("baseline"),
        "temperature": pages.plain("temperature"),
        "win rate, %": pages.figure_of("win_rate", 1, scale=100),
        "above 50 (prompts)": pages.share("above_even.rows", 1, signed=True),
        "above 50 (seeds)": pages.share("above_even.seeds", 1, signed=True),
        "verdict": pages.verdict_cell(),
        "length-controlled, %": pages.figure_of("length_controlled", 1, scale=100),
        "characters": lambda row: (
            f"{format_number(row['characters'], 0)} / {format_number(row['baseline_characters'], 0)}"
        ),
    }
    examples = Examples(
        [
            Example(row["prompt"], [(label(who), text) for who, text in row["answers"].items()])
            for row in results["examples"]
        ],
        f"The first prompts, first seed, temperature {results['config']['temperatures'][0]:g}; nobody picked them.",
    )
    return pages.text_section(
        "Win rates",
        text,
        Callout(
            "warning",
            "A win rate says what the judge likes. Where the interval of how often it sides with people holds 50%, it "
            "says nothing about people. Otherwise, if its mistakes fall on both sides alike, distances from 50% among "
            "people shrink as the table says. Undecided and refused verdicts are ties.",
        ),
        table([judge], worth, f"The judge on {judge['human_pairs']:,} human pairs of {_test_name(results, 'test')}."),
        *(
            picture(
                f"wins_{name}",
                f"Win rate above 50% by method and temperature, against {said}.",
                "Whiskers are 95% intervals over prompts.",
            )
            for name, said in _AGAINST.items()
        ),
        table(results["win_rates"], wins, "Characters: mean of the method's / the baseline's."),
        details=[Section("Answers to read for oneself", [examples])],
    )


_LIMITS = (
    "One base model, SFT and split: the intervals cover other test rows, pairs and orders, not other models.",
    "Few seeds resolve little; each interval stands on its own: about one in twenty leaves out 0 by chance.",
    "Only rows that fit whole into the length are used: short dialogues.",
    "The judge `heldout` is a stand-in of the size of the policy: name a capable one before believing a win rate.",
)
