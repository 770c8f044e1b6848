"""How often the 95% intervals hold the truth: φ of few rankings, φ of the votes on one pair, means over many pairs.

Takes about two minutes of processor time.
"""

import json
from itertools import product
from pathlib import Path

import numpy as np

from mallowspo.dispersion import people, votes_index
from mallowspo.dispersion.diagnostics import flip_probability, vote_disagreement
from mallowspo.maths import MallowsModel
from mallowspo.stats.bootstrap import bootstrap

REPETITIONS = 200
PAIRS = 20_000
RESAMPLES = 100


def rankings(persons: int, phi: float, few: int, shown: int = 5) -> float:
    """Share of intervals that hold φ, simulated ones up to `few` people, each of whom saw `shown` of five items."""
    people.FEW_PEOPLE = few
    rng = np.random.default_rng(persons)
    model = MallowsModel([3, 1, 5, 2, 4], phi)
    samples = [model.sample(persons, rng).astype(float) for _ in range(REPETITIONS)]
    for ranks in samples:
        unseen = rng.permuted(np.tile(np.arange(5), (persons, 1)), axis=1) >= shown
        ranks[unseen] = np.nan
    index = people.rankings_index(samples, ties="unordered")
    return float(((index.phi_low_n <= phi) & (phi <= index.phi_high_n)).mean())


def votes_of(rng: np.random.Generator, voters: int, phi: np.ndarray, ties: float) -> np.ndarray:
    """Votes on one pair for each φ; so many find neither better, and half of those count to each side."""
    tied = rng.binomial(voters, ties, len(phi))
    # 1/(1 + φ) of all, ties halved, are for the better one.
    better = rng.binomial(voters - tied, (1 / (1 + phi) - ties / 2) / (1 - ties))
    return np.column_stack([better, voters - tied - better, tied])


def pair(voters: int, phi: float, ties: float) -> dict[str, float]:
    """Share of the intervals of single pairs that hold φ, and the mean of φ̂ over all of them."""
    rng = np.random.default_rng(voters)
    index = votes_index(votes_of(rng, voters, np.full(PAIRS, phi), ties))
    held = (index.phi_low_n <= phi) & (phi <= index.phi_high_n)
    return {"coverage": round(float(held.mean()), 3), "mean_phi": round(float(index.phi_n.mean()), 3)}


def means(voters: int, phi: float | None, prompts: int) -> dict[str, float]:
    """Coverage over data sets of `prompts` pairs: of the pairs' φ, and of the two means that the report gives.

    φ is drawn anew for every pair, evenly between 0.05 and 1, where it is None.
    """
    rng = np.random.default_rng(voters)
    held: dict[str, list[float]] = {"pairs": [], "differ": [], "rate": []}
    # What the intervals of the means are about: those of all prompts that might have been drawn.
    law = np.linspace(0.05, 1, 100_001) if phi is None else np.array([phi])
    flip = flip_probability(law)
    truth = {"differ": float((2 * flip * (1 - flip)).mean()), "rate": float(flip.mean())}
    for _ in range(REPETITIONS):
        drawn = rng.uniform(0.05, 1, prompts) if phi is None else np.full(prompts, phi)
        votes = votes_of(rng, voters, drawn, 0.0)
        index = votes_index(votes)
        held["pairs"].append(float(((index.phi_low_n <= drawn) & (drawn <= index.phi_high_n)).mean()))
        for name, values in (("differ", vote_disagreement(votes)[0]), ("rate", flip_probability(index.phi_n))):
            found = bootstrap(
                lambda at, values=values: float(values[at].mean()), range(prompts), rng=rng, resamples=RESAMPLES
            )
            held[name].append(float(found.low <= truth[name] <= found.high))
    return {name: round(float(np.mean(values)), 3) for name, values in held.items()}


results = {
    "rankings": [
        {"people": m, "items": 5, "phi": phi, "simulated": rankings(m, phi, 30), "profile": rankings(m, phi, 0)}
        for m, phi in product((3, 5, 10), (0.3, 0.8, 0.95))
    ],
    "rankings_beyond_30_people": [
        {"people": m, "items": 5, "phi": phi, "profile": rankings(m, phi, 30)}
        for m, phi in product((40, 100, 300), (0.8, 0.95, 0.98))
    ],
    "rankings_three_of_five_shown": [
        {"people": m, "items": 5, "phi": phi, "profile": rankings(m, phi, 30, shown=3)}
        for m, phi in product((5, 10, 30, 100), (0.3, 0.8, 0.95))
    ],
    "votes_on_a_pair": [
        {"votes": voters, "phi": phi, "ties": ties, **pair(voters, phi, ties)}
        for voters, ties, phi in product((3, 4, 5, 10, 30), (0.0, 0.3), (0.05, 0.1, 0.3, 0.5, 0.8, 0.95, 1.0))
        if ties / 2 <= phi / (1 + phi)
    ],
    "means_over_pairs": [
        {"prompts": prompts, "votes": voters, "phi": phi, **means(voters, phi, prompts)}
        for prompts, voters, phi in product((5, 10, 30, 300), (3, 10, 30), (0.1, 0.5, 0.9, None))
    ],
}
lines = [f' "{name}": [\n  ' + ",\n  ".join(map(json.dumps, rows)) + "\n ]" for name, rows in results.items()]
Path(__file__).with_suffix(".json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
