"""A world of its own for a seed: its reference, its prompts, and one policy trained and measured exactly.

A job's result depends on the setup and the job alone, never on which process ran it or what it ran before.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.data.records import prompt_id_of_text
from mallowspo.dispersion.shrinkage import effective_pairs
from mallowspo.evaluation.candidate_tree import (
    CandidateScores,
    CandidateTree,
    build_candidate_tree,
    score_candidates,
    sequence_kl,
)
from mallowspo.evaluation.exact import (
    Frontier,
    agreement,
    agreement_of_answers,
    choice_entropy,
    expected_value,
    optimal_policies,
    order_accuracy,
    outside_mass,
    share_of_optimum,
    terciles,
)
from mallowspo.files import parse_json, plain, write_json, write_lines
from mallowspo.stats.bootstrap import spearman
from mallowspo.studies.policies import (
    BASELINE,
    METHODS,
    Job,
    check_at_least,
    final_loss,
    grouped,
    pair_rows,
    quietly,
    train_policy,
    weight_quantiles,
)
from mallowspo.studies.study import Done, Results, Stage
from mallowspo.world.language import World, WorldPrompt, build_world, word_tokenizer
from mallowspo.world.population import (
    PreferencePair,
    collect_preferences,
    collect_votes,
    consensus_values,
    preference_matrix,
    top_choice_probabilities,
    write_corpus,
)
from mallowspo.world.reference import ReferenceTraining, TokenizedPrompts, tokenize_prompts, train_reference

__all__ = [
    "PARTS", "WORLDS", "YARDSTICKS", "Bench", "PolicyJob", "Split", "WorldJob", "WorldSetup", "describe_world",
    "make_world", "open_world", "pairs_of_seed", "run_job", "run_policy", "runs_stage", "score_prompts",
    "world_folder",
]  # fmt: skip

Floats = NDArray[np.float64]

_COMPARED = (BASELINE, "ipo_sum", "mallows_theta", "theta_best", "theta_true_50", "mallows_theta_true")

PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "comparison": _COMPARED,
        "pairs": _COMPARED,
        "rho": ("theta_true_25", "theta_true_75", "theta_best_25", "theta_best_50", "theta_best_75"),
        "estimates": ("theta_one_pass_panel", "theta_released_shrunk", "theta_best_shrunk"),
        "phi": ("mallows_phi", "mallows_phi_true"),
    }
)
"""The parts of the study and what each trains, in the order in which they run; all but `pairs` at one number of pairs.

What a part compares with has been trained by `comparison`: ρ = 0 is DPO, ρ = ½ and 1 of the true index stand there.
"""

YARDSTICKS = ("consensus", "agreement")
"""What a policy can be asked for, and has an exact optimum in."""


@dataclass(frozen=True, kw_only=True)
class WorldSetup:
    """What every run of the study shares; a run's result depends on this and on its job alone."""

    world_seed: int | None = None  # the one world of all seeds; None: a world, corpus and reference for every seed
    train_prompts: int = 396  # training prompts of each world
    heldout_prompts: int = 120  # prompts on which everything is measured, a multiple of 6
    answers_per_prompt: int = 200  # people who answer each training prompt in the corpus
    # Share of the corpus that is any of a prompt's answers, each as likely: a reference that answers exactly as the
    # people do has nothing to learn on the prompts on which they agree
    careless: float = 0.3
    pairs_per_prompt: int = 12  # preference pairs of each training prompt, each judged by one person
    # Pairs that are drawn and judged, of which a run takes the first ones: more pairs contain the fewer
    pairs_drawn: int = 32
    # Where an index is shrunken or stretched by people's votes: on how many training prompts they voted, on how many
    # pairs of each, and how many people
    voted_prompts: int = 60
    voted_pairs: int = 3
    voters: int = 5
    reference: ReferenceTraining = field(default_factory=ReferenceTraining)  # size and schedule of the references
    epochs: int = 1  # passes over the pairs
    # Pairs in a step of a run on `pairs_per_prompt`. With as many times more pairs a step takes as many times more, so
    # that all runs take equally many steps and move about equally far
    batch_size: int = 72
    examples: bool = False  # keep what the page of a single world shows: the index of every prompt, some answers

    def __post_init__(self) -> None:
        check_at_least(self, epochs=1, batch_size=1, pairs_per_prompt=1, answers_per_prompt=1, voted_prompts=1)
        check_at_least(self, pairs_drawn=self.pairs_per_prompt, voted_pairs=1, voters=2)
        self.build(0)

    def world_of(self, seed: int) -> int:
        """The seed of the world in which a seed's policies are trained."""
        return seed if self.world_seed is None else self.world_seed

    def build(self, world_seed: int) -> World:
        """A world with its training and held-out prompts."""
        return build_world(world_seed, train_prompts=self.train_prompts, heldout_prompts=self.heldout_prompts)


