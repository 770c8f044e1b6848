"""From the runs of the quick start to its findings: every number that the report shows is made here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.evaluation.exact import (
    Frontier,
    agreement,
    choice_entropy,
    optimal_frontier,
    outside_mass,
    share_of_optimum,
)
from mallowspo.experiments.comparison import (
    EqualKL,
    Interval,
    SeedFrontier,
    equal_kl_differences,
    mean_interval,
    rank_correlation,
    verdict,
)
from mallowspo.experiments.quickstart_config import METHODS, QuickstartConfig
from mallowspo.experiments.quickstart_runs import Bench
from mallowspo.world.language import WorldPrompt
from mallowspo.world.population import top_choice_probabilities

__all__ = ["BASELINE", "TERCILES", "summarise"]

Floats = NDArray[np.float64]
Run = dict[str, Any]

BASELINE = "dpo"
TERCILES = ("agreed", "middle", "contested")

_SCALARS = (
    "agreement",
    "agreement_renormalised",
    "outside",
    "kl",
    "kl_on_candidates",
    "kl_standard_error",
    "train_loss",
)
_BY_TERCILE = (
    "agreement_by_tercile",
    "agreement_renormalised_by_tercile",
    "outside_by_tercile",
    "kl_by_tercile",
    "entropy_by_tercile",
)
# What is compared at equal KL: name in the results -> where a run has it, and in which tercile.
_QUANTITIES: dict[str, tuple[str, int | None]] = {
    "agreement": ("agreement", None),
    "agreement_renormalised": ("agreement_renormalised", None),
    "outside": ("outside", None),
    **{f"agreement_{name}": ("agreement_by_tercile", tercile) for tercile, name in enumerate(TERCILES)},
    "entropy_contested": ("entropy_by_tercile", TERCILES.index("contested")),
}


def _read(run: Run, quantity: str) -> float:
    name, tercile = _QUANTITIES[quantity]
    return float(run[name] if tercile is None else run[name][tercile])


def summarise(bench: Bench, runs: Sequence[Run]) -> dict[str, Any]:
    """Turn runs into findings.

    Args:
        bench: What all runs shared.
        runs: The results of `run_job`, in the order of `bench.config.jobs`.

    Returns:
        A tree of plain values for `results.json`: `world`, `reference`, `population`, `index`, `optimum`, `settings`
        (means over seeds), `comparisons` (differences from DPO at equal KL), `examples` and `runs`. An interval is a
        mapping with `mean`, `low` and `high`.
    """
    frontier = optimal_frontier(bench.reference_scores.logp_pk, bench.preference_pkk, np.geomspace(5e-3, 1e3, 200))
    return {
        "world": _world(bench),
        "reference": _reference(bench),
        "population": _population(bench),
        "index": _index(bench, runs),
        "optimum": asdict(frontier),
        "settings": _settings(bench.config, runs, frontier),
        "comparisons": _comparisons(bench.config, runs),
        "examples": _examples(bench, runs),
        "runs": [_flat(run) for run in runs],
    }


def _by_tercile(bench: Bench, values_p: Floats) -> list[float]:
    return [float(values_p[bench.tercile_p == tercile].mean()) for tercile in range(3)]


def _world(bench: Bench) -> dict[str, Any]:
    prompts = (*bench.world.train, *bench.world.heldout)
    families: dict[str, list[float]] = {}
    for prompt in prompts:
        families.setdefault(prompt.family, []).append(prompt.phi)
    phi_p = np.asarray([prompt.phi for prompt in bench.world.heldout])
    return {
        "train_prompts": len(bench.world.train),
        "heldout_prompts": len(bench.world.heldout),
        "candidates": len(prompts[0].candidates),
        "groups": len({prompt.group for prompt in prompts}),
        "questions": len({(prompt.family, prompt.context) for prompt in prompts}),
        "vocabulary": len(bench.world.vocabulary),
        "pairs": len(bench.world.train) * bench.config.pairs_per_prompt,
        "phi_low": min(prompt.phi for prompt in prompts),
        "phi_high": max(prompt.phi for prompt in prompts),
        "families": {name: {"phi_low": min(phi), "phi_high": max(phi)} for name, phi in families.items()},
        "tercile_phi": [
            [float(phi_p[bench.tercile_p == tercile].min()), float(phi_p[bench.tercile_p == tercile].max())]
            for tercile in range(3)
        ],
    }


def _excess(logp_pk: Floats, prompts: Sequence[WorldPrompt]) -> float:
    """KL of the population's first choices from a model: its cross-entropy above the truth's own entropy, nats."""
    truth_pk = np.stack([top_choice_probabilities(prompt) for prompt in prompts])
    return float((truth_pk * (np.log(truth_pk) - logp_pk)).sum(axis=1).mean())


def _reference(bench: Bench) -> dict[str, Any]:
    logp_pk = bench.reference_scores.logp_pk
    itself = agreement(logp_pk, logp_pk, bench.preference_pkk)
    return {
        "parameters": sum(parameter.numel() for parameter in bench.reference.parameters()),
        "excess_nats_train": _excess(np.log(bench.train_probability_pk), bench.world.train),
        "excess_nats_heldout": _excess(logp_pk, bench.world.heldout),
        "outside": float(outside_mass(logp_pk).mean()),
        "agreement": float(itself.counted_p.mean()),
        "agreement_by_tercile": _by_tercile(bench, itself.counted_p),
        "entropy_by_tercile": _by_tercile(bench, choice_entropy(logp_pk)),
    }


def _population(bench: Bench) -> dict[str, Any]:
    truth_pk = np.stack([top_choice_probabilities(prompt) for prompt in bench.world.heldout])
    return {"entropy_by_tercile": _by_tercile(bench, choice_entropy(np.log(truth_pk)))}


def _index(bench: Bench, runs: Sequence[Run]) -> dict[str, Any]:
    """The trainer's own index against the truth, on the training prompts, one estimate per seed."""
    truth_p = np.asarray([prompt.neg_log_phi for prompt in bench.world.train])
    families = np.asarray([prompt.family for prompt in bench.world.train])
    # The index depends on the pairs alone, so that one run of each seed tells it.
    found: dict[str, dict[int, Run]] = {"mallows_theta": {}, "mallows_theta_true": {}}
    for run in runs:
        if run["method"] in found:
            found[run["method"]].setdefault(run["seed"], run["index"])
    estimated, true = ([*found[name].values()] for name in found)
    rng = np.random.default_rng(bench.config.world_seed)
    result: dict[str, Any] = {}
    # The same entropies, averaged over the tokens (as trained with) or summed over the answer: −log φ falls with both.
    for name, key, sign in (("mean_entropy", "neg_log_phi_p", 1.0), ("answer_entropy", "answer_entropy_p", -1.0)):
        estimate_sp = sign * np.stack([index[key] for index in estimated])
        within = [
            rank_correlation(
                estimate_sp[:, families == family], truth_p[families == family], rng=rng, resamples=1
            ).mean
            for family in dict.fromkeys(families)
            if (families == family).sum() >= 3
        ]
        result[name] = {
            "rank_correlation": asdict(rank_correlation(estimate_sp, truth_p, rng=rng)),
            "within_families": float(np.mean(within)) if within else float("nan"),
        }
    result["estimated_neg_log_phi_p"] = np.mean([index["neg_log_phi_p"] for index in estimated], axis=0)
    result["true_neg_log_phi_p"] = truth_p
    result["family_p"] = families
    result["weight_quantiles"] = {
        "levels": [0.05, 0.5, 0.95],
        "estimated": np.mean([index["weight_quantiles"] for index in estimated], axis=0),
        "true": np.mean([index["weight_quantiles"] for index in true], axis=0),
    }
    return result


