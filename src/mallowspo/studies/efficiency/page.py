"""The page of the study `efficiency` and its figures, made from `results.json`."""

from __future__ import annotations

from typing import Any

from mallowspo.reports.blocks import Definitions, Meta, Report, Section, Table
from mallowspo.reports.figure_style import METHOD_STYLES, MethodStyle
from mallowspo.reports.figures import Curve, grouped_interval_figure, line_figure
from mallowspo.reports.palette import BLUE, INK, PURPLE, VERMILLION
from mallowspo.reports.sections import Columns, picture, table
from mallowspo.reports.text import format_duration, format_number, interval_text
from mallowspo.stats.intervals import Interval
from mallowspo.studies import pages
from mallowspo.studies.pages import Results, Row

__all__ = ["figures", "page"]

_STYLES = {
    "dpo": METHOD_STYLES["dpo"],
    "true": MethodStyle("θ, true index", BLUE, "s", (0, (9, 3)), filled=False),
    "estimated": MethodStyle("θ, estimated index", VERMILLION, "^", (0, (6, 2, 1.5, 2))),
    "shrunken": MethodStyle("θ, estimated and shrunken", PURPLE, "D", (0, (5, 2))),
    "noise": MethodStyle("θ, an index that knows nothing", METHOD_STYLES["reference"].color, "X", (0, (1.5, 1.8))),
    "measured": MethodStyle("Measured", BLUE, "o"),
    "predicted": MethodStyle("Predicted by G", INK, "X", filled=False),
}


def _label(method: str) -> str:
    return _STYLES[method].label


def _indexes(row: Row) -> list[str]:
    return [name for name in row["methods"] if name != "dpo"]


def _setting(row: Row) -> str:
    return f"c of λ {row['variation']:g}, gaps {row['logit']:g}"


def _figure_name(row: Row) -> str:
    return f"error_{row['variation']:g}_{row['logit']:g}".replace(".", "")


def _logits(results: Results) -> list[float]:
    return sorted(set(results["config"]["logits"]))


def figures(results: Results) -> dict[str, Any]:
    """Draw `error_…`, the curves of each combination, and `worth_…`, measured against G for each size of gaps."""
    pairs = results["config"]["setup"]["pairs"]
    found = {}
    for row in results["combinations"]:
        figure = line_figure(
            {
                name: Curve(pairs, Interval.stack(method["error"], scale=100.0))
                for name, method in row["methods"].items()
            },
            x_label="Pairs",
            y_label="New pairs in the wrong order (%)",
            title=f"Error of the learnt centre: c of λ {row['variation']:g}, logits of spread {row['logit']:g}",
            styles=_STYLES,
            doublings=True,
        )
        axes = figure.axes[0]
        axes.set_yscale("log")
        limits = axes.get_ylim()  # ticks beyond the curves would widen them
        axes.set_yticks(ticks := [1, 2, 5, 10, 20], [str(tick) for tick in ticks])
        axes.set_ylim(limits)
        axes.minorticks_off()
        found[_figure_name(row)] = figure
    for place, logit in enumerate(_logits(results)):
        rows = [(row, name) for row in results["combinations"] if row["logit"] == logit for name in _indexes(row)]
        found[f"worth_{place}"] = grouped_interval_figure(
            {
                kind: Interval.stack([row["methods"][name][key] for row, name in rows])
                for kind, key in (("measured", "overall"), ("predicted", "predicted"))
            },
            [f"{_label(name)}, c of λ {row['variation']:g}" for row, name in rows],
            x_label="Pairs of DPO that a weighted pair is worth",
            title=f"Logits of spread {logit:g}",
            zero_line=False,
            styles=_STYLES,
        )
    return found


def page(results: Results) -> Report:
    """What the page says."""
    config = results["config"]
    verdicts: Columns = {
        "setting": _setting,
        **{
            _label(name): lambda row, name=name: (  # type: ignore[misc]
                f"{interval_text(row['methods'][name]['overall'])}; "
                f"G {format_number(row['methods'][name]['predicted']['mean'])}"
            )
            for name in _indexes(results["combinations"][0])
        },
    }
    return Report(
        title="Efficiency: how many of DPO's pairs is a weighted pair worth?",
        summary=(
            "Where prompts share their parameters, a weight makes an estimator better or worse. The horizontal "
            "distance between the curves of error against pairs, for weights that are right, half right, shrunken and "
            "wrong, beside what G predicts."
        ),
        sections=[_question(results), _worth(results), _curves(results), _shrinking(results),
                  pages.limits(results, *_LIMITS)],
        meta=Meta(extra={"Repetitions": f"{config['repetitions']:,} of each combination",
                         "Processor time": format_duration(results["cpu_seconds"])}),
        verdicts=table(results["combinations"], verdicts, "Pairs of DPO that a weighted pair is worth; G beside it."),
    )  # fmt: skip


