"""`mallowspo experiment dialogue`: DPO and MallowsPO on real dialogues, in distribution and out of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mallowspo.cli.experiment.shared import read_numbers, run_and_tell

__all__ = ["dialogue"]


def _option(name: str, text: str, **settings: Any) -> Any:
    return typer.Option(f"--{name}", help=text, **settings)


_DATA = "a .jsonl, .json, .csv or .parquet file, a folder, or a hub name"


_OutputDir = Annotated[Path, _option("output_dir", "Where everything goes; the same folder goes on.")]
_ModelNameOrPath = Annotated[str, _option("model_name_or_path", "Base model, a folder or a hub name.")]
_TrainData = Annotated[str, _option("train_data", f"Raw text prompt, chosen, rejected, or HH's two texts: {_DATA}.")]
_TrainSplit = Annotated[str, _option("train_split", "Its split.")]
_TestData = Annotated[str, _option("test_data", "The same, in distribution.")]
_TestSplit = Annotated[str, _option("test_split", "Its split.")]
_OodData = Annotated[str, _option("ood_data", "The same, out of distribution.")]
_OodSplit = Annotated[str, _option("ood_split", "Its split.")]
_VotesData = Annotated[
    str, _option("votes_data", "People's votes on pairs, as `mallowspo dispersion --votes` reads; '' for none.")
]
_SingleTurn = Annotated[bool, _option("single_turn", "Keep dialogues with one human turn only.")]
_MaxLength = Annotated[int, _option("max_length", "Only rows that fit whole are used.")]
_TestPairs = Annotated[int, _option("test_pairs", "Rows of each test set at most.")]
_SftSteps = Annotated[int, _option("sft_steps", "SFT steps on chosen responses; 0 for none.")]
_SftLearningRate = Annotated[float, _option("sft_learning_rate", "Of the SFT.")]
_TrainPairs = Annotated[int, _option("train_pairs", "Pairs that each seed draws.")]
_Epochs = Annotated[int, _option("epochs", "Passes over them.")]
_BatchSize = Annotated[int, _option("batch_size", "Pairs in a step.")]
_LearningRate = Annotated[float, _option("learning_rate", "Of the preference training.")]
_Methods = Annotated[str, _option("methods", "Comma-separated; dpo must be among them.")]
_Betas = Annotated[str, _option("betas", "Comma-separated; two or more to compare at equal KL.")]
_Seeds = Annotated[int, _option("seeds", "Draws of pairs; more make the intervals narrower.", min=1)]
_DataSeed = Annotated[int, _option("data_seed", "Of the split, SFT, judge and answers.")]
_Judge = Annotated[
    str,
    _option(
        "judge",
        "heldout (a reward model trained on a part of the data that no policy saw), http://host:port/v1#name, "
        "reward:MODEL, or module:function of Python.",
    ),
]
_JudgeBase = Annotated[str, _option("judge_base", "What the held-out judge starts from; '' for the base model.")]
_JudgeSteps = Annotated[int, _option("judge_steps", "Its steps.")]
_JudgeLearningRate = Annotated[float, _option("judge_learning_rate", "Its learning rate.")]
_JudgeApiKeyEnv = Annotated[
    str | None, _option("judge_api_key_env", "Environment variable with the key for a judge behind an address.")
]
_JudgedPrompts = Annotated[int, _option("judged_prompts", "Prompts whose answers are judged.")]
_JudgedBeta = Annotated[float | None, _option("judged_beta", "Whose policies are judged; the first beta.")]
_Temperatures = Annotated[str, _option("temperatures", "Of the answers, comma-separated.")]
_MaxNewTokens = Annotated[int, _option("max_new_tokens", "Tokens after which an answer is cut.")]
_KlPrompts = Annotated[int, _option("kl_prompts", "Prompts for the KL, one sampled response each.")]
_SampledAtATime = Annotated[int, _option("sampled_at_a_time", "Answers in a batch of sampling.")]
_UseCpu = Annotated[bool, _option("use_cpu", "Leave an accelerator alone.")]
_Trust = Annotated[bool, _option("trust_remote_code", "Run code that comes with a model.")]
_Workers = Annotated[int, _option("workers", "Processes that train side by side; changes no result.", min=0)]
_Fast = Annotated[bool, _option("fast", "A run of seconds that shows every part and resolves nothing.")]


def dialogue(
    context: typer.Context,
    *,
    output_dir: _OutputDir = Path("output/dialogue"),
    model_name_or_path: _ModelNameOrPath = "../shared/models/stories-260k",
    train_data: _TrainData = "../shared/data/hh/helpful_train.jsonl.gz",
    train_split: _TrainSplit = "train",
    test_data: _TestData = "../shared/data/hh/helpful_test.jsonl.gz",
    test_split: _TestSplit = "train",
    ood_data: _OodData = "../shared/data/hh/harmless_train.jsonl.gz",
    ood_split: _OodSplit = "train",
    votes_data: _VotesData = "../shared/data/votes/pandalm.json",
    single_turn: _SingleTurn = False,
    max_length: _MaxLength = 256,
    test_pairs: _TestPairs = 160,
    sft_steps: _SftSteps = 50,
    sft_learning_rate: _SftLearningRate = 1e-3,
    train_pairs: _TrainPairs = 160,
    epochs: _Epochs = 1,
    batch_size: _BatchSize = 16,
    learning_rate: _LearningRate = 1e-4,
    methods: _Methods = "dpo,mallows_theta,mallows_phi",
    betas: _Betas = "0.1,0.5",
    seeds: _Seeds = 3,
    data_seed: _DataSeed = 0,
    judge: _Judge = "heldout",
    judge_base: _JudgeBase = "",
    judge_steps: _JudgeSteps = 40,
    judge_learning_rate: _JudgeLearningRate = 1e-3,
    judge_api_key_env: _JudgeApiKeyEnv = None,
    judged_prompts: _JudgedPrompts = 48,
    judged_beta: _JudgedBeta = None,
    temperatures: _Temperatures = "0.25,0.7,1",
    max_new_tokens: _MaxNewTokens = 64,
    kl_prompts: _KlPrompts = 48,
    sampled_at_a_time: _SampledAtATime = 48,
    use_cpu: _UseCpu = False,
    trust_remote_code: _Trust = False,
    workers: _Workers = 0,
    fast: _Fast = False,
) -> None:
    """Train DPO and MallowsPO on real dialogues; accuracy, calibration and win rates, in and out of distribution."""
    from mallowspo.studies.dialogue.study import DIALOGUE

    settings = _settings(dict(context.params))
    run_and_tell("experiment dialogue", DIALOGUE, settings)


def _settings(given: dict[str, Any]) -> Any:
    """Turn the options into the study's settings; an option has the name of the field that it sets."""
    from dataclasses import fields

    from mallowspo.studies.dialogue.design import DialogueSettings, DialogueSetup, fast

    in_small = given.pop("fast")
    given["output_dir"] = str(given["output_dir"])
    given["methods"] = tuple(part.strip() for part in given["methods"].split(","))
    given["seeds"] = tuple(range(given["seeds"]))
    for name in ("betas", "temperatures"):
        given[name] = read_numbers(name, given[name])
    setup = {item.name: given.pop(item.name) for item in fields(DialogueSetup)}
    settings = DialogueSettings(setup=DialogueSetup(**setup), **given)
    return fast(settings) if in_small else settings
