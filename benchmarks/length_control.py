"""How far the length-controlled win rate without AlpacaEval's tables is from the published one, and the raw one is.

    python benchmarks/length_control.py ../shared/data/alpaca_eval > benchmarks/results/length_control.txt

For each model whose verdicts are at hand, on all 805 prompts and on 20 halves of them drawn at random (the published
figure stays the yardstick). Prints a line a model and the counts that the note beside the figure quotes.
"""

import csv
import gzip
import sys
from pathlib import Path

import numpy as np

from mallowspo.evaluation.length_control import length_controlled_win_rate, match_alpaca_rows, read_alpaca_tables

HALVES = 20


def main(folder: Path) -> None:
    """Print the figures of the tables in a folder."""
    with (folder / "leaderboard.csv").open(encoding="utf-8") as file:
        published = {row["model"]: float(row["length_controlled_winrate"]) for row in csv.DictReader(file)}
    verdicts: dict[str, list[list[float]]] = {}
    with gzip.open(folder / "preferences.csv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            numbers = [float(row[name]) for name in ("index", "len_1", "len_2", "preference")]
            verdicts.setdefault(row["model"], []).append(numbers)
    difficulty, gamed = read_alpaca_tables(folder)
    rng = np.random.default_rng(0)
    worst, farther, halves_farther, halves_worst = 0.0, 0, 0, 0.0
    print(f"{'model':32} {'raw':>6} {'published':>9} {'with':>6} {'without':>7} {'raw off':>7} {'without off':>11}")
    for name, target in published.items():
        index, base, length, preference = np.asarray(sorted(verdicts[name])).T
        y = np.where(preference == 0, 0.5, preference - 1)
        place = match_alpaca_rows(gamed.baseline_lengths_n, difficulty, base)
        with_tables = length_controlled_win_rate(
            y, length, base, difficulty_n=place, gamed=gamed, resamples=0
        ).win_rate
        without = length_controlled_win_rate(y, length, base, resamples=0).win_rate
        raw = 100 * y.mean()
        off = abs(raw - target), abs(without - target)
        worst, farther = max(worst, off[1]), farther + (off[1] > off[0])
        for _ in range(HALVES):
            half = rng.choice(len(y), len(y) // 2, replace=False)
            error = abs(length_controlled_win_rate(y[half], length[half], base[half], resamples=0).win_rate - target)
            halves_farther += error > abs(100 * y[half].mean() - target)
            halves_worst = max(halves_worst, error)
        figures = f"{raw:6.2f} {target:9.2f} {with_tables:6.2f} {without:7.2f} {off[0]:7.2f} {off[1]:11.2f}"
        print(f"{name:32} {figures}")
    models = len(published)
    print(
        f"without the tables: at most {worst:.1f} points off, farther off than the raw rate in {farther} of {models}"
    )
    total = HALVES * models
    print(f"on halves of the prompts: at most {halves_worst:.1f} off, farther in {halves_farther} of {total}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