def _question(results: Results) -> Section:
    setup = results["config"]["setup"]
    text = (
        f"A pair is the difference of two responses' {setup['features']} features, drawn evenly in all directions. "
        "All prompts share one direction, the centre; prompt x has its own λ(x) = −log φ(x), and a person prefers the "
        "first response with probability σ(2λ(x) × gap). Each pair is another prompt's, judged by one person. DPO and "
        "MallowsPO-θ fit the direction by the library's own loss, to its minimum; weights go through the library's "
        "calibration. Under one seed all methods see the same pairs, and more pairs contain the fewer."
    )
    terms = [
        (
            "Error",
            "Share of new pairs that the learnt direction puts in the wrong order: its angle to the truth over π.",
        ),
        (
            "Pairs of DPO that a weighted pair is worth",
            "DPO's pairs at the same mean error over those that were used, DPO's curve read by straight lines in log "
            "error over log pairs; overall the geometric mean over the numbers of pairs at which DPO's curve reaches "
            "that far. 95% intervals by bootstrap over repetitions.",
        ),
        ("G", "(1 + ρ c_w c_λ)² / (1 + c_w²), from the weights and the true λ (`effective_pairs`)."),
        ("c of λ", "Standard deviation over mean of the true λ, which follows a gamma distribution."),
        ("Gaps", "Standard deviation of 2λ × gap, in logits, at the mean λ. G is derived for small ones."),
        (
            "The indexes",
            "*True*: λ itself. *Estimated*: the same spread, normal scores that correlate "
            f"{setup['correlation']:g} with the truth's. *Shrunken*: the estimated one, drawn towards its mean by the "
            f"factor that {setup['votes']} votes on one pair of each of {setup['voted_prompts']:,} further prompts "
            "support (`fit_shrink`). *Nothing*: the same spread, independent of λ.",
        ),
    ]
    return pages.text_section("What is asked, and how", text, Definitions(terms))


def _worth(results: Results) -> Section:
    pictures = [
        picture(
            f"worth_{place}",
            f"Measured and predicted worth of a weighted pair for every index, logits of spread {logit:g}.",
            "Measured with 95% intervals; G with the interval of its mean over repetitions.",
        )
        for place, logit in enumerate(_logits(results))
    ]
    text = "Small gaps first: there G is derived; then larger ones, where it is only a guide."
    return pages.text_section("Measured against G", text, *pictures)


def _curves(results: Results) -> Section:
    parts = []
    for row in results["combinations"]:
        figure = picture(
            _figure_name(row),
            f"Error of the learnt centre against the number of pairs, by method; {_setting(row)}.",
            "Mean over repetitions; whiskers are 95% intervals, most of them within their marker. Both axes are "
            "logarithmic, and points at one number of pairs stand side by side.",
        )
        parts.append(Section(_setting(row), [figure, _at_each(results, row)]))
    first = parts[-1].body[0]
    text = "The last combination; the others, and the distance at each number of pairs, below."
    return pages.text_section("Curves of the error", text, first, details=parts)


def _at_each(results: Results, row: Row) -> Table:
    rows = [
        {"pairs": pairs, **{name: method["worth"][place] for name, method in row["methods"].items() if name != "dpo"}}
        for place, pairs in enumerate(results["config"]["setup"]["pairs"])
    ]
    columns: dict[str, Any] = {"pairs": pages.plain("pairs")}
    columns |= {_label(name): pages.interval(name) for name in _indexes(row)}
    return table(rows, columns, "Pairs of DPO that a weighted pair is worth; – where DPO's curve does not reach.")


def _shrinking(results: Results) -> Section:
    columns: Columns = {
        "setting": _setting,
        "factor from votes": pages.interval("shrink"),
        "the right one": pages.interval("right_shrink"),
        "G, estimated": pages.figure_of("methods.estimated.predicted.mean"),
        "G, shrunken": pages.figure_of("methods.shrunken.predicted.mean"),
    }
    text = (
        "The factor s that votes support, beside the slope of the true λ on the index, which only a simulation knows."
    )
    return pages.text_section("The shrink factor", text, table(results["combinations"], columns))


_LIMITS = (
    "Parameters are shared by all prompts and free of each other; with a parameter for every answer G says nothing.",
    "Features differ evenly in all directions, independently of λ: weights that go with features may do otherwise.",
    "One pair a prompt and one person a pair; the minimum of the loss, not a training run that ends early.",
    "The error is that of a direction: how far the policy moves (its KL) is left free and plays no part.",
    "People follow σ(2λ × gap), whose likelihood is MallowsPO-θ with the true index: no method can do better there.",
)