def _flat(run: Run) -> Run:
    return {key: value for key, value in run.items() if key not in {"index", "probability_pk"}}


def _select(runs: Sequence[Run], **wanted: object) -> list[Run]:
    return [run for run in runs if all(run[key] == value for key, value in wanted.items())]


def _settings(config: QuickstartConfig, runs: Sequence[Run], frontier: Frontier) -> list[dict[str, Any]]:
    """Means over seeds, one entry per learning rate, method and β."""
    rows = []
    for rate in config.learning_rates:
        for method in METHODS:
            for beta in config.betas:
                here = _select(runs, learning_rate=rate, method=method, beta=beta)
                row: dict[str, Any] = {"learning_rate": rate, "method": method, "beta": beta, "seeds": len(here)}
                row |= {name: asdict(mean_interval([run[name] for run in here])) for name in _SCALARS}
                for name in _BY_TERCILE:
                    row[name] = [asdict(mean_interval([run[name][t] for run in here])) for t in range(3)]
                shares = [share_of_optimum(run["agreement"], run["kl"], frontier) for run in here]
                row["share_of_optimum"] = asdict(mean_interval(shares))
                rows.append(row)
    return rows


def _frontiers(
    config: QuickstartConfig, runs: Sequence[Run], method: str, rates: Sequence[float], quantity: str
) -> list[list[SeedFrontier]]:
    per_seed = []
    for seed in config.seeds:
        lines = []
        for rate in rates:
            here = _select(runs, seed=seed, method=method, learning_rate=rate)
            lines.append(
                SeedFrontier(
                    kl_b=[run["kl"] for run in here],
                    agreement_b=[run["agreement"] for run in here],
                    value_b=[_read(run, quantity) for run in here],
                )
            )
        per_seed.append(lines)
    return per_seed


