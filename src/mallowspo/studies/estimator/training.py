"""What an index is worth in training: θ with it, θ with the true index, and DPO, on the same pairs.

One job is one reference: all methods and values of β start from it, see the same pairs in the same order, and are
measured exactly on held-out prompts, over all the forms in which their answers are written.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.dispersion.panel import panel_neg_log_phi
from mallowspo.errors import InputError
from mallowspo.evaluation.candidate_tree import score_candidates, sequence_kl
from mallowspo.evaluation.exact import agreement, outside_mass
from mallowspo.studies.estimator.references import (
    Reading,
    WorldJob,
    WorldSettings,
    read_reference,
    train_world,
    written_world,
)
from mallowspo.studies.policies import BASELINE, Job, one_thread, quiet_libraries, train_policy
from mallowspo.studies.world.bench import score_prompts
from mallowspo.world.conditions import EXTRA_WORDS, WrittenWorld
from mallowspo.world.language import WorldPrompt, word_tokenizer
from mallowspo.world.population import preference_matrix
from mallowspo.world.reference import TokenizedPrompts, tokenize_forms

__all__ = ["DOWNSTREAM_METHODS", "DownstreamSettings", "run_downstream_job"]

Floats = NDArray[np.float64]

DOWNSTREAM_METHODS = (BASELINE, "theta_mean_entropy", "theta_panel", "theta_true")
"""DPO; θ with the released index and map; θ with the panel of one pass; θ with the true φ."""


@dataclass(frozen=True, kw_only=True)
class DownstreamSettings:
    """How the policies are trained; fixed on DPO in the quick start."""

    world: WorldSettings = field(default_factory=WorldSettings)  # world and reference
    alternatives: int = 5  # N of the panel
    betas: tuple[float, ...] = (0.5, 1.5, 4.5)
    learning_rate: float = 4e-4  # peak learning rate
    epochs: int = 2  # passes over the pairs
    batch_size: int = 32  # pairs in a step

    def __post_init__(self) -> None:
        if not self.betas or not all(0 < beta < float("inf") for beta in self.betas):
            raise InputError(f"betas: got {self.betas}, expected finite numbers > 0")


def run_downstream_job(settings: DownstreamSettings, job: WorldJob) -> dict[str, Any]:
    """Train every method at every β from one reference."""
    started, runs = time.process_time(), []
    with quiet_libraries(), one_thread(), tempfile.TemporaryDirectory() as folder:
        written, tokenizer = written_world(settings.world, job), word_tokenizer(EXTRA_WORDS)
        reference = train_world(settings.world, job, written, tokenizer)
        reader = copy.deepcopy(reference)
        prompts = written.world.train
        reading = read_reference(reader, tokenizer, prompts, written.train_forms, settings.world, seed=job.seed)
        phi = _dispersions(settings, prompts, reading)
        yardstick = _Yardstick(written, tokenizer, reference)
        for method in DOWNSTREAM_METHODS:
            data = _dataset(written, tokenizer, reading, phi.get(method))
            for beta in settings.betas:
                trainer = train_policy(
                    reference,
                    data,
                    tokenizer,
                    Job(seed=job.seed, method=method, beta=beta, learning_rate=settings.learning_rate),
                    folder,
                    num_train_epochs=settings.epochs,
                    per_device_train_batch_size=settings.batch_size,
                    precompute_ref_batch_size=4 * settings.batch_size,
                    # A prompt of six tokens is cheaper computed twice than shared.
                    share_prompts=False,
                    use_cpu=True,
                    bf16=False,
                )
                runs.append({"method": method, "beta": beta} | yardstick.measure(trainer.model, job.seed))
    return {"runs": runs, "seconds": time.process_time() - started}


def _dispersions(settings: DownstreamSettings, prompts: Sequence[WorldPrompt], reading: Reading) -> dict[str, Floats]:
    """φ of each training prompt as each method takes it."""
    unit = float(np.log(len(word_tokenizer(EXTRA_WORDS))))
    panel = panel_neg_log_phi(
        {name: unit * reading.indexes[name] for name in ("first_token", "divergent_token")},
        -np.log(reading.indexes["reference_margin"]),
        alternatives=settings.alternatives,
    )
    if not panel.any():
        # A reference that knows nothing calls every prompt as contested as can be: all count alike.
        panel = np.ones_like(panel)
    return {
        # The trainer takes −2 log φ for the raw weight; the released one is −log u.
        "theta_mean_entropy": np.sqrt(reading.indexes["mean_entropy"]),
        "theta_panel": np.exp(-panel),
        "theta_true": np.array([prompt.phi for prompt in prompts]),
    }


def _dataset(written: WrittenWorld, tokenizer: Any, reading: Reading, phi_p: Floats | None) -> Any:
    from datasets import Dataset

    forms, prompts = tokenize_forms(tokenizer, written.train_forms), written.world.train
    both = list(zip(reading.pairs, reading.pair_forms, strict=True))
    columns: dict[str, list[Any]] = {
        "prompt_ids": [list(tokenizer(prompts[pair.prompt].text)["input_ids"]) for pair, _ in both],
        "chosen_ids": [list(forms[pair.prompt][pair.chosen][form]) for pair, (form, _) in both],
        "rejected_ids": [list(forms[pair.prompt][pair.rejected][form]) for pair, (_, form) in both],
    }
    if phi_p is not None:
        columns["dispersion"] = [float(phi_p[pair.prompt]) for pair, _ in both]
    return Dataset.from_dict(columns)


class _Yardstick:
    """Measures policies on the held-out prompts; prompts with as many forms are laid out together."""

    def __init__(self, written: WrittenWorld, tokenizer: Any, reference: Any) -> None:
        self._reference, self._end = reference, int(tokenizer.eos_token_id)
        forms = tokenize_forms(tokenizer, written.heldout_forms)
        groups: dict[tuple[int, ...], list[int]] = {}
        for p, candidates in enumerate(forms):
            groups.setdefault(tuple(len(texts) for texts in candidates), []).append(p)
        self._parts = []
        for counts, rows in groups.items():
            owner = np.repeat(np.arange(len(counts)), counts)
            tokens = TokenizedPrompts(
                tuple(tuple(tokenizer(written.world.heldout[p].text)["input_ids"]) for p in rows),
                tuple(tuple(text for texts in forms[p] for text in texts) for p in rows),
            )
            # Two forms of one candidate are one answer to people: its row says ½.
            preference = np.stack([preference_matrix(written.world.heldout[p])[np.ix_(owner, owner)] for p in rows])
            self._parts.append((*score_prompts(reference, tokens), preference))

    def measure(self, policy: Any, seed: int) -> dict[str, float]:
        """Counted agreement, KL over whole sequences and outside mass, means over the held-out prompts."""
        found: dict[str, list[Floats]] = {"agreement": [], "kl": [], "outside": []}
        for tree, reference_scores, preference in self._parts:
            scores = score_candidates(policy, tree)
            reached = agreement(scores.logp_pk, reference_scores.logp_pk, preference)
            kl = sequence_kl(
                policy, self._reference, tree, scores, reference_scores, end_id=self._end, seed=seed,
                exits_per_prompt=4,
            )  # fmt: skip
            found["agreement"].append(reached.counted_p)
            found["kl"].append(kl.total_p)
            found["outside"].append(outside_mass(scores.logp_pk))
        return {name: float(np.concatenate(values).mean()) for name, values in found.items()}
