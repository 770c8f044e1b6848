"""From the runs of the quick start to its findings: every number that the report shows is made here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.evaluation.exact import agreement, choice_entropy, outside_mass, share_of_optimum
from mallowspo.experiments.frontier_summary import Grid, Run, comparisons, select_runs, settings
from mallowspo.experiments.quickstart_config import METHODS
from mallowspo.experiments.quickstart_runs import Bench
from mallowspo.stats.bootstrap import rank_correlation, spearman
from mallowspo.world.language import WorldPrompt
from mallowspo.world.population import top_choice_probabilities

__all__ = ["BASELINE", "summarise"]

Floats = NDArray[np.float64]

BASELINE = "dpo"


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
    config = bench.config
    grid = Grid(seeds=config.seeds, methods=tuple(METHODS), betas=config.betas, learning_rates=config.learning_rates)
    frontier = bench.heldout.optimum()
    runs = [run | {"share_of_optimum": share_of_optimum(run["agreement"], run["kl"], frontier)} for run in runs]
    return {
        "world": _world(bench),
        "reference": _reference(bench),
        "population": _population(bench),
        "index": _index(bench, runs),
        "optimum": asdict(frontier),
        "settings": settings(grid, runs),
        "comparisons": comparisons(grid, runs, baseline=BASELINE),
        "examples": _examples(bench, runs),
        "runs": [_flat(run) for run in runs],
    }


def _world(bench: Bench) -> dict[str, Any]:
    prompts = (*bench.world.train, *bench.world.heldout)
    families: dict[str, list[float]] = {}
    for prompt in prompts:
        families.setdefault(prompt.family, []).append(prompt.phi)
    phi_p, tercile_p = np.asarray([prompt.phi for prompt in bench.world.heldout]), bench.heldout.tercile_p
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
            [
                float(phi_p[tercile_p == tercile].min()),
                float(phi_p[tercile_p == tercile].max()),
            ]
            for tercile in range(3)
        ],
    }


def _excess(logp_pk: Floats, prompts: Sequence[WorldPrompt]) -> float:
    """KL of the population's first choices from a model: its cross-entropy above the truth's own entropy, nats."""
    truth_pk = np.stack([top_choice_probabilities(prompt) for prompt in prompts])
    return float((truth_pk * (np.log(truth_pk) - logp_pk)).sum(axis=1).mean())


def _reference(bench: Bench) -> dict[str, Any]:
    logp_pk = bench.heldout.reference_scores.logp_pk
    itself = agreement(logp_pk, logp_pk, bench.heldout.preference_pkk)
    return {
        "parameters": sum(parameter.numel() for parameter in bench.reference.parameters()),
        "excess_nats_train": _excess(np.log(bench.train_probability_pk), bench.world.train),
        "excess_nats_heldout": _excess(logp_pk, bench.world.heldout),
        "outside": float(outside_mass(logp_pk).mean()),
        "agreement": float(itself.counted_p.mean()),
        "agreement_by_tercile": bench.heldout.by_tercile(itself.counted_p),
        "entropy_by_tercile": bench.heldout.by_tercile(choice_entropy(logp_pk)),
    }


def _population(bench: Bench) -> dict[str, Any]:
    truth_pk = np.stack([top_choice_probabilities(prompt) for prompt in bench.world.heldout])
    return {"entropy_by_tercile": bench.heldout.by_tercile(choice_entropy(np.log(truth_pk)))}


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
            spearman(estimate_sp[:, families == family], truth_p[families == family])
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


def _examples(bench: Bench, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One held-out prompt of each family, from agreed to contested, and who answers what how often."""
    config = bench.config
    shown = select_runs(runs, seed=config.seeds[0], learning_rate=config.learning_rates[0], beta=config.shown_beta)
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
                "reference": np.exp(bench.heldout.reference_scores.logp_pk[index]),
                **{run["method"]: run["probability_pk"][index] for run in shown},
            }
        )
    return sorted(rows, key=lambda row: row["phi"])
