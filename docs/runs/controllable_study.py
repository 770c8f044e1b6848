"""Run the study of `docs/experiments/controllable.md`: reward against KL on stories-260k and stories-3m.

python docs/runs/controllable_study.py stories-260k  # runs it into output/, copies what is committed, writes the page
python docs/runs/controllable_study.py stories-3m    # the same on the larger model
python docs/runs/controllable_study.py --table       # only writes the page's numbers again, from the committed runs
python docs/runs/controllable_study.py --check       # exit code 1 if the page shows other numbers

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

from mallowspo.experiments.controllable_words import (
    comparison_sentence,
    conclusions,
    interval_text,
    label,
    number,
    optimum_sentence,
    preference_sentence,
    rate_sentence,
    weight_sentence,
)
from mallowspo.reports.text import format_duration, format_number, format_p

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs/experiments/controllable.md"
COMMON = (
    "--dataset_name ../shared/data/text/tinystories_200k.txt --opening 'Once|One|There was' "
    "--betas 0.02,0.07,0.2,0.6,2,8 --ipo_betas 0.1,0.5,1.5,4,10,30 --use_cpu"
)
SIZE = "--learning_rates 1e-4,2e-4 --seeds 5 --train_prompts 100 --batch_size 4 --response_tokens 24 --eval_samples 3"
COMMANDS = {name: f"--model_name_or_path ../shared/models/{name} {SIZE}" for name in ("stories-260k", "stories-3m")}


def folder_of(model: str) -> Path:
    """Where the committed run of a model lies."""
    return ROOT / "docs/experiments/controllable" / ("" if model == "stories-260k" else model)


def command_of(model: str) -> list[str]:
    """The arguments of a run."""
    where = f"--output_dir output/controllable-{model}"
    return shlex.split(f"experiment controllable {COMMANDS[model]} {COMMON} {where}")


def run(model: str) -> None:
    """Run the study and copy what is committed."""
    program = Path(sys.executable).with_name("mallowspo")
    subprocess.run([program, *command_of(model)], cwd=ROOT, check=True)
    made, kept = ROOT / f"output/controllable-{model}", folder_of(model)
    (kept / "figures").mkdir(parents=True, exist_ok=True)
    for path in (made / "results.json", made / "report.html", *(made / "figures").glob("*.png")):
        shutil.copyfile(path, kept / path.relative_to(made))


def text_of(model: str, results: dict[str, Any]) -> str:
    """The numbers of one run as Markdown."""
    config, areas = results["config"], results["areas"]
    where = folder_of(model).relative_to(PAGE.parent).as_posix()
    steps = max(run["steps"] for run in results["runs"])
    lines = [
        "```bash",
        f"mallowspo {shlex.join(command_of(model))}",
        "```",
        "",
        f"{results['facts']['parameters']:,} parameters, {len(config['seeds'])} seeds, {len(config['betas'])} values "
        f"of β, {len(results['runs'])} runs of {steps} steps of {config['design']['batch_size']} pairs "
        f"({format_duration(results['cpu_seconds'])} of processor time). {preference_sentence(results)} "
        f"{rate_sentence(results)}",
        "",
        f"![Expected reward against KL for DPO, IPO, MallowsPO-θ and MallowsPO-φ]({where}/figures/frontier.png)",
        "",
        "| | area under the frontier | highest mean reward | at KL (nats) |",
        "|---|---|---|---|",
    ]
    for method, found in areas["methods"].items():
        rows = [row for row in results["settings"] if row["method"] == method]
        best = max(rows, key=lambda row: number(row["reward"]["mean"]))
        lines.append(
            f"| {label(method)} | {interval_text(found['interval'])} | {interval_text(best['reward'])} | "
            f"{interval_text(best['kl'], 2)} |"
        )
    lines += [
        "",
        f"Area: mean reward over the KL that all methods reach under a seed, on average "
        f"{format_number(number(areas['kl_low']))} to {format_number(number(areas['kl_high']))} nats, even in log KL. "
        f"The reference has {interval_text(results['reference']['reward'])}. {optimum_sentence(results)}",
        "",
        "| at equal KL, paired over seeds | difference of reward | p | p, Holm |",
        "|---|---|---|---|",
    ]
    for row in results["comparisons"]:
        p, p_holm = (format_p(number(row[name]), name="") for name in ("p", "p_holm"))
        gap = interval_text(row["difference"], signed=True)
        lines.append(f"| {label(row['method'])} − {label(row['baseline'])} | {gap} | {p} | {p_holm} |")
    if results["by_kl"]:
        lines += ["", f"![Differences from DPO at single KLs]({where}/figures/differences.png)"]
    against_dpo = [row for row in results["comparisons"] if row["baseline"] == "dpo"]
    said = [comparison_sentence(results, row) for row in against_dpo]
    lines += ["", *(f"- {text}" for text in [*said, weight_sentence(results), *conclusions(results)])]
    lines += ["", f"[report.html]({where}/report.html), [results.json]({where}/results.json)"]
    return "\n".join(lines)


def page_with_numbers() -> str:
    """The page with the numbers of the committed runs between its marks."""
    page = PAGE.read_text(encoding="utf-8")
    for model in COMMANDS:
        path = folder_of(model) / "results.json"
        text = text_of(model, json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else "Not run yet."
        page = page_with(page, f"controllable {model}: written by docs/runs/controllable_study.py", text)
    return page


if __name__ == "__main__":
    for name in sys.argv[1:]:
        if name in COMMANDS:
            run(name)
    wanted = page_with_numbers()
    if sys.argv[1:] == ["--check"]:
        sys.exit(PAGE.read_text(encoding="utf-8") != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
