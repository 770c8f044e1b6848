"""Run the study of `docs/dispersion.md`: does the index of a small model track people's disagreement?

python docs/runs/estimator_study.py          # runs it, about 3 minutes on one core, and writes the table into the page
python docs/runs/estimator_study.py --table  # only writes the table again, from docs/dispersion/results.json
python docs/runs/estimator_study.py --check  # exit code 1 if the page shows another table
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from study_page import page_with

ROOT = Path(__file__).resolve().parent.parent.parent
SHARED = Path("../shared")
PAGE = ROOT / "docs/dispersion.md"
RESULTS = ROOT / "docs/dispersion/results.json"
QUESTIONS = {
    "pairs": "pairs",
    "pairs_given_length": "pairs, length held fixed",
    "auroc": "AUROC, contradicted pairs",
    "prompts_votes": "prompts",
    "prompts_rankings": "prompts, rankings",
}


def run() -> None:
    """Run the study."""
    from mallowspo.experiments.estimator import EstimatorConfig, run_estimator_study
    from mallowspo.experiments.quickstart import progress_bar

    config = EstimatorConfig(
        model=str(SHARED / "models/stories-3m"),
        data={
            "PandaLM": str(SHARED / "data/votes/pandalm.json"),
            "WMT23": str(SHARED / "data/votes/wmt23_sxs_mqm_ende.jsonl.gz"),
        },
        output_dir="docs/dispersion",
    )
    with progress_bar() as progress:
        run_estimator_study(config, progress=progress)


def cell(item: dict[str, Any] | None) -> str:
    """One estimate with its interval."""
    if item is None or item["value"] is None:
        return "–"
    return "{value:.2f} [{low:.2f}, {high:.2f}]".format(**item).replace("-", "−")


def table(results: dict[str, Any]) -> str:
    """All estimates as Markdown."""
    lines = []
    for name, facts in results["data"].items():
        asked = {
            key: text for key, text in QUESTIONS.items() if any(key in found for found in facts["indexes"].values())
        }
        lines += [
            f"**{name}**: {facts['pairs']:,} pairs of {facts['prompts']:,} prompts, {facts['votes']:,.0f} votes; "
            f"{facts['contradicted']:,} pairs on which voters contradict each other, {facts['unanimous']:,} unanimous "
            f"ones. Of {facts['responses']:,} responses {facts['cut_responses']:,} were cut, of the prompts "
            f"{facts['cut_prompts']:,}.",
            "",
            "| | " + " | ".join(asked.values()) + " |",
            "|---|" + "---|" * len(asked),
        ]
        for label, found in facts["indexes"].items():
            lines.append(f"| `{label}` | " + " | ".join(cell(found.get(key)) for key in asked) + " |")
        lines.append("")
    return "\n".join(lines).strip()


if __name__ == "__main__":
    if not sys.argv[1:]:
        run()
    new = table(json.loads(RESULTS.read_text(encoding="utf-8")))
    mark = "estimator study: written by docs/runs/estimator_study.py"
    wanted = page_with(PAGE.read_text(encoding="utf-8"), mark, new)
    if sys.argv[1:] == ["--check"]:
        sys.exit(PAGE.read_text(encoding="utf-8") != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