def _comparisons(config: QuickstartConfig, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each method against DPO at equal KL: with both at their better learning rate, and at each learning rate."""
    scopes: list[tuple[float | None, tuple[float, ...]]] = [(None, config.learning_rates)]
    if len(config.learning_rates) > 1:
        scopes += [(rate, (rate,)) for rate in config.learning_rates]
    rows = []
    for scope, rates in scopes:
        for method in METHODS:
            if method == BASELINE:
                continue
            for quantity in _QUANTITIES:
                found: EqualKL = equal_kl_differences(
                    _frontiers(config, runs, method, rates, quantity),
                    _frontiers(config, runs, BASELINE, rates, quantity),
                )
                difference: Interval = mean_interval(found.difference_s)
                rows.append(
                    {
                        "method": method,
                        "baseline": BASELINE,
                        "learning_rate": scope,  # None: each at its better learning rate
                        "quantity": quantity,
                        "difference": asdict(difference),
                        "per_seed": found.difference_s,
                        "kl_low": float(np.mean(found.low_s)),
                        "kl_high": float(np.mean(found.high_s)),
                        "verdict": _verdict(quantity, difference),
                    }
                )
    return rows


def _verdict(quantity: str, difference: Interval) -> str:
    """`better`, `worse` or `open`; for diversity, of which more is not simply better, `more`, `less` or `open`."""
    if quantity == "outside":  # less of it is better
        return verdict(Interval(-difference.mean, -difference.high, -difference.low))
    said = verdict(difference)
    return {"better": "more", "worse": "less"}.get(said, said) if quantity == "entropy_contested" else said


def _examples(bench: Bench, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One held-out prompt of each family, from agreed to contested, and who answers what how often."""
    config = bench.config
    shown = _select(runs, seed=config.seeds[0], learning_rate=config.learning_rates[0], beta=config.shown_beta)
    families: dict[str, list[int]] = {}
    for index, prompt in enumerate(bench.world.heldout):
        families.setdefault(prompt.family, []).append(index)
    rows = []
    for members in families.values():
        # The prompt at the family's median dispersion, so that nobody has picked it.
        index = sorted(members, key=lambda member: bench.world.heldout[member].phi)[len(members) // 2]
        prompt = bench.world.heldout[index]
        rows.append(
            {
                "prompt": prompt.text,
                "family": prompt.family,
                "phi": prompt.phi,
                "candidates": prompt.candidates,
                "center": prompt.center,
                "population": top_choice_probabilities(prompt),
                "reference": np.exp(bench.reference_scores.logp_pk[index]),
                **{run["method"]: run["probability_pk"][index] for run in shown},
            }
        )
    return sorted(rows, key=lambda row: row["phi"])
