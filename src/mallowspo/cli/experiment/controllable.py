"""`mallowspo experiment controllable`: the paper's sentiment study on a model, texts and a reward of one's choice."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mallowspo.cli.experiment.shared import (
    OUTPUT_DIR,
    StudyOptions,
    chosen_preset,
    read_names,
    read_numbers,
    run_and_tell,
)
from mallowspo.cli.options import option

__all__ = ["ControllableOptions", "controllable"]


@dataclass(frozen=True, kw_only=True)
class ControllableOptions(StudyOptions):
    """Draw reward against KL for DPO, IPO, MallowsPO-theta and MallowsPO-phi.

    What was trained and measured is kept in the folder output_dir; the same command goes on where an interrupted one
    stopped.
    """

    model_name_or_path: str = option(
        "The policy's start and its reference: a folder or a hub name.", group="Model, texts, reward"
    )
    dataset_name: str = option(
        "Texts whose first words are the prompts: a .txt (one a line), a data file, a hub name."
    )
    output_dir: Path = option(OUTPUT_DIR, Path("output/controllable"))
    dataset_split: str = option("The split of a data set.", "train")
    text_column: str = option("The column of a data set that holds the texts.", "text")
    opening: str = option("Use only texts that begin with this regular expression.", "")
    reward_model: str = option(
        "vader (needs vaderSentiment), afinn (needs afinn), or a sequence classifier: a folder or a hub name.",
        "vader",
    )
    reward_label: str | None = option(
        "The classifier's label whose probability is the reward.", None, shown="positive"
    )

    min_prompt_tokens: int = option("Shortest prompt.", 4, group="Prompts, responses, pairs")
    prompt_tokens: int = option("Longest prompt.", 16)
    response_tokens: int = option("Where a response is cut.", 32)
    train_prompts: int | None = option("Prompts that pairs are made for.", None, shown="all that are not held out")
    eval_prompts: int = option("Held-out prompts.", 64)
    samples_per_prompt: int = option("Responses per training prompt; every two are compared.", 3)
    eval_samples: int = option("Responses per held-out prompt.", 4)
    optimum_samples: int = option("Responses per held-out prompt from which the best possible is estimated.", 128)
    preferences: str = option("sign: the higher reward is chosen. bradley_terry: the chosen one is drawn.", "sign")
    preference_scale: float = option("With bradley_terry: logits per unit of reward.", 4.0)
    prompt_seed: int = option("Decides which prompts are held out.", 0, low=0)

    seeds: int = option("Sets of pairs; more make the intervals narrower.", 5, low=1, group="Training")
    betas: str = option("Values of beta, with commas between them.", "0.02,0.07,0.2,0.6,2,8", commas=True)
    ipo_betas: str = option(
        "Those of ipo and mallows_norm, whose scores are means over tokens.", "0.1,0.5,1.5,4,10,30", commas=True
    )
    methods: str = option(
        "Comma-separated; dpo must be among them. mallows_theta_50 (the root of the weights) and mallows_norm too.",
        "dpo,ipo,mallows_theta,mallows_phi",
        commas=True,
    )
    learning_rates: str = option(
        "With several, one is chosen on DPO alone, under a seed of its own.", "1e-4", commas=True
    )
    epochs: int = option("Passes over the pairs.", 1)
    batch_size: int = option("Pairs in a step.", 8)
    generation_batch_size: int = option("Responses drawn or scored at a time.", 256)
    dtype: str = option("Of the weights: float32, bfloat16, or auto.", "float32")
    bf16: bool = option("Train under bfloat16 autocast; for GPUs.", False)
    use_cpu: bool = option("Leave an accelerator alone.", False)
    trust_remote_code: bool = option("Run code that comes with a model.", False)


def controllable(options: ControllableOptions) -> None:
    """Run the study; the options of its design carry the names of its fields."""
    from mallowspo.cli.preflight import check_precision
    from mallowspo.studies.controllable import study

    preset = chosen_preset(options, ("default", "fast"))
    check_precision(bf16=options.bf16, fp16=False, use_cpu=options.use_cpu)
    design = {item.name: getattr(options, item.name) for item in fields(study.ControllableDesign)}
    lists: dict[str, Any] = {
        name: read_numbers(name, getattr(options, name)) for name in ("betas", "ipo_betas", "learning_rates")
    }
    settings = study.ControllableSettings(
        design=study.ControllableDesign(**design),
        output_dir=str(options.output_dir),
        seeds=tuple(range(options.seeds)),
        methods=read_names(options.methods),
        workers=options.workers,
        **lists,
    )
    run_and_tell("experiment controllable", study.CONTROLLABLE, study.fast(settings) if preset == "fast" else settings)
