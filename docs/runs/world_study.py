"""Run the study of `docs/experiments/world.md`: methods, settings and the exact optimum in many small worlds.

python docs/runs/world_study.py          # runs it into output/world, copies what is committed, writes the page
python docs/runs/world_study.py --table  # only writes the page's numbers again, from the committed run
python docs/runs/world_study.py --check  # exit code 1 if the page shows other numbers

A study that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from study_page import page_with

from mallowspo.experiments.quickstart_config import METHOD_OPTIONS
from mallowspo.experiments.quickstart_words import (
    diversity_sentence,
    found,
    interval_text,
    label,
    points,
    rate_sentence,
    tercile_sentence,
)
from mallowspo.experiments.world_study_config import BASELINE
from mallowspo.experiments.world_study_words import (
    challengers,
    choice_sentence,
    conclusions,
    equal_kl_sentence,
    index_sentences,
    settings_text,
    share_sentence,
)
from mallowspo.reports.text import format_duration

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs/experiments/world.md"
KEPT = ROOT / "docs/experiments/world"
MADE = ROOT / "output/world"
MARK = "world: written by docs/runs/world_study.py"


def run() -> None:
    """Run the study with its defaults and copy what is committed."""
    program = Path(sys.executable).with_name("mallowspo")
    subprocess.run([program, "experiment", "world"], cwd=ROOT, check=True)
    (KEPT / "figures").mkdir(parents=True, exist_ok=True)
    for path in (MADE / "results.json", MADE / "report.html", *(MADE / "figures").glob("*.png")):
        shutil.copyfile(path, KEPT / path.relative_to(MADE))


def command(results: dict[str, Any]) -> str:
    """The command of the committed run."""
    config = results["config"]
    methods = "" if list(METHOD_OPTIONS) == config["methods"] else f" --methods {','.join(config['methods'])}"
    return f"mallowspo experiment world --seeds {len(config['seeds'])}{methods} --output_dir output/world"


def text_of(results: dict[str, Any]) -> str:
    """The numbers of the run as Markdown."""
    config, setup = results["config"], results["config"]["setup"]
    lines = [
        "```bash",
        command(results),
        "```",
        "",
        f"{len(config['seeds'])} worlds (seeds {config['seeds'][0]} to {config['seeds'][-1]}), "
        f"{len(config['methods'])} methods × β {', '.join(f'{beta:g}' for beta in config['betas'])} × learning rates "
        f"{', '.join(f'{rate:g}' for rate in config['learning_rates'])}: {len(results['runs'])} runs, "
        f"{format_duration(results['cpu_seconds'])} of one core. {setup['train_prompts']} training, "
        f"{setup['selection_prompts']} selection and {setup['heldout_prompts']} held-out prompts. Brackets are 95% "
        "intervals over seeds; a point is 0.01 of agreement.",
        "",
        *(f"- {text}" for text in conclusions(results)),
        "",
        "### At the settings that the selection prompts chose",
        "",
        "| | agreement, % | minus DPO's, points | share of optimum, % | KL, nats | outside, % | entropy, contested "
        "third, nats | chosen by how many seeds |",
        "|" + "---|" * 8,
    ]
    for row in results["choice"]:
        values = row["values"]
        gap = "–" if row["method"] == BASELINE else points(row["differences"]["agreement"])
        lines.append(
            f"| {label(row['method'])} | {interval_text(values['agreement'], scale=100)} | {gap} | "
            f"{interval_text(values['share_of_optimum'], 0, scale=100)} | {interval_text(values['kl'], 3)} | "
            f"{interval_text(values['outside'], 1, scale=100)} | {interval_text(values['entropy_contested'], 3)} | "
            f"{settings_text(row)} |"
        )
    lines += ["", *(f"- {choice_sentence(results, method)}" for method in challengers(results))]
    lines += [f"- {share_sentence(results)}", "", *_at_equal_kl(results)]
    lines += ["### Against the exact optimum", ""]
    lines += ["![Agreement against KL, with the exact optimum](world/figures/agreement.png)", ""]
    lines += ["![Share of the optimum's gain against KL](world/figures/share.png)", ""]
    lines += ["### Diversity and the index", ""]
    lines += [f"- {diversity_sentence(results, method)}" for method in challengers(results)]
    lines += [f"- {text}" for text in index_sentences(results)]
    lines += ["", "[report.html](world/report.html), [results.json](world/results.json)"]
    return "\n".join(lines)


def _at_equal_kl(results: dict[str, Any]) -> list[str]:
    """The comparison over all settings, and by third of the prompts."""
    lines = [
        "### At equal KL",
        "",
        "| minus DPO at equal KL | agreement, points | renormalised, points | outside, points | share of optimum, % "
        "| entropy, contested third, nats |",
        "|" + "---|" * 6,
    ]
    for method in challengers(results):
        gaps = {
            quantity: found(results, method, quantity)["difference"]
            for quantity in ("agreement", "agreement_renormalised", "outside", "share_of_optimum", "entropy_contested")
        }
        lines.append(
            f"| {label(method)} | {points(gaps['agreement'])} | {points(gaps['agreement_renormalised'])} | "
            f"{points(gaps['outside'])} | {interval_text(gaps['share_of_optimum'], 1, scale=100, signed=True)} | "
            f"{interval_text(gaps['entropy_contested'], 3, signed=True)} |"
        )
    lines += ["", *(f"- {equal_kl_sentence(results, method)}" for method in challengers(results))]
    lines += ["", "![Differences from DPO at equal KL, by third of the prompts](world/figures/differences.png)", ""]
    lines += ["By third of the prompts:", ""]
    lines += [f"- {tercile_sentence(results, method)}" for method in challengers(results)]
    lines += ["", "At each learning rate on its own:", ""]
    lines += [f"- {rate_sentence(results, method)}" for method in challengers(results)]
    return [*lines, ""]


def page_with_numbers() -> str:
    """The page with the numbers of the committed run between its marks."""
    path = KEPT / "results.json"
    text = text_of(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else "Not run yet."
    return page_with(PAGE.read_text(encoding="utf-8"), MARK, text)


if __name__ == "__main__":
    if not sys.argv[1:]:
        run()
    wanted = page_with_numbers()
    if sys.argv[1:] == ["--check"]:
        sys.exit(PAGE.read_text(encoding="utf-8") != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
