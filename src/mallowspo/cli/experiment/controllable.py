"""`mallowspo experiment controllable`: the paper's sentiment study on a model, texts and a reward of one's choice."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mallowspo.cli.experiment.shared import read_numbers, run_and_tell

__all__ = ["controllable"]


def _option(name: str, text: str, **settings: Any) -> Any:
    return typer.Option(f"--{name}", help=text, **settings)


_Model = Annotated[str, _option("model_name_or_path", "The policy's start and its reference: a folder or a hub name.")]
_Dataset = Annotated[
    str,
    _option("dataset_name", "Texts whose first words are the prompts: a .txt (one a line), a data file, a hub name."),
]
_OutputDir = Annotated[Path, _option("output_dir", "Where everything goes; the same folder goes on.")]
_Split = Annotated[str, _option("dataset_split", "The split of a data set.")]
_TextColumn = Annotated[str, _option("text_column", "The column of a data set that holds the texts.")]
_Opening = Annotated[str, _option("opening", "Use only texts that begin with this regular expression.")]
_Reward = Annotated[
    str, _option("reward_model", "vader (needs vaderSentiment), or a sequence classifier: a folder or a hub name.")
]
_RewardLabel = Annotated[
    str | None, _option("reward_label", "The classifier's label whose probability is the reward [default: positive].")
]
_MinPrompt = Annotated[int, _option("min_prompt_tokens", "Shortest prompt.")]
_Prompt = Annotated[int, _option("prompt_tokens", "Longest prompt.")]
_Response = Annotated[int, _option("response_tokens", "Where a response is cut.")]
_TrainPrompts = Annotated[
    int | None, _option("train_prompts", "Prompts that pairs are made for [default: all that are not held out].")
]
_EvalPrompts = Annotated[int, _option("eval_prompts", "Held-out prompts.")]
_Samples = Annotated[int, _option("samples_per_prompt", "Responses per training prompt; every two are compared.")]
_EvalSamples = Annotated[int, _option("eval_samples", "Responses per held-out prompt.")]
_Preferences = Annotated[
    str, _option("preferences", "sign: the higher reward is chosen. bradley_terry: the chosen one is drawn.")
]
_Scale = Annotated[float, _option("preference_scale", "With bradley_terry: logits per unit of reward.")]
_Seeds = Annotated[int, _option("seeds", "Sets of pairs; more make the intervals narrower.", min=1)]
_Betas = Annotated[str, _option("betas", "Values of beta, with commas between them.")]
_IpoBetas = Annotated[str, _option("ipo_betas", "Those of IPO, whose beta is another quantity.")]
_Rates = Annotated[
    str, _option("learning_rates", "With several, one is chosen on DPO alone, under a seed of its own.")
]
_Epochs = Annotated[int, _option("epochs", "Passes over the pairs.")]
_BatchSize = Annotated[int, _option("batch_size", "Pairs in a step.")]
_GenerationBatch = Annotated[int, _option("generation_batch_size", "Responses drawn or scored at a time.")]
_Optimum = Annotated[
    int, _option("optimum_samples", "Responses per held-out prompt from which the best possible is estimated.")
]
_PromptSeed = Annotated[int, _option("prompt_seed", "Decides which prompts are held out.")]
_Dtype = Annotated[str, _option("dtype", "Of the weights: float32, bfloat16, or auto.")]
_Bf16 = Annotated[bool, _option("bf16", "Train under bfloat16 autocast; for GPUs.")]
_UseCpu = Annotated[bool, _option("use_cpu", "Leave an accelerator alone.")]
_Trust = Annotated[bool, _option("trust_remote_code", "Run code that comes with a model.")]
_Workers = Annotated[
    int, _option("workers", "Processes that train side by side; 0: this one. Changes no result.", min=0)
]
_Fast = Annotated[bool, _option("fast", "A run of seconds that shows every part and resolves nothing.")]


def controllable(
    context: typer.Context,
    *,
    model_name_or_path: _Model,
    dataset_name: _Dataset,
    output_dir: _OutputDir = Path("output/controllable"),
    dataset_split: _Split = "train",
    text_column: _TextColumn = "text",
    opening: _Opening = "",
    reward_model: _Reward = "vader",
    reward_label: _RewardLabel = None,
    min_prompt_tokens: _MinPrompt = 4,
    prompt_tokens: _Prompt = 16,
    response_tokens: _Response = 32,
    train_prompts: _TrainPrompts = None,
    eval_prompts: _EvalPrompts = 64,
    samples_per_prompt: _Samples = 3,
    eval_samples: _EvalSamples = 4,
    preferences: _Preferences = "sign",
    preference_scale: _Scale = 4.0,
    seeds: _Seeds = 5,
    betas: _Betas = "0.02,0.07,0.2,0.6,2,8",
    ipo_betas: _IpoBetas = "0.1,0.5,1.5,4,10,30",
    learning_rates: _Rates = "1e-4",
    epochs: _Epochs = 1,
    batch_size: _BatchSize = 8,
    generation_batch_size: _GenerationBatch = 256,
    optimum_samples: _Optimum = 128,
    prompt_seed: _PromptSeed = 0,
    dtype: _Dtype = "float32",
    bf16: _Bf16 = False,
    use_cpu: _UseCpu = False,
    trust_remote_code: _Trust = False,
    workers: _Workers = 0,
    fast: _Fast = False,
) -> None:
    """Draw reward against KL for DPO, IPO, MallowsPO-theta and MallowsPO-phi.

    What was trained and measured is kept in OUTPUT_DIR; the same command goes on where an interrupted one stopped.
    """
    from mallowspo.studies.controllable.study import CONTROLLABLE

    settings = _settings(dict(context.params))
    run_and_tell("experiment controllable", CONTROLLABLE, settings)


def _settings(given: dict[str, Any]) -> Any:
    """The study's settings from the command's options; those of its design carry the same names."""
    from mallowspo.cli.preflight import check_precision
    from mallowspo.studies.controllable import study

    check_precision(bf16=given["bf16"], fp16=False, use_cpu=given["use_cpu"])
    fast = given.pop("fast")
    own: dict[str, Any] = {
        "output_dir": str(given.pop("output_dir")),
        "seeds": tuple(range(given.pop("seeds"))),
        "workers": given.pop("workers"),
    }
    lists: dict[str, Any] = {
        name: read_numbers(name, given.pop(name)) for name in ("betas", "ipo_betas", "learning_rates")
    }
    settings = study.ControllableSettings(design=study.ControllableDesign(**given), **own, **lists)
    return study.fast(settings) if fast else settings
