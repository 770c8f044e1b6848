"""Train every recipe on real data, load what was saved, generate with it, and write `docs/real-runs.md`.

python docs/runs/run_recipes.py                  # all recipes, then the page
python docs/runs/run_recipes.py stories-260k/dpo # one recipe, then the page from all runs so far
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
RECIPES = [
    *(f"stories-260k/{name}" for name in ("dpo", "mallows_theta", "mallows_phi")),
    *(f"stories-3m/{name}_lora" for name in ("dpo", "mallows_theta", "mallows_phi")),
]
PROMPT = "Once upon a time, there was a little girl"


def run(recipe: str) -> None:
    """Train one recipe and keep what it printed, its record and a generation."""
    name = recipe.replace("/", "-")
    command = ["mallowspo", "train", "--config", f"recipes/{recipe}.yaml", "--disable_tqdm", "true"]
    started = time.time()
    program = Path(sys.executable).with_name("mallowspo")
    done = subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.time() - started
    # Progress bars redraw their line; keep what a reader of a log wants.
    kept = [line for line in (done.stderr + done.stdout).splitlines() if not re.search(r"\d+%\|", line)]
    # Warnings name the file they come from; its folder is this machine's business.
    kept = [re.sub(r"\S*/site-packages/", "", line) for line in kept]
    # So is the cache's folder; the table's column is kept straight.
    cache = os.environ.get("MALLOWSPO_CACHE", "")
    kept = [line.replace(cache, "$MALLOWSPO_CACHE".ljust(len(cache))) if cache else line for line in kept]
    (HERE / f"{name}.txt").write_text(f"$ {' '.join(command)}\n" + "\n".join(kept) + "\n", encoding="utf-8")
    done.check_returncode()
    output = ROOT / "output" / recipe
    history = json.loads((output / "run.json").read_text())
    record = {
        "command": " ".join(command),
        "seconds": round(seconds),
        "record": history,
        "generation": generate(output),
    }
    (HERE / f"{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def generate(output: Path) -> str:
    """Load the saved model as anybody would and let it go on with a story."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(output), AutoTokenizer.from_pretrained(output)
    ids = tokenizer(PROMPT, return_tensors="pt")
    return tokenizer.decode(model.generate(**ids, max_new_tokens=60, do_sample=False)[0], skip_special_tokens=True)


def page() -> str:
    """The table of all runs so far."""
    lines = [
        "# Real data, small models",
        "",
        "HH helpful dialogues (5,185 rows, `max_length` 512) on two small pretrained models. A third of the prompts",
        "alone fill 512 tokens of a 512-piece vocabulary; they are counted, named and dropped (`invalid_rows: drop`).",
        "These models know children's stories only: the runs show that training works from end to end, not that it",
        "makes a better assistant.",
        "",
        "Made by `python docs/runs/run_recipes.py`. What each run printed is in `docs/runs/*.txt`, its record in",
        "`docs/runs/*.json`. An arrow leads from the mean over the first 40 steps to that over the last 40;",
        "rewards are β (log π − log π_ref).",
        "",
        "| recipe | rows used | steps | minutes | loss | margin | accuracy |",
        "|---|---|---|---|---|---|---|",
    ]
    samples = []
    for recipe in RECIPES:
        path = HERE / f"{recipe.replace('/', '-')}.json"
        if not path.exists():
            continue
        run_record = json.loads(path.read_text())
        record = run_record["record"]
        logged = [entry for entry in record["log_history"] if "loss" in entry]

        def ends(key: str, logged: list[dict[str, float]] = logged) -> str:
            first, last = logged[:2], logged[-2:]
            return " → ".join(f"{sum(e[key] for e in part) / len(part):.3f}" for part in (first, last))

        rows = record["data"]["splits"]["train"]["rows_used"]
        lines.append(
            f"| `{recipe}` | {rows:,} | {record['steps']} | {run_record['seconds'] / 60:.1f} | {ends('loss')} | "
            f"{ends('rewards/margins')} | {ends('rewards/accuracies')} |"
        )
        samples += [f"`{recipe}`:", "", f"> {run_record['generation']}", ""]
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    return "\n".join(
        [*lines, "", f"Versions: {versions}.", "", "## What the saved models say", "",
         "Each was loaded with `AutoModelForCausalLM.from_pretrained` and decoded greedily, 60 tokens.", "", *samples]
    )  # fmt: skip


def main() -> None:
    """Run the recipes named on the command line, or all, then write the page."""
    for recipe in sys.argv[1:] or RECIPES:
        run(recipe)
        (ROOT / "docs" / "real-runs.md").write_text(page().rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
