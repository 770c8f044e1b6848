"""What the study `world` runs: its settings, its worlds and its list of jobs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mallowspo.errors import InputError, not_one_of
from mallowspo.experiments.quickstart_config import METHOD_OPTIONS, Job, QuickstartConfig
from mallowspo.world.language import build_world
from mallowspo.world.reference import ReferenceTraining

__all__ = ["BASELINE", "WorldSetup", "WorldStudyConfig", "fast_world_config"]

BASELINE = "dpo"


@dataclass(frozen=True, kw_only=True)
class WorldSetup:
    """What every run of the study shares; a run's result depends on this and on its job alone.

    Attributes:
        output_dir: Folder of the study; the references lie in it.
        train_prompts: Training prompts of each world.
        selection_prompts: Prompts on which β and the learning rate are chosen; no model is trained on them.
        heldout_prompts: Prompts on which everything is measured, a multiple of 6; nothing is chosen on them.
        answers_per_prompt: People who answer each training prompt in the corpus.
        pairs_per_prompt: Preference pairs of each training prompt, each judged by one person.
        reference: Size and schedule of the references.
        epochs: Passes over the pairs.
        batch_size: Pairs in a step.
    """

    output_dir: str = "output/world"
    train_prompts: int = 396
    selection_prompts: int = 60
    heldout_prompts: int = 120
    answers_per_prompt: int = 200
    pairs_per_prompt: int = 2
    reference: ReferenceTraining = field(default_factory=ReferenceTraining)
    epochs: int = 1
    batch_size: int = 32

    def check(self) -> None:
        """Refuse sizes that cannot be used, before any work.

        Raises:
            InputError: A size is too small, or the language has not as many prompts as the three splits need.
        """
        if self.selection_prompts < 6:
            raise InputError(f"selection_prompts: got {self.selection_prompts}, expected at least 6")
        self.of_seed(0)
        try:
            build_world(
                train_prompts=self.train_prompts + self.selection_prompts, heldout_prompts=self.heldout_prompts
            )
        except InputError as error:
            raise InputError(f"training and selection prompts together, as {error}") from error

    def of_seed(self, seed: int) -> QuickstartConfig:
        """The quick start's settings for one seed: its own world, corpus, reference and pairs."""
        return QuickstartConfig(
            output_dir=str(Path(self.output_dir) / "worlds" / str(seed)),
            world_seed=seed,
            train_prompts=self.train_prompts,
            heldout_prompts=self.heldout_prompts,
            answers_per_prompt=self.answers_per_prompt,
            pairs_per_prompt=self.pairs_per_prompt,
            reference=self.reference,
            seeds=(seed,),
            epochs=self.epochs,
            batch_size=self.batch_size,
            workers=0,
        )


@dataclass(frozen=True, kw_only=True)
class WorldStudyConfig:
    """The settings of the study.

    Learning rates, epochs and the range of β were fixed on plain DPO in world 100, so that DPO rises to its peak
    within them and falls behind it. The study uses neither that world nor the quick start's.

    Attributes:
        setup: What all runs share.
        seeds: One world, corpus, reference, set of pairs and order of training each; the same for all methods.
        methods: Names in `mallowspo.experiments.quickstart_config.METHOD_OPTIONS`; DPO, the baseline, among them.
        betas: Values of β.
        learning_rates: Peak learning rates of the preference training.
        workers: Processes that train side by side; 0 trains in the calling process. It changes no result.
    """

    setup: WorldSetup = field(default_factory=WorldSetup)
    seeds: tuple[int, ...] = tuple(range(5, 17))
    methods: tuple[str, ...] = tuple(METHOD_OPTIONS)
    betas: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    learning_rates: tuple[float, ...] = (2e-4, 4e-4, 8e-4)
    workers: int = 0

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in METHOD_OPTIONS:
                raise not_one_of("methods", name, METHOD_OPTIONS)
        if BASELINE not in self.methods or len(self.methods) < 2:
            raise InputError(
                f"methods: got {', '.join(self.methods) or 'none'}; every method is compared with {BASELINE}, so give "
                f"{BASELINE} and at least one other"
            )
        if len(set(self.methods)) != len(self.methods):
            raise InputError(f"methods: got {', '.join(self.methods)}, expected none twice")
        if len(self.betas) < 2:
            raise InputError(f"betas: got {self.betas}; a comparison at equal KL needs at least 2 values")
        # The rest is what the quick start checks of the same settings.
        QuickstartConfig(seeds=self.seeds, betas=self.betas, learning_rates=self.learning_rates, workers=self.workers)
        self.setup.check()

    @property
    def jobs(self) -> list[Job]:
        """Every training run of the study, world by world."""
        return [
            Job(seed=seed, method=method, beta=beta, learning_rate=rate)
            for seed in self.seeds
            for method in self.methods
            for rate in self.learning_rates
            for beta in self.betas
        ]


def fast_world_config(output_dir: str) -> WorldStudyConfig:
    """Settings that run every part of the study within seconds; they resolve nothing.

    Args:
        output_dir: Folder for everything that is written.

    Returns:
        The settings: two seeds, two values of β and one learning rate, a quarter of the prompts.

    Example:
        >>> len(fast_world_config("out").jobs)
        24
    """
    return WorldStudyConfig(
        setup=WorldSetup(
            output_dir=output_dir,
            train_prompts=96,
            selection_prompts=24,
            heldout_prompts=30,
            reference=ReferenceTraining(steps=60),
            epochs=1,
        ),
        seeds=(1, 2),
        betas=(0.5, 2.0),
        learning_rates=(8e-4,),
    )
