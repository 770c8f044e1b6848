"""Run the study of `docs/experiments/bandit.md`: does MallowsPO mitigate reward collapse?

python docs/runs/bandit_study.py          # runs it into output/, copies what is committed, writes the page's numbers
python docs/runs/bandit_study.py --table  # only writes the page's numbers again, from the committed run
python docs/runs/bandit_study.py --check  # exit code 1 if the page shows other numbers

A study that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from study_page import page_with

from mallowspo.experiments.bandit_figures import kind_name, population_name
from mallowspo.experiments.bandit_verdicts import REGIMES, design_of, regime_of
from mallowspo.experiments.bandit_words import (
    collapse_facts,
    counted,
    exactness_sentence,
    interval_text,
    label,
    overall,
    percent,
    points,
    scale_sentence,
    thirds_sentences,
)
from mallowspo.reports.text import format_duration

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs/experiments/bandit.md"
KEPT = ROOT / "docs/experiments/bandit"
MARK = "bandit: written by docs/runs/bandit_study.py"
COMMAND = ("experiment", "bandit", "--training_seeds", "200", "--output_dir", "output/bandit")

SHOWN = ("dpo", "ipo", "mallows_theta_true", "mallows_theta_pairs", "mallows_phi_true", "mallows_phi_pairs")


def run() -> None:
    """Run the study and copy what is committed."""
    program = Path(sys.executable).with_name("mallowspo")
    subprocess.run([program, *COMMAND], cwd=ROOT, check=True)
    made = ROOT / "output/bandit"
    (KEPT / "figures").mkdir(parents=True, exist_ok=True)
    for path in (made / "results.json", made / "report.html", *(made / "figures").glob("*.png")):
        shutil.copyfile(path, KEPT / path.relative_to(made))


def exact_table(results: dict[str, Any]) -> list[str]:
    """Collapse at the exact minimiser, at the shown matched scale."""
    lines = ["| population | pairs | " + " | ".join(map(label, SHOWN)) + " |", "|---|---|" + "---|" * len(SHOWN)]
    for job in results["exact"]:
        cells = []
        for name in SHOWN:
            found = job["methods"][name]["matched"]
            cells.append(f"{percent(found['collapsed'])}; {interval_text(found['entropy_lost'])}")
        lines.append(f"| {population_name(job['phis'])} | {job['pairs']:,} | " + " | ".join(cells) + " |")
    return lines


def difference_table(results: dict[str, Any]) -> list[str]:
    """Many states against DPO: entropy at matched scale, the rest at equal KL."""
    lines = [
        "| regime | pairs | method | entropy at matched scale, nats | agreement at equal KL, points | agreed third | "
        "contested third | regret, points |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for job in (*results["exact"], *results["training"]):
        if len(job["phis"]) == 1:
            continue
        regime = REGIMES[regime_of(job)]
        if "learning_rate" in job:
            regime = f"Adam, {kind_name(job['learning_rate'], job['shared'])}"
        for name in SHOWN[1:]:
            found = job["methods"][name]
            last = found["at_steps"][-1] if "learning_rate" in job else found["matched"]
            equal = found["equal_kl"]
            cells = [
                regime,
                f"{job['pairs']:,}",
                label(name),
                interval_text(last["minus_dpo"]["entropy"], 3, signed=True),
                *(points(equal[key]) for key in ("agreement", "agreement_agreed", "agreement_contested", "regret")),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def verdict_table(results: dict[str, Any]) -> list[str]:
    """Counts of verdicts by regime and method."""
    lines = [
        "| regime | method | entropy against DPO's, matched scale | agreement against DPO's, equal KL |",
        "|---|---|---|---|",
    ]
    for row in results["verdicts"]:
        lines.append(
            f"| {REGIMES[row['regime']]} | {label(row['method'])} | {counted(row['collapse'])} | "
            f"{counted(row['agreement'])} |"
        )
    return lines


def text_of(results: dict[str, Any]) -> str:
    """All that the page says with numbers, as Markdown."""
    design = design_of(results)
    few = min(design.pairs)
    lines = [
        "```bash",
        f"mallowspo {shlex.join(COMMAND)}",
        "```",
        "",
        f"{design.seeds} data sets at the exact minimiser, {design.training_seeds} trained on; the seeds begin at "
        f"{design.first_seed}. {format_duration(results['processor_seconds'])} of processor time on one core. "
        f"{scale_sentence(results)}",
        "",
        *(f"- {overall(results, regime).replace(f'{name}:', f'**{name}.**', 1)}" for regime, name in REGIMES.items()),
        "",
        "What the pairs alone decide:",
        "",
        *(f"- {text}" for text in collapse_facts(results)),
        f"- {exactness_sentence(results)}",
        "",
        "Where the KL goes, with many states at the exact minimiser:",
        "",
        *(f"- {text}" for text in thirds_sentences(results)),
        "",
        "### Collapse at the exact minimiser",
        "",
        "Share of states whose largest probability is above 0.99, in percent; then the entropy below the method's own "
        f"optimum in nats. Matched scale, {design.shown_strength:g} nats.",
        "",
        *exact_table(results),
        "",
        "![Entropy below the own optimum against the number of pairs, many states](bandit/figures/collapse_many.png)",
        "",
        f"![Agreement against KL at the exact minimiser, {few} pairs](bandit/figures/frontier_{few}.png)",
        "",
        "### As people train",
        "",
        *steps_figures(results),
        "### Many states against DPO",
        "",
        "Method less DPO, paired over data sets, with 95% intervals; a point is 0.01.",
        "",
        *difference_table(results),
        "",
        "### All verdicts, counted",
        "",
        *verdict_table(results),
        "",
        "[report.html](bandit/report.html), [results.json](bandit/results.json)",
    ]
    return "\n".join(lines)


def steps_figures(results: dict[str, Any]) -> list[str]:
    """One figure for each way of training on many states."""
    jobs = [job for job in results["training"] if "entropy_by_step" in job["methods"]["dpo"]]
    lines = []
    for number, job in enumerate(jobs):
        name = kind_name(job["learning_rate"], job["shared"])
        lines += [f"![Entropy of the policies against steps: {name}](bandit/figures/steps_{number}.png)", ""]
    return lines


if __name__ == "__main__":
    if not sys.argv[1:]:
        run()
    results = KEPT / "results.json"
    text = text_of(json.loads(results.read_text("utf-8"))) if results.exists() else "Not run yet."
    wanted = page_with(PAGE.read_text(encoding="utf-8"), MARK, text)
    if sys.argv[1:] == ["--check"]:
        sys.exit(PAGE.read_text(encoding="utf-8") != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
