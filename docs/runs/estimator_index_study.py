"""Run the study of docs/experiments/estimator.md: which index survives, and what is it worth?

python docs/runs/estimator_index_study.py          # runs it, half an hour of one core, and writes the findings
python docs/runs/estimator_index_study.py --keep   # copies what a run has left in output/estimator, and writes them
python docs/runs/estimator_index_study.py --table  # only writes the findings again, from the committed results
python docs/runs/estimator_index_study.py --check  # exit code 1 if a page shows others

What is finished is not run again.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from study_page import page_with

from mallowspo.experiments.estimator_config import IndexStudyConfig
from mallowspo.experiments.estimator_report import (
    SURVIVAL_HEADER,
    limits,
    rank_rows,
    survival_rows,
)
from mallowspo.experiments.estimator_words import (
    aim_sentence,
    downstream_sentences,
    label,
    paper_sentence,
    people_sentence,
    spread_sentence,
    winner,
)

SHARED = Path("../shared")
OUTPUT = Path("output/estimator")
ROOT = Path(__file__).resolve().parent.parent
MARK = "estimator: written by docs/runs/estimator_index_study.py"
PAGE, KEPT = ROOT / "experiments/estimator.md", ROOT / "experiments/estimator"
RANKS = ("mean_entropy", "answer_entropy", "first_token", "divergent_token", "reference_margin", "weighted_clusters")
PANELS = ("panel", "panel_sampled", "panel_topics", "chosen_by_votes")


def run() -> None:
    """Run the study, or what is left of it, and keep its results, report and pictures."""
    from mallowspo.experiments.estimator_study import run_index_study
    from mallowspo.progress import progress_bar

    config = IndexStudyConfig(
        output_dir=str(OUTPUT),
        model=str(SHARED / "models/stories-3m"),
        data={
            "PandaLM": str(SHARED / "data/votes/pandalm.json"),
            "WMT23": str(SHARED / "data/votes/wmt23_sxs_mqm_ende.jsonl.gz"),
        },
    )
    with progress_bar() as progress:
        run_index_study(config, progress=progress)
    keep()


def keep() -> None:
    """Copy what is committed."""
    (KEPT / "figures").mkdir(parents=True, exist_ok=True)
    for name in ("results.json", "report.html"):
        shutil.copyfile(OUTPUT / name, KEPT / name)
    for picture in (OUTPUT / "figures").glob("*.png"):
        shutil.copyfile(picture, KEPT / "figures" / picture.name)


def table(header: tuple[str, ...], rows: list[list[str]]) -> list[str]:
    """A table as Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return [*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows), ""]


def extent(results: dict[str, Any]) -> str:
    """What was run, and what of the whole study was not."""
    whole = IndexStudyConfig()
    seeds = sorted({seed for row in results["stress"] for seed in row["seeds"]})
    done = {row["condition"] for row in results["stress"]}
    missing = [label(name) for name in whole.conditions if name not in done]
    parts = [
        *([f"the conditions {', '.join(missing)}"] if missing else []),
        *([f"seeds {seeds[-1] + 1} to {whole.seeds[-1]}"] if len(seeds) < len(whole.seeds) else []),
        *([] if results["downstream"] else ["the worth in training"]),
        *([] if results["people"] else ["people"]),
    ]
    text = f"Seeds {seeds[0]} to {seeds[-1]}, {sum(len(row['seeds']) for row in results['stress'])} references."
    return text + (f" **This run is a part of the study; not run: {'; '.join(parts)}.**" if parts else "")


def findings(results: dict[str, Any]) -> str:
    """Everything with a number in it, as Markdown."""
    first = ("condition", "seeds", "excess (nats)")
    lines = [
        extent(results),
        "",
        f"**The paper's check.** {paper_sentence(results)}",
        "",
        f"**Ranks.** {aim_sentence(results)}",
        "",
        *table(SURVIVAL_HEADER, survival_rows(results)),
        "Rank correlation with the true −log φ on held-out prompts, 95% intervals over seeds:",
        "",
        *table((*first, *(label(name) for name in RANKS)), rank_rows(results, RANKS)),
        *table((*first, *(label(name) for name in PANELS)), rank_rows(results, PANELS)),
        "**Spread.** " + " ".join(spread_sentence(results, name) for name in ("mean_entropy", *PANELS[:3])),
        "",
        "**Worth in training.** " + (" ".join(downstream_sentences(results)) or "Not run yet."),
        "",
        f"**People.** {people_sentence(results)}",
        "",
        "**Limits.**",
        "",
        *(f"- {text}" for text in limits(results)),
    ]
    return "\n".join(lines).strip()


def pointer(results: dict[str, Any]) -> str:
    """The paragraph of docs/dispersion.md."""
    return f"{aim_sentence(results)} {winner(results)}"


if __name__ == "__main__":
    if not sys.argv[1:]:
        run()
    elif sys.argv[1:] == ["--keep"]:
        keep()
    stored = json.loads((KEPT / "results.json").read_text(encoding="utf-8"))
    wanted = {PAGE: findings(stored), ROOT / "dispersion.md": pointer(stored)}
    pages = {page: page_with(page.read_text(encoding="utf-8"), MARK, text) for page, text in wanted.items()}
    if sys.argv[1:] == ["--check"]:
        sys.exit(any(page.read_text(encoding="utf-8") != text for page, text in pages.items()))
    for page, text in pages.items():
        page.write_text(text, encoding="utf-8")
