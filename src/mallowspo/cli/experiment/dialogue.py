"""`mallowspo experiment dialogue`: DPO and MallowsPO on real dialogues, in distribution and out of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from mallowspo.cli.experiment.shared import (
    OUTPUT_DIR,
    StudyOptions,
    chosen_preset,
    read_names,
    read_numbers,
    run_and_tell,
)
from mallowspo.cli.options import option

__all__ = ["DialogueOptions", "dialogue"]

_DATA = "a .jsonl, .json, .csv or .parquet file, a folder, or a hub name"


@dataclass(frozen=True, kw_only=True)
class DialogueOptions(StudyOptions):
    """Train DPO and MallowsPO on real dialogues; accuracy, calibration and win rates, in and out of distribution."""

    output_dir: Path = option(OUTPUT_DIR, Path("output/dialogue"), group="Model and data")
    model_name_or_path: str = option("Base model, a folder or a hub name.", "../shared/models/stories-260k")
    train_data: str = option(
        f"Raw text prompt, chosen, rejected, or HH's two texts: {_DATA}.", "../shared/data/hh/helpful_train.jsonl.gz"
    )
    train_split: str = option("Its split.", "train")
    test_data: str = option("The same, in distribution.", "../shared/data/hh/helpful_test.jsonl.gz")
    test_split: str = option("Its split.", "train")
    ood_data: str = option("The same, out of distribution.", "../shared/data/hh/harmless_train.jsonl.gz")
    ood_split: str = option("Its split.", "train")
    votes_data: str = option(
        "People's votes on pairs, as `mallowspo dispersion --votes` reads; '' for none.",
        "../shared/data/votes/pandalm.json",
    )
    single_turn: bool = option("Keep dialogues with one human turn only.", False)
    prompt_format: str = option(
        "text: as HH writes it; chat: its turns as the model's chat template renders them.", "text"
    )
    max_length: int = option("Only rows that fit whole are used.", 256)
    test_pairs: int = option("Rows of each test set at most.", 160)

    sft_steps: int = option("SFT steps on chosen responses; 0 for none.", 50, group="Training")
    sft_learning_rate: float = option("Of the SFT.", 1e-3)
    train_pairs: int = option("Pairs that each seed draws.", 160)
    epochs: int = option("Passes over them.", 1)
    batch_size: int = option("Pairs in a step.", 16)
    learning_rate: float = option("Of the preference training.", 1e-4)
    methods: str = option(
        "Comma-separated; dpo must be among them. mallows_theta_50 (the root of the weights) too.",
        "dpo,mallows_theta,mallows_phi",
        commas=True,
    )
    betas: str = option("Comma-separated; two or more to compare at equal KL.", "0.1,0.5", commas=True)
    seeds: int = option("Draws of pairs; more make the intervals narrower.", 3, low=1)
    data_seed: int = option("Of the split, SFT, judge and answers.", 0, low=0)
    use_cpu: bool = option("Leave an accelerator alone.", False)
    trust_remote_code: bool = option("Run code that comes with a model.", False)

    judge: str = option(
        "heldout (a reward model trained on a part of the data that no policy saw), http://host:port/v1#name, "
        "reward:MODEL, or module:function of Python.",
        "heldout",
        group="Answers and their judge",
    )
    judge_base: str = option("What the held-out judge starts from; '' for the base model.", "")
    judge_steps: int = option("Its steps.", 40)
    judge_learning_rate: float = option("Its learning rate.", 1e-3)
    judge_api_key_env: str | None = option("Environment variable with the key for a judge behind an address.", None)
    judged_prompts: int = option("Prompts whose answers are judged.", 48)
    judged_beta: float | None = option("Whose policies are judged; the first beta.", None)
    temperatures: str = option("Of the answers, comma-separated.", "0.25,0.7,1", commas=True)
    max_new_tokens: int = option("Tokens after which an answer is cut.", 64)
    kl_prompts: int = option("Prompts for the KL, one sampled response each.", 48)
    sampled_at_a_time: int = option("Answers in a batch of sampling.", 48)


def dialogue(options: DialogueOptions) -> None:
    """Run the study; an option has the name of the setting that it gives."""
    from mallowspo.studies.dialogue.design import DialogueSettings, DialogueSetup, fast
    from mallowspo.studies.dialogue.study import DIALOGUE

    preset = chosen_preset(options, DIALOGUE.presets)
    setup = DialogueSetup(**{item.name: getattr(options, item.name) for item in fields(DialogueSetup)})
    given = {item.name: getattr(options, item.name) for item in fields(DialogueSettings) if item.name != "setup"}
    given |= {
        "output_dir": str(options.output_dir),
        "methods": read_names(options.methods),
        "seeds": tuple(range(options.seeds)),
    }
    given |= {name: read_numbers(name, getattr(options, name)) for name in ("betas", "temperatures")}
    settings = DialogueSettings(setup=setup, **given)
    run_and_tell("experiment dialogue", DIALOGUE, fast(settings) if preset == "fast" else settings)
