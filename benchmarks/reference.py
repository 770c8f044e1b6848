"""What the entropies cost in the reference's pass: the same pass with and without them.

    python benchmarks/reference.py --output benchmarks/results/reference.csv   # about 3 minutes

The product has no pass without entropies; here the values after the head's product are cut down to the
log-probability, by torch's own `log_softmax`. Both passes take turns on the same batches in one process.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import measure_missing, run_child
from workload import MODELS, PAIRS, REGIMES, lengths, prepare

BATCHES = 5


def _log_probability_alone(z_mv: Any, target_m: Any, transform: Any, with_slope: bool) -> tuple[Any, Any, Any, Any]:
    """What a reference pass needs that nobody asks for an index."""
    log_prob = z_mv.log_softmax(dim=-1).gather(-1, target_m.unsqueeze(-1)).squeeze(-1)
    return log_prob, log_prob, log_prob, log_prob


def child(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Both passes on every batch, in turns."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    from mallowspo.data.collation import PreferenceCollator
    from mallowspo.scoring import add_packed_head, response_head
    from mallowspo.training.scoring_path import ScoringPath, _cpu_row_tokens

    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), task["model"])
        model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
    support = add_packed_head(model)
    scoring = ScoringPath(support.path, support.reason, _cpu_row_tokens(model.config))
    rng = np.random.default_rng(task["round"])
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    rows = [
        dict(zip(names, (rng.integers(2, 2000, size).tolist() for size in sizes), strict=True))
        for sizes in lengths(task["regime"], PAIRS * (BATCHES + 1))
    ]
    collate, passes = (
        PreferenceCollator(pad_token_id=0),
        {"with": response_head._token_values, "without": _log_probability_alone},
    )
    lines = []
    for number in range(BATCHES + 1):
        batch = collate(rows[number * PAIRS : (number + 1) * PAIRS])
        # Who goes first alternates; the first batch warms up.
        for arm in sorted(passes, reverse=bool(number % 2)):
            response_head._token_values = passes[arm]
            begun = time.perf_counter()
            with torch.no_grad():
                scoring.score_all(model, batch, per_token=True)
            if number:
                lines.append({"arm": arm, "step": number, "seconds": time.perf_counter() - begun})
    return lines


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="CSV; what it holds already is not measured again")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps({"lines": child(json.loads(args.child))}))
        return
    tasks = [
        {"model": model, "regime": regime, "round": number}
        for number in range(args.rounds)
        for model in MODELS
        for regime in REGIMES
    ]
    found = measure_missing(args.output, tasks, lambda task: run_child(__file__, task)["lines"])
    print(len(found), "lines")


if __name__ == "__main__":
    main()
