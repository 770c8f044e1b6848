"""The learning rate of the study `world`, fixed on plain DPO in world 100, which no study uses.

python docs/experiments/world/learning_rate.py output/learning_rate > docs/experiments/world/learning_rate.txt

Wanted is a rate at which DPO's own line, over β, holds its rise and its peak: at a lower one nothing moves, at a
higher one answers leave the candidates and consensus value falls. IPO's β is in other units: where its values lie is
read on its KL alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mallowspo.studies.policies import BASELINE
from mallowspo.studies.world.bench import PolicyJob, WorldJob, WorldSetup, make_world, run_policy

WORLD, RATES, BETAS = 100, (1e-4, 2e-4, 3e-4, 4e-4), (0.25, 0.5, 1.0, 2.0, 4.0)
IPO_BETAS = (0.0625, 0.125, 0.25, 0.5, 1.0)


def main(folder: Path) -> None:
    """Print what DPO reaches at every rate and β, and how far IPO moves at the rate that was taken."""
    setup = WorldSetup()
    bench = make_world(setup, WorldJob(WORLD), folder)
    grid = [(BASELINE, rate, beta) for rate in RATES for beta in BETAS]
    grid += [("ipo_sum", 3e-4, beta) for beta in IPO_BETAS]
    write = sys.stdout.write
    write(f"World {WORLD}, {setup.pairs_per_prompt} pairs a prompt, one pass, held-out prompts; shares in %\n\n")
    write("method       rate     beta  KL (nats)  consensus  top-1  order  agreement  outside\n")
    for method, rate, beta in grid:
        job = PolicyJob(seed=WORLD, method=method, beta=beta, learning_rate=rate, pairs=setup.pairs_per_prompt)
        run = run_policy(bench, job)
        write(
            f"{method:8s} {rate:8g} {beta:8g} {run['kl']:10.3f} {100 * run['consensus']:10.2f} "
            f"{100 * run['top1']:6.2f} {100 * run['order']:6.1f} {100 * run['agreement']:10.2f} "
            f"{100 * run['outside']:8.2f}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