@dataclass(frozen=True)
class WorldJob:
    """A world that is made once: its corpus is written, its reference trained and described."""

    world: int


@dataclass(frozen=True, kw_only=True)
class PolicyJob(Job):
    """A run on some number of pairs a prompt."""

    pairs: int


@dataclass(frozen=True)
class Split:
    """Prompts on which policies are measured, and what is true of them."""

    prompts: tuple[WorldPrompt, ...]
    tree: CandidateTree  # their candidates, laid out for scoring
    reference_scores: CandidateScores  # what the reference says on them
    preference_pkk: Floats  # the population's preferences
    value_pk: Floats  # the candidates' consensus values, their places in the centre
    tercile_p: NDArray[np.int64]  # 0, 1, 2: agreed, middle, contested third of the prompts by true φ

    def by_tercile(self, values_p: Floats) -> list[float]:
        """Means over the agreed, the middle and the contested third."""
        return [float(values_p[self.tercile_p == tercile].mean()) for tercile in range(3)]

    def measures(self, logp_pk: Floats) -> dict[str, Floats]:
        """What a policy reaches on each prompt, exactly, its KL aside; each of shape (P,)."""
        reached = agreement(logp_pk, self.reference_scores.logp_pk, self.preference_pkk)
        return {
            "consensus": expected_value(logp_pk, self.value_pk),
            "top1": expected_value(logp_pk, self.value_pk == 1.0),
            "order": order_accuracy(logp_pk, self.reference_scores.logp_pk, -self.value_pk),
            "agreement": reached.counted_p,
            "agreement_renormalised": reached.renormalised_p,
            "outside": outside_mass(logp_pk),
            "entropy": choice_entropy(logp_pk),
        }

    def optimum(self, yardstick: str) -> dict[str, Floats]:
        """The policies with most consensus value or agreement at each KL: their KL, and what they have of both."""
        reference = self.reference_scores.logp_pk
        values = {"consensus": self.value_pk, "agreement": agreement_of_answers(reference, self.preference_pkk)}
        temperature, kl, logp_tpk = optimal_policies(reference, values[yardstick], np.geomspace(5e-3, 1e3, 200))
        means = {name: np.asarray([expected_value(one, worth).mean() for one in logp_tpk]) for name, worth in
                 values.items()}  # fmt: skip
        return {"temperature": temperature, "kl": kl, **means}

    @property
    def shown(self) -> list[int]:
        """One prompt of each family, at its median dispersion, so that nobody has picked it; from agreed on."""
        families = grouped(range(len(self.prompts)), lambda p: self.prompts[p].family)
        middle = [sorted(each, key=lambda p: self.prompts[p].phi)[len(each) // 2] for each in families.values()]
        return sorted(middle, key=lambda p: self.prompts[p].phi)


@dataclass(frozen=True)
class Bench:
    """What all runs in one world share."""

    setup: WorldSetup
    world_seed: int
    folder: Path
    world: World  # the prompts and what is true of them
    tokenizer: Any
    reference: Any  # the reference model, in eval mode
    train_tokens: TokenizedPrompts  # the training prompts as ids
    train_probability_pk: Floats  # the reference's probabilities of the candidates, training prompts
    heldout: Split
    # What is best possible on the held-out prompts, in consensus value and in agreement
    optima: dict[str, dict[str, Floats]]


def world_folder(folder: Path, world_seed: int) -> Path:
    """Where a world's reference lies in the folder of a study."""
    return folder / "worlds" / str(world_seed)


def score_prompts(model: Any, tokens: TokenizedPrompts) -> tuple[CandidateTree, CandidateScores]:
    """Lay prompts out and score their candidates."""
    tree = build_candidate_tree(tokens.prompt_ids, tokens.candidate_ids)
    return tree, score_candidates(model, tree)


def _open_split(reference: Any, tokenizer: Any, prompts: Sequence[WorldPrompt]) -> Split:
    tree, scores = score_prompts(reference, tokenize_prompts(tokenizer, prompts))
    return Split(
        prompts=tuple(prompts),
        tree=tree,
        reference_scores=scores,
        preference_pkk=np.stack([preference_matrix(prompt) for prompt in prompts]),
        value_pk=np.stack([consensus_values(prompt) for prompt in prompts]),
        tercile_p=terciles([prompt.phi for prompt in prompts]),
    )


def make_world(setup: WorldSetup, job: WorldJob, folder: Path) -> Bench:
    """Train a world's reference on what its population writes, unless it lies there; open the world."""
    place = world_folder(folder, job.world)
    facts = plain({"world": job.world, **asdict(setup)})
    no_matter = ("pairs_per_prompt", "pairs_drawn", "voted_prompts", "voted_pairs", "voters", "epochs", "batch_size")
    for name in (*no_matter, "examples", "world_seed"):
        del facts[name]  # no reference depends on these
    record = place / "reference.json"
    if not (record.is_file() and parse_json(record.read_text(encoding="utf-8")) == facts):
        record.unlink(missing_ok=True)
        shutil.rmtree(place / "reference", ignore_errors=True)
        world, tokenizer = setup.build(job.world), word_tokenizer()
        corpus_pk = write_corpus(
            world.train,
            answers_per_prompt=setup.answers_per_prompt,
            careless=setup.careless,
            rng=np.random.default_rng([job.world, 2**20]),
        )
        with quietly():
            model = train_reference(tokenizer, world.train, corpus_pk, training=setup.reference)
            model.save_pretrained(place / "reference")
            tokenizer.save_pretrained(place / "reference")
        write_json(record, facts)  # last: without it a reference was cut short, and is made again
    return open_world(setup, job.world, folder)


def open_world(setup: WorldSetup, world_seed: int, folder: Path) -> Bench:
    """Build what the runs in a world share from its saved reference."""
    from transformers import AutoModelForCausalLM

    with quietly():
        world, tokenizer = setup.build(world_seed), word_tokenizer()
        path = world_folder(folder, world_seed) / "reference"
        reference = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=False).eval()
        train_tokens = tokenize_prompts(tokenizer, world.train)
        _, train_scores = score_prompts(reference, train_tokens)
        heldout = _open_split(reference, tokenizer, world.heldout)
    return Bench(
        setup, world_seed, folder, world, tokenizer, reference, train_tokens, np.exp(train_scores.logp_pk), heldout,
        {yardstick: heldout.optimum(yardstick) for yardstick in YARDSTICKS},
    )  # fmt: skip


def describe_world(bench: Bench, job: WorldJob) -> dict[str, Any]:
    """What is to be known of one world and its reference, and its exact optimum."""
    world, split = bench.world, bench.heldout
    prompts = (*world.train, *world.heldout)
    families = grouped(prompts, lambda prompt: prompt.family)
    logp_pk = split.reference_scores.logp_pk
    truth_pk = np.stack([top_choice_probabilities(prompt) for prompt in split.prompts])
    phi_p = np.asarray([prompt.phi for prompt in split.prompts])
    reached = split.measures(logp_pk)
    return {
        "seed": job.world,
        "candidates": len(prompts[0].candidates),
        "groups": len({prompt.group for prompt in prompts}),
        "questions": len({(prompt.family, prompt.context) for prompt in prompts}),
        "vocabulary": len(world.vocabulary),
        "families": {
            name: [end(prompt.phi for prompt in here) for end in (min, max)] for name, here in families.items()
        },
        "phi_by_tercile": [
            [float(phi_p[split.tercile_p == t].min()), float(phi_p[split.tercile_p == t].max())] for t in range(3)
        ],
        "reference_parameters": sum(parameter.numel() for parameter in bench.reference.parameters()),
        # KL of the people's first choices from the reference: its cross-entropy above the truth's own entropy.
        "reference_excess_nats": float((truth_pk * (np.log(truth_pk) - logp_pk)).sum(axis=1).mean()),
        "reference": {name: float(values_p.mean()) for name, values_p in reached.items()},
        "reference_by_tercile": {name: split.by_tercile(values_p) for name, values_p in reached.items()},
        "population_entropy_by_tercile": split.by_tercile(choice_entropy(np.log(truth_pk))),
        "optima": bench.optima,
        "shown": [
            {
                "prompt": split.prompts[p].text,
                "phi": split.prompts[p].phi,
                "candidates": split.prompts[p].candidates,
                "center": split.prompts[p].center,
                "population": truth_pk[p],
                "reference": np.exp(logp_pk[p]),
            }
            for p in split.shown
        ],
    }


def pairs_of_seed(bench: Bench, seed: int, pairs: int | None = None) -> list[PreferencePair]:
    """The preference pairs of a seed: answers drawn from the reference, each pair judged by one person.

    `pairs` of them a prompt, `pairs_per_prompt` unless given.
    """
    setup = bench.setup
    drawn = collect_preferences(
        bench.world.train,
        bench.train_probability_pk,
        pairs_per_prompt=setup.pairs_drawn,
        rng=np.random.default_rng([bench.world_seed, seed]),
    )
    kept = setup.pairs_per_prompt if pairs is None else pairs
    return [pair for place, pair in enumerate(drawn) if place % setup.pairs_drawn < kept]


def _dataset(bench: Bench, pairs: list[PreferencePair], *, with_truth: bool) -> Any:
    tokens = bench.train_tokens
    return pair_rows(
        [tokens.prompt_ids[pair.prompt] for pair in pairs],
        [tokens.candidate_ids[pair.prompt][pair.chosen] for pair in pairs],
        [tokens.candidate_ids[pair.prompt][pair.rejected] for pair in pairs],
        [bench.world.train[pair.prompt].phi for pair in pairs] if with_truth else None,
        [prompt_id_of_text(bench.world.train[pair.prompt].text) for pair in pairs],
    )


def _votes_file(bench: Bench, seed: int) -> Path:
    """A file of what several people say of a few pairs of some training prompts: all that a run is told of φ."""
    setup, prompts = bench.setup, bench.world.train
    rng = np.random.default_rng([bench.world_seed, seed, 2])
    asked = set(rng.permutation(len(prompts))[: setup.voted_prompts].tolist())
    rows = []
    for pair in pairs_of_seed(bench, seed, min(setup.voted_pairs, setup.pairs_drawn)):
        if pair.prompt in asked:
            prompt = prompts[pair.prompt]
            votes = collect_votes(prompt, pair.chosen, pair.rejected, members=setup.voters, rng=rng)
            texts = {side: prompt.candidates[getattr(pair, side)] for side in ("chosen", "rejected")}
            rows.append({"prompt": prompt.text, **texts, "votes": [votes, setup.voters - votes]})
    path = world_folder(bench.folder, bench.world_seed) / f"votes_{seed}.jsonl"
    write_lines(path, rows)
    return path


def _index_of_run(trainer: Any, bench: Bench, pairs: list[PreferencePair]) -> dict[str, Any]:
    """What the trainer took for the index of each training prompt, from its own prepared rows, against the truth."""
    data, calibration = trainer.train_dataset, trainer.calibration
    prompts = bench.world.train
    prompt_n = np.asarray([pairs[row].prompt for row in data["row_index"][:]])
    weight_n = np.asarray(calibration.weight(np.asarray(data["dispersion_raw"][:], dtype=np.float64)))
    truth_p = np.asarray([prompt.neg_log_phi for prompt in prompts])
    # w = −2 log φ, so that half of the weight stands beside −log φ.
    estimate_p = 0.5 * np.bincount(prompt_n, weight_n) / np.bincount(prompt_n, minlength=len(prompts))
    families = np.asarray([prompt.family for prompt in prompts])
    within = [
        spearman(estimate_p[families == family], truth_p[families == family])
        for family in dict.fromkeys(families)
        if (families == family).sum() >= 3
    ]
    found = {
        "rank_correlation": spearman(estimate_p, truth_p),
        "within_families": float(np.mean(within)) if within else float("nan"),
        "variation": float(weight_n.std() / weight_n.mean()),
        "gain": effective_pairs(weight_n, truth_p[prompt_n]),
        "shrink": calibration.shrink,
        "weight_quantiles": weight_quantiles(trainer),
    }
    if bench.setup.examples:
        found |= {"estimated_p": estimate_p, "true_p": truth_p, "family_p": families}
    return found


def run_job(bench: Bench, job: Job, pairs: list[PreferencePair]) -> dict[str, Any]:
    """Train one policy on these pairs in the world of its seed and measure it."""
    started = time.process_time()
    setup, split, method = bench.setup, bench.heldout, METHODS[job.method]
    options: dict[str, Any] = {}
    share = len(pairs) / (len(bench.world.train) * setup.pairs_per_prompt)
    if method.settings.get("dispersion_shrink") == "votes":
        options["dispersion_votes"] = str(_votes_file(bench, job.seed))
    with quietly():
        trainer = train_policy(
            bench.reference,
            _dataset(bench, pairs, with_truth=method.index == "true"),
            bench.tokenizer,
            job,
            str(world_folder(bench.folder, bench.world_seed) / "runs"),
            epochs=setup.epochs,
            batch_size=max(1, round(setup.batch_size * share)),
            # A prompt of six tokens is cheaper computed twice than shared: padded rows took a quarter less time here.
            share_prompts=False,
            use_cpu=True,
            bf16=False,
            **options,
        )
        policy = trainer.model
        scores = score_candidates(policy, split.tree)
        kl = sequence_kl(
            policy, bench.reference, split.tree, scores, split.reference_scores, end_id=bench.tokenizer.eos_token_id,
            seed=job.seed,
        )  # fmt: skip
    result: dict[str, Any] = asdict(job)
    for name, values_p in split.measures(scores.logp_pk).items():
        result |= {name: float(values_p.mean()), f"{name}_by_tercile": split.by_tercile(values_p)}
    result |= {
        "kl": float(kl.total_p.mean()),
        "kl_on_candidates": float(kl.tree_p.mean()),
        "kl_standard_error": kl.standard_error,
        "kl_by_tercile": split.by_tercile(kl.total_p),
        "steps": int(trainer.state.global_step),
        "train_loss": final_loss(trainer),
    }
    for yardstick, optimum in bench.optima.items():
        line = Frontier(optimum["temperature"], optimum["kl"], optimum[yardstick])
        result[f"share_of_{yardstick}"] = share_of_optimum(result[yardstick], result["kl"], line)
    if trainer.calibration is not None:
        result["index"] = _index_of_run(trainer, bench, pairs)
    if setup.examples:
        result["answers"] = np.exp(scores.logp_pk[split.shown])
    return result | {"cpu_seconds": time.process_time() - started}


def run_policy(bench: Bench, job: PolicyJob) -> dict[str, Any]:
    """Train one policy on the first pairs of each prompt and measure it."""
    return run_job(bench, job, pairs_of_seed(bench, job.seed, job.pairs))


def _open(setup: WorldSetup, job: Job, folder: Path) -> Bench:
    return open_world(setup, setup.world_of(job.seed), folder)


WORLDS: Stage[Any] = Stage(
    "worlds",
    "Training the references",
    jobs=lambda settings, done: [*map(WorldJob, dict.fromkeys(map(settings.setup.world_of, settings.seeds)))],
    setup=lambda settings, done: settings.setup,
    bench=make_world,
    shares=lambda job: job.world,
    work=describe_world,
    files=lambda setup, job, folder: [world_folder(folder, job.world) / "reference.json"],
)
"""One reference per world: the first stage of every study in the embedded worlds."""


def runs_stage(
    jobs: Callable[[Any, Done], Sequence[Any]], work: Callable[[Any, Any], Results], name: str = "runs",
    title: str = "Training the policies",
) -> Stage[Any]:  # fmt: skip
    """A stage that trains policies, in the world of each job's seed."""
    return Stage(
        name, title, jobs=jobs, setup=lambda settings, done: settings.setup, bench=_open,
        shares=lambda job: job.seed, work=work,
    )  # fmt: skip
