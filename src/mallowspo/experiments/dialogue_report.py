"""The page of the dialogue study: what was asked, on which data, what came out, and what that allows to conclude."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mallowspo.experiments.dialogue_config import HELDOUT_JUDGE
from mallowspo.experiments.dialogue_figures import draw_figures
from mallowspo.experiments.dialogue_words import (
    challengers,
    conclusions,
    difference_sentences,
    index_sentences,
    interval_text,
    judge_sentences,
    label,
    overview_rows,
    shown_beta,
    spread_sentence,
    test_label,
    weight_sentences,
    win_rate_rows,
    win_rate_sentences,
)
from mallowspo.reports.figures import FigurePaths
from mallowspo.reports.html import (
    Block,
    BulletList,
    Callout,
    Definitions,
    Example,
    Examples,
    Figure,
    Paragraph,
    Report,
    Section,
    Table,
    current_meta,
    write_report,
)
from mallowspo.reports.text import format_duration, format_number

__all__ = ["OVERVIEW_HEADER", "WIN_RATE_HEADER", "limits", "write_dialogue_report"]

Results = dict[str, Any]
Figures = dict[str, FigurePaths]

OVERVIEW_HEADER = (
    "test set", "β", "method", "accuracy, % (rows)", "accuracy, % (seeds)", "margin", "log loss, nats",
    "overconfidence, points", "KL, nats",
)  # fmt: skip
WIN_RATE_HEADER = (
    "method", "against", "temperature", "win rate, %", "above 50 (prompts)", "above 50 (seeds)",
    "length-controlled, %", "characters", "told apart",
)  # fmt: skip


def write_dialogue_report(folder: Path, results: Results) -> None:
    """Write `report.html` and its figures.

    Args:
        folder: Where to write; figures go into its folder `figures`.
        results: The findings, as read from `results.json`.
    """
    figures = draw_figures(folder / "figures", results)
    sections = [
        _question(),
        _method(results),
        _accuracy(results, figures),
        _dispersion(results, figures),
        _wins(results, figures),
        Section("What to conclude", [BulletList(conclusions(results)), BulletList(limits(results))]),
    ]
    extra = {
        "Processor time of the training runs": format_duration(results["seconds"]["jobs"]),
        "Machine": results["provenance"]["machine"],
        "Base model": str(results["config"]["setup"]["model_name_or_path"]).rsplit("/", 1)[-1],
    }
    meta = current_meta(seeds=results["config"]["seeds"], extra=extra)
    title = "Dialogue: does a dispersion index help on real preferences?"
    write_report(folder / "report.html", Report(title, _summary(results), sections, meta))


def _summary(results: Results) -> str:
    config = results["config"]
    names = " and ".join(label(method) for method in challengers(results)) or "no other method"
    return "\n\n".join(
        [
            f"DPO and {names} were trained from one reference on the same dialogues, under {len(config['seeds'])} "
            f"seeds and β {', '.join(f'{beta:g}' for beta in config['betas'])}. A difference counts only where its "
            "interval over test rows and its interval over seeds both leave out 0.",
            " ".join(conclusions(results)),
            " ".join(judge_sentences(results)),
        ]
    )


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
        ("Log loss", "Mean −log of the probability given to people's choice; log 2 = 0.693 is a coin."),
        (
            "Thirds of the dispersion",
            "The rows of a test set by the index that training uses, the reference's mean normalised entropy on both "
            "responses: low is called agreed, high contested.",
        ),
        ("KL", "Of the policy from the reference over whole sampled answers at temperature 1, in nats."),
    ]
    return Section("What is asked", [Paragraph(text), Definitions(terms)])


def _method(results: Results) -> Section:
    setup, data = results["config"]["setup"], results["data"]
    config = results["config"]
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
    rows = []
    for name, found in data.items():
        account = ", ".join(f"{count:,} {reason}" for reason, count in found["account"].items())
        rows.append([name, str(found["source"]).rsplit("/", 1)[-1], f"{found['rows']:,}", account])
    table = Table(
        ["set", "file", "rows used", "what became of the rows of the file"],
        rows,
        caption=f"Only rows that fit whole into {setup['max_length']} tokens are used; test sets are sampled down to "
        f"{setup['test_pairs']:,} rows.",
    )
    reference = Table(
        ["test set", "nats a token of the chosen response", "longer is chosen, %", "likelier is chosen, %"],
        [
            [
                test_label(results, name),
                format_number(found["nats_per_token_chosen"], 3),
                interval_text(found["longer_is_chosen"]),
                interval_text(found["likelier_is_chosen"]),
            ]
            for name, found in results["reference"].items()
        ],
        caption="The reference before any preference training, and what length alone tells.",
    )
    return Section("How", [Paragraph(text), table, reference])


def _accuracy(results: Results, figures: Figures) -> Section:
    body: list[Block] = [
        Figure(
            figures["accuracy"].svg,
            "Reward accuracy of every method on every test set with intervals over rows.",
            "Right of 50 is better than guessing.",
        ),
        *(BulletList(difference_sentences(results, method)) for method in challengers(results)),
    ]
    if "frontier" in figures:
        body.append(
            Figure(
                figures["frontier"].svg,
                "Reward accuracy in distribution against KL from the reference, by method and β.",
                "The same β moves different methods differently far.",
            )
        )
    body.append(Table(OVERVIEW_HEADER, overview_rows(results), caption="Every setting; means over seeds."))
    return Section("Reward accuracy and margins", body)


def _dispersion(results: Results, figures: Figures) -> Section:
    return Section(
        "Calibration and the dispersion index",
        [
            Figure(
                figures["calibration"].svg,
                "Confidence minus accuracy by method, test set and third of the dispersion index.",
                "Intervals over rows.",
            ),
            Figure(
                figures["reliability"].svg,
                "Accuracy against confidence in five bins for every method, with the line of calibration.",
                "Below the line: too sure of itself.",
            ),
            Paragraph(spread_sentence(results)),
            BulletList(index_sentences(results)),
            Paragraph("What the weight itself does for the description of people's choices:"),
            BulletList(weight_sentences(results)),
        ],
    )


def _wins(results: Results, figures: Figures) -> Section:
    setup, judge = results["config"]["setup"], results["judge"]
    body: list[Block] = [
        Paragraph(
            f"Every policy with β {shown_beta(results):g} and the reference answered {judge['prompts']} prompts of "
            f"the in-distribution test set, at most {setup['max_new_tokens']} tokens, at each temperature. "
            f"With the {judge['human_pairs']:,} human pairs below, {judge['pairs']:,} pairs were judged; "
            f"{judge['identical']:,} were equal texts, which are ties."
        ),
        Callout("warning", " ".join(judge_sentences(results))),
        *(
            Figure(figures[name].svg, f"Win rate above 50% by method and temperature, against {who}.")
            for name, who in (("wins_reference", "the reference"), ("wins_dpo", "DPO"))
            if name in figures
        ),
        BulletList(win_rate_sentences(results)),
        Table(WIN_RATE_HEADER, win_rate_rows(results), caption="Characters: mean of the method's / the baseline's."),
    ]
    examples = Examples(
        [
            Example(row["prompt"], [(label(who), text) for who, text in row["answers"].items()])
            for row in results["examples"]
        ],
        f"The first prompts, first seed, temperature {results['config']['temperatures'][0]:g}; nobody picked them.",
    )
    return Section("Win rates", body, [Section("Answers to read for oneself", [examples])])


def limits(results: Results) -> list[str]:
    """What the study cannot say."""
    config = results["config"]
    base = str(config["setup"]["model_name_or_path"]).rsplit("/", 1)[-1]
    texts = [
        f"One base model (`{base}`), one SFT, one split of the data: the intervals cover other test rows, other draws "
        "of pairs and other orders of training, not other models.",
        f"{len(config['seeds'])} seeds resolve little; a difference that is not told apart may still exist. Each "
        "interval stands on its own: among as many as are shown, about one in twenty leaves out 0 by chance.",
        f"Only rows that fit whole into {config['setup']['max_length']} tokens are used: short dialogues.",
    ]
    if config["judge"] == HELDOUT_JUDGE:
        texts.append(
            "The judge is a stand-in of the size of the policy. Name a capable one by `--judge` before believing a "
            "win rate."
        )
    return texts
