"""Follow the page *Start* from a new environment to the evaluation; record what it takes and what comes out.

python docs/start/run.py     # from the root of a clone; needs the model of the page, writes docs/start/run.json

A folder of the model's name in the root (`HuggingFaceTB/SmolLM2-135M-Instruct`) is taken in the place of the hub's.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tests"))


def main() -> None:
    """Run every marked block, one command after the other; the first that fails ends it."""
    from doc_examples import blocks, commands

    taken: list[dict[str, Any]] = []

    def timed(*words: str) -> None:
        before, started = _processor_seconds(), time.monotonic()
        subprocess.run(words, check=True)
        taken.append(
            {
                "command": " ".join(words[:2]),
                "seconds": round(time.monotonic() - started, 1),
                "processor_seconds": round(_processor_seconds() - before, 1),
            }
        )

    # The environment that runs this has everything already; a new one is thrown away again.
    with tempfile.TemporaryDirectory() as scratch:
        timed("python3", "-m", "venv", scratch)
        taken[-1]["command"] = "python3 -m venv"
        timed(f"{scratch}/bin/pip", "install", "--quiet", "-c", "constraints.txt", "-e", ".")
        taken[-1]["command"] = "pip install"
    for block in (block for block in blocks() if block.page == "docs/index.md"):
        if block.treated == "parsed" and block.note:
            Path(block.note).write_text(block.text, encoding="utf-8")
        for words in commands(block.text) if block.treated == "run" else ():
            timed(*words)
    results = json.loads(Path("output/start/evaluation/results.json").read_text(encoding="utf-8"))
    record = {
        "commands": taken,
        "win_rate": {name: results["win_rate"][name] for name in ("win_rate", "low", "high")},
        "prompts": len(Path("output/start/prompts.jsonl").read_text(encoding="utf-8").splitlines()),
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "machine": platform.processor() or platform.machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
    }
    (ROOT / "docs/start/run.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
