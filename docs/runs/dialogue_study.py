"""Run the study of `docs/experiments/dialogue.md`: DPO and MallowsPO on real dialogues.

python docs/runs/dialogue_study.py           # runs it (goes on in output/dialogue), then writes the page's numbers
python docs/runs/dialogue_study.py --table   # only writes the numbers again, from the committed results.json
python docs/runs/dialogue_study.py --check   # exit code 1 if the page shows other numbers
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from study_page import page_with

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs/experiments/dialogue.md"
FOLDER = ROOT / "docs/experiments/dialogue"
COMMAND = "mallowspo experiment dialogue --output_dir output/dialogue --betas {betas} --seeds {seeds}"
BETAS, SEEDS = (0.1, 0.5), 3


def command(betas: Iterable[float], seeds: int) -> str:
    """The command line of a run."""
    return COMMAND.format(betas=",".join(f"{beta:g}" for beta in betas), seeds=seeds)


def run() -> None:
    """Run the study and keep what is committed of it: numbers, page and figures, not the models and logs."""
    program = Path(sys.executable).with_name("mallowspo")
    subprocess.run([program, *command(BETAS, SEEDS).split()[1:]], cwd=ROOT, check=True)
    keep()


def keep() -> None:
    """Copy the finished run beside the page."""
    output = ROOT / "output/dialogue"
    (FOLDER / "figures").mkdir(parents=True, exist_ok=True)
    for name in ("results.json", "report.html"):
        shutil.copyfile(output / name, FOLDER / name)
    for picture in (output / "figures").glob("*.png"):
        shutil.copyfile(picture, FOLDER / "figures" / picture.name)


FIGURES = {
    "accuracy": "Reward accuracy by test set and method",
    "frontier": "Accuracy against KL from the reference",
    "calibration": "Confidence minus accuracy by third of the dispersion index",
    "reliability": "Accuracy against confidence",
    "wins_reference": "Win rates against the reference",
    "wins_dpo": "Win rates against DPO",
}


def pictures(*names: str) -> list[str]:
    """The committed figures of these names."""
    there = [name for name in names if (FOLDER / f"figures/{name}.png").is_file()]
    return [line for name in there for line in ("", f"![{FIGURES[name]}](dialogue/figures/{name}.png)")] + [""]


def rows(header: tuple[str, ...], cells: list[list[str]]) -> list[str]:
    """A table as Markdown."""
    lines = [header, ["---"] * len(header), *cells]
    return ["", *("| " + " | ".join(line) + " |" for line in lines), ""]


def text(results: dict[str, Any]) -> str:
    """Everything on the page that holds a number of the run."""
    from mallowspo.experiments import dialogue_words as words
    from mallowspo.experiments.dialogue_report import OVERVIEW_HEADER, WIN_RATE_HEADER

    methods = words.challengers(results)
    data = [
        [name, str(found["source"]).rsplit("/", 1)[-1], f"{found['rows']:,}",
         ", ".join(f"{count:,} {reason}" for reason, count in found["account"].items())]
        for name, found in results["data"].items()
    ]  # fmt: skip
    reference = [
        [words.test_label(results, name), f"{found['nats_per_token_chosen']:.3f}",
         words.interval_text(found["longer_is_chosen"]), words.interval_text(found["likelier_is_chosen"])]
        for name, found in results["reference"].items()
    ]  # fmt: skip
    minutes, seeds = results["seconds"]["jobs"] / 60, len(results["config"]["seeds"])
    lines = [
        f"`{command(results['config']['betas'], seeds)}`: {seeds} seeds, {len(results['policies']) * seeds} trained "
        f"policies, {minutes:.0f} minutes of one "
        f"core for training and scoring them ({results['provenance']['date']}).",
        *rows(("set", "file", "rows used", "what became of the rows of the file"), data),
        "**What to conclude**",
        "",
        *(f"- {line}" for line in words.conclusions(results)),
        "",
        "**Accuracy and log loss against DPO**",
        "",
        *(f"- {line}" for method in methods for line in words.difference_sentences(results, method)),
        *pictures("accuracy", "frontier"),
        *rows(OVERVIEW_HEADER, words.overview_rows(results)),
        "The reference before preference training, and what length alone tells:",
        *rows(("test set", "nats a token", "longer is chosen, %", "likelier is chosen, %"), reference),
        "**The weight and the index**",
        "",
        f"- {words.spread_sentence(results)}",
        *(f"- {line}" for line in words.index_sentences(results)),
        *(f"- {line}" for line in words.weight_sentences(results)),
        *pictures("calibration", "reliability"),
        "**Win rates**",
        "",
        *(f"- {line}" for line in words.judge_sentences(results)),
        *(f"- {line}" for line in words.win_rate_sentences(results)),
        *pictures("wins_reference", "wins_dpo"),
        *rows(WIN_RATE_HEADER, words.win_rate_rows(results)),
        "The numbers are in [results.json](dialogue/results.json), the page in [report.html](dialogue/report.html).",
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


if __name__ == "__main__":
    if not sys.argv[1:]:
        run()
    committed = FOLDER / "results.json"
    found = json.loads(committed.read_text(encoding="utf-8")) if committed.is_file() else None
    new = "Not run yet." if found is None else text(found)
    wanted = page_with(PAGE.read_text(encoding="utf-8"), "dialogue: written by docs/runs/dialogue_study.py", new)
    if sys.argv[1:] == ["--check"]:
        sys.exit(PAGE.read_text(encoding="utf-8") != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
