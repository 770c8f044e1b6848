"""Write the recipes: complete files for `mallowspo train --config`, made of what they share and what they do not.

python recipes/make.py           # writes every file
python recipes/make.py --check   # exit code 1 where a file is not what would be written

Each number has a mark for its source; the header says what the marks stand for. The recipes of `stories-260k` and
`stories-3m` are written by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent

SOURCES: Mapping[str, str] = {
    "M": "MallowsPO, arXiv 2405.14953",
    "R": "the authors' own commands, github.com/hanyang1999/RainbowPO, commands_training_ultrafeedback_*.ipynb",
    "D": "DPO, arXiv 2305.18290, appendix B, and github.com/eric-mitchell/direct-preference-optimization, config.yaml",
    "U": "Tulu 3, arXiv 2411.15124, whose length-normalised DPO this is",
    "T": "TRL 1.16: the LoRA example in trl/scripts/dpo.py, else the default of the option",
    "Q": "QLoRA, arXiv 2305.14314: NF4 and double quantisation",
    "A": "the alignment handbook's recipe for SmolLM2-135M, recipes/smollm2/dpo/config_smol.yaml",
    "=": "follows from the others: the batch that they give, cut for this hardware",
    "?": "chosen here, since no source gives it",
}


class Line(NamedTuple):
    """A field of a recipe."""

    name: str
    value: str | float | bool
    source: str = ""  # marks of SOURCES, for a number
    remark: str = ""


@dataclass(frozen=True)
class Work:
    """What a run computes, and on what: from it the header reckons the hours."""

    pairs: int
    pairs_from: str
    tokens: int  # of a pair, as often as the run computes them
    tokens_from: str
    epochs: int
    parameters: float
    flop: int  # a parameter and token: forward 2, backward 4 (2 where the weights are frozen), forward again 2
    devices: int
    tflops: float  # a device, at best
    share: float  # of that, assumed to be reached
    reference: bool = True  # one pass of the reference over the pairs before

    @property
    def hours(self) -> float:
        """Hours of training."""
        flop = self.pairs * self.tokens * self.parameters * (self.flop * self.epochs + 2 * self.reference)
        return flop / (self.devices * self.tflops * 1e12 * self.share) / 3600

    @property
    def took(self) -> str:
        """The hours in words."""
        return f"{self.hours:.2g} hours" if self.hours >= 1 else f"{60 * self.hours:.0f} minutes"

    def __str__(self) -> str:
        passes = f"({self.epochs} x {self.flop}{' + 2 for the reference' if self.reference else ''})"
        return (
            f"about {self.took}: an estimate, not measured. {self.pairs:,} pairs ({self.pairs_from}) x "
            f"{self.tokens:,} tokens ({self.tokens_from}) x {self.parameters:.3g} parameters x {passes} operations, "
            f"at {self.share:.0%} (assumed) of {self.devices} x {self.tflops:g} TFLOP/s. Loading and saving come on "
            "top."
        )


@dataclass(frozen=True)
class Recipe:
    """One file."""

    path: str
    title: str
    hardware: str
    command: str  # what stands behind the recipe's path
    work: Work
    groups: tuple[tuple[Line, ...], ...]
    notes: tuple[str, ...] = ()

    def text(self) -> str:
        """The whole file."""
        run = f"mallowspo train --config recipes/{self.path} {self.command}".rstrip()
        marks = dict.fromkeys(mark for group in self.groups for line in group for mark in line.source)
        header = [
            *_wrapped(self.title),
            *_wrapped(f"Hardware: {self.hardware}"),
            f"# Run: {run}",
            *_wrapped(f"Time: {self.work}"),
            *(part for note in self.notes for part in _wrapped(note)),
            "# Where the numbers come from:",
            *(f"#   [{mark}] {SOURCES[mark]}" for mark in sorted(marks, key=list(SOURCES).index)),
        ]
        body = ["\n".join(map(_field, group)) for group in self.groups]
        return "\n".join(header) + "\n" + "\n\n".join(body) + "\n"


def _wrapped(text: str, width: int = 117) -> list[str]:
    import textwrap

    return [f"# {line}" for line in textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)]


def _field(line: Line) -> str:
    value: str
    if isinstance(line.value, bool):
        value = str(line.value).lower()
    else:
        value = _number(line.value) if isinstance(line.value, float) else str(line.value)
    if line.name == "save_strategy":
        value = f'"{value}"'  # no alone is a truth value
    marks = "".join(f"[{mark}]" for mark in line.source)
    comment = " ".join(part for part in (marks, line.remark) if part)
    return f"{line.name}: {value}" + (f" # {comment}" if comment else "")


def _number(value: float) -> str:
    """A number as YAML reads one: 1e-06 without a point would be text."""
    if value == 0 or 1e-3 <= value < 1e4:
        return repr(value)
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa)!r}e{int(exponent)}"


# An index makes this pass in any case.
_ONE_PASS = Line("precompute_ref_log_probs", True, remark="the reference is scored once and leaves the memory")

# --- Llama-3-8B-Instruct on UltraFeedback -------------------------------------------------------------------------

_LLAMA = "llama-3-8b-ultrafeedback"
_NAMES = {
    "dpo": "DPO",
    "dpo_norm": "DPO on mean log-probabilities",
    "ipo": "IPO, on sums over tokens as the paper has it",
    "simpo": "SimPO",
    "mallows_theta": "MallowsPO-θ",
    "mallows_phi": "MallowsPO-φ",
    "mallows_ipo": "MallowsPO-θ on IPO",
    "mallows_simpo": "MallowsPO-θ on SimPO",
    "mallows_norm": "MallowsPO-θ on mean log-probabilities",
    "rainbow": "RainbowPO",
}
_IPO = (Line("beta", 0.005, "M"), Line("length_normalized", False, remark="a target of 100 nats is one of a sum"))
_SIMPO = (
    Line("beta", 10.0, "M"),
    Line("margin", 0.0, "R", "in units of the gap; after the names of their runs, hadv_0"),
)
_NORM = (Line("beta", 10.0, "R"),)


class _Llama(NamedTuple):
    """What differs between the recipes beside the objective."""

    axes: tuple[Line, ...]
    max_length: int
    batch: tuple[int, int]  # pairs at a time, and how often
    learning_rate: Line
    warmup: Line
    notes: tuple[str, ...] = ()


def _llama() -> Iterable[Recipe]:
    steps, share = Line("warmup_steps", 150, "R"), Line("warmup_steps", 0.1, "R", "a tenth of the steps")
    slow, fast, theirs = (
        Line("learning_rate", rate, source) for rate, source in ((5e-7, "M"), (1e-6, "M"), (1e-6, "R"))
    )
    beta = (Line("beta", 0.01, "M"),)
    phi = (Line("beta", 0.01, "?", "as for MallowsPO-θ: the paper has no φ on Llama"),)
    rainbow = (
        Line("beta", 10.0, "R"),
        Line("reference_weight", 0.25, "R", "their mixing_alpha"),
        Line("margin", 0.1, "R", "their home_advantage"),
    )
    simpo = _Llama(
        _SIMPO,
        2048,
        (1, 32),
        fast,
        share,
        (
            "The paper names beta and rate; the authors' files hold SimPO with margins 0 and 0.3. SimPO's own file "
            "has a margin of 0.3 and one epoch: --margin 0.3 --num_train_epochs 1.",
        ),
    )
    settings = {
        "dpo": _Llama(beta, 1024, (2, 16), slow, steps),
        "mallows_theta": _Llama(beta, 1024, (2, 16), slow, steps),
        "mallows_phi": _Llama(phi, 1024, (2, 16), slow._replace(source="?"), steps),
        "ipo": _Llama(_IPO, 2048, (1, 32), fast, steps),
        "mallows_ipo": _Llama(_IPO, 2048, (1, 32), fast, steps),
        "simpo": simpo,
        "mallows_simpo": simpo,
        "dpo_norm": _Llama(_NORM, 2048, (1, 32), theirs, steps),
        "mallows_norm": _Llama(_NORM, 2048, (1, 32), theirs, steps),
        "rainbow": _Llama(rainbow, 2048, (1, 32), theirs, share),
    }
    epochs = (
        "The paper's text gives no number of epochs. The authors' commands leave it at transformers' 3 or give it; of "
        "RainbowPO's run the checkpoint 711 is 3 epochs of 252 pairs. Their later commands have --num_train_epochs 1.",
        "Attention is torch's own; the authors took flash_attention_2, which differs in rounding.",
    )
    for name, given in settings.items():
        yield Recipe(
            path=f"{_LLAMA}/{name}.yaml",
            title=f"{_NAMES[name]}: Llama-3-8B-Instruct on UltraFeedback, the best against the worst of 5 answers by "
            "ArmoRM's score.",
            hardware="8 H100 of 80 GB, DeepSpeed ZeRO-3 (16 GB each of weights, gradients and optimizer state, "
            "reckoned). It has not been run here.",
            command="--accelerate_config zero3 --num_processes 8",
            work=Work(
                pairs=59_900,
                pairs_from="the data set's page",
                tokens=1_400,
                tokens_from="assumed, with the prompt twice, as in padded rows (packed ones have it once)",
                epochs=3,
                parameters=8.03e9,
                flop=8,
                devices=8,
                tflops=989,
                share=0.35,
                reference=name != "simpo",
            ),
            notes=(*given.notes, *epochs),
            groups=(
                (
                    Line("model_name_or_path", "meta-llama/Meta-Llama-3-8B-Instruct"),
                    Line("dataset_name", "princeton-nlp/llama3-ultrafeedback-armorm"),
                    Line("output_dir", f"output/{_LLAMA}/{name}"),
                ),
                (
                    Line("objective", name),
                    *given.axes,
                    Line("invalid_rows", "drop", remark="where all answers are the same text; counted and named"),
                ),
                (
                    Line("max_length", given.max_length, "R"),
                    Line("per_device_train_batch_size", given.batch[0], "R"),
                    Line("gradient_accumulation_steps", given.batch[1], "R", "256 pairs a step on 8 GPUs"),
                    Line("optim", "adamw_torch", "R"),
                    given.learning_rate,
                    Line("lr_scheduler_type", "cosine", "R"),
                    given.warmup,
                    Line("num_train_epochs", 3, "R"),
                    *([_ONE_PASS] if name in ("dpo", "dpo_norm", "ipo") else []),
                    Line("logging_steps", 10, "?"),
                    Line("save_strategy", "no", remark="the model is saved at the end"),
                    Line("seed", 42, "R"),
                ),
                (Line("bf16", True), Line("gradient_checkpointing", True)),
            ),
        )


# --- Qwen3 on UltraFeedback, one consumer GPU ---------------------------------------------------------------------


def _qwen() -> Iterable[Recipe]:
    for size, parameters, lora_memory, qlora_memory in (("0.6B", 6.0e8, 1.2, 0.6), ("4B", 4.0e9, 8.0, 2.9)):
        for kind in ("lora", "qlora"):
            quantised = kind == "qlora"
            folder = f"qwen3-{size.lower()}-ultrafeedback"
            memory = f"{qlora_memory if quantised else lora_memory:g} GB of weights"
            yield Recipe(
                path=f"{folder}/{kind}.yaml",
                title=f"MallowsPO-θ: Qwen3-{size} on UltraFeedback with {'QLoRA' if quantised else 'LoRA'}.",
                hardware=f"one RTX 4090 of 24 GB ({memory}, reckoned). It has not been run here"
                + (
                    ": 4-bit weights need bitsandbytes (pip install 'mallowspo[quantization]') and a GPU."
                    if quantised
                    else "."
                ),
                command="",
                work=Work(
                    pairs=16_000,
                    pairs_from="1,000 steps of 16",
                    tokens=800,
                    tokens_from="assumed; the prompt counts once in packed rows",
                    epochs=1,
                    parameters=parameters,
                    flop=6,
                    devices=1,
                    tflops=165,
                    share=0.3,
                ),
                notes=(
                    "The same on plain DPO: --objective dpo. On mean log-probabilities: --objective mallows_norm "
                    "--beta 10 (RainbowPO's beta). Give --output_dir with either.",
                ),
                groups=(
                    (
                        Line("model_name_or_path", f"Qwen/Qwen3-{size}"),
                        Line("dataset_name", "trl-lib/ultrafeedback_binarized"),
                        Line("output_dir", f"output/{folder}/{kind}"),
                    ),
                    (
                        Line("objective", "mallows_theta"),
                        Line("beta", 0.1, "T"),
                        Line("invalid_rows", "drop"),
                    ),
                    (
                        Line("use_peft", True),
                        Line("lora_r", 32, "T"),
                        Line("lora_alpha", 16, "T"),
                        Line("lora_dropout", 0.05, "T"),
                        Line("lora_target_modules", "all-linear", remark="as QLoRA recommends"),
                        Line("dtype", "bfloat16", remark="of the frozen weights; the adapter stays in float32"),
                        *(
                            (
                                Line("load_in_4bit", True),
                                Line("bnb_4bit_quant_type", "nf4", "Q"),
                                Line("use_bnb_nested_quant", True, "Q"),
                            )
                            if quantised
                            else ()
                        ),
                    ),
                    (
                        Line("max_length", 1024, "T"),
                        Line("per_device_train_batch_size", 2, "T"),
                        Line("gradient_accumulation_steps", 8, "T"),
                        Line("learning_rate", 5e-6, "T"),
                        Line("lr_scheduler_type", "linear", "T"),
                        Line("max_steps", 1000, "T"),
                        Line("logging_steps", 10, "T"),
                        Line("save_strategy", "no", remark="the adapter is saved at the end"),
                        Line("seed", 42, "T"),
                    ),
                    (Line("bf16", True), Line("gradient_checkpointing", True)),
                ),
            )


# --- Pythia-2.8B on HH, GPT-2-large on IMDB -----------------------------------------------------------------------


def _paper_rmsprop(batch: Line, accumulated: Line, max_length: Line) -> tuple[tuple[Line, ...], tuple[Line, ...]]:
    training = (
        max_length,
        batch,
        accumulated,
        Line("optim", "rmsprop", "M"),
        Line("learning_rate", 1e-6, "M"),
        Line("lr_scheduler_type", "constant_with_warmup", "D"),
        Line("warmup_steps", 150, "M"),
        Line("max_grad_norm", 10.0, "D"),
        Line("num_train_epochs", 1, "D"),
        _ONE_PASS,
        Line("logging_steps", 10, "?"),
        Line("save_strategy", "no", remark="the model is saved at the end"),
        Line("seed", 0, "D"),
    )
    return training, (Line("bf16", True), Line("gradient_checkpointing", True))


def _pythia() -> Iterable[Recipe]:
    folder = "pythia-2.8b-hh"
    for name in ("dpo", "mallows_theta", "mallows_phi", "dpo_norm", "mallows_norm"):
        normed = name.endswith("norm")
        beta = (
            Line("beta", 5.0, "U", "a mean over tokens is some hundred times smaller than a sum")
            if normed
            else (Line("beta", 0.1, "M", "and 0.5"))
        )
        yield Recipe(
            path=f"{folder}/{name}.yaml",
            title=f"{_NAMES[name]}: Pythia-2.8B on the single-turn dialogues of Anthropic's HH data.",
            hardware="one A100 of 80 GB (33 GB of weights, gradients and optimizer state in float32, reckoned). It "
            "has not been run here.",
            command="",
            work=Work(
                pairs=50_000,
                pairs_from="assumed; prepare.py counts them",
                tokens=250,
                tokens_from="assumed",
                epochs=1,
                parameters=2.78e9,
                flop=8,
                devices=1,
                tflops=312,
                share=0.35,
            ),
            notes=(
                "What comes before it (the rows, the SFT model) and after it (comparisons) is in docs/recipes.md.",
                "The paper has no length-normalised form on HH." if normed else "The paper's second beta: --beta 0.5.",
            ),
            groups=(
                (
                    Line("model_name_or_path", f"output/{folder}/sft"),
                    Line("dataset_name", "output/hh/train.jsonl"),
                    Line("output_dir", f"output/{folder}/{name}"),
                ),
                (
                    Line("objective", name),
                    beta,
                    Line("invalid_rows", "drop", remark="HH holds rows whose two answers are the same text"),
                ),
                *_paper_rmsprop(
                    Line("per_device_train_batch_size", 8, "="),
                    Line("gradient_accumulation_steps", 4, "=", "32 pairs a step [M]"),
                    Line("max_length", 512, "D"),
                ),
            ),
        )


def _imdb() -> Iterable[Recipe]:
    folder = "gpt2-large-imdb"
    for name in ("dpo", "mallows_theta", "mallows_phi"):
        yield Recipe(
            path=f"{folder}/{name}.yaml",
            title=f"{_NAMES[name]}: GPT-2-large on film reviews, pairs of its own answers by a classifier's verdict.",
            hardware="one RTX 4090 of 24 GB (9 GB of weights, gradients and optimizer state in float32, reckoned). It "
            "has not been run here.",
            command="",
            work=Work(
                pairs=24_000,
                pairs_from="all pairs of 4 answers to 4,000 prompts",
                tokens=136,
                tokens_from="at most: 8 of the prompt, twice 64",
                epochs=1,
                parameters=7.74e8,
                flop=8,
                devices=1,
                tflops=165,
                share=0.3,
            ),
            notes=(
                "What comes before it (the SFT model, the pairs) and after it is in docs/recipes.md. The DPO paper's "
                "grid of beta on IMDB is 0.05, 0.1, 1 and 5.",
            ),
            groups=(
                (
                    Line("model_name_or_path", f"output/{folder}/sft"),
                    Line("dataset_name", "output/imdb/train.jsonl"),
                    Line("output_dir", f"output/{folder}/{name}"),
                ),
                (Line("objective", name), Line("beta", 0.1, "D"), Line("invalid_rows", "drop")),
                *_paper_rmsprop(
                    Line("per_device_train_batch_size", 64, "M"),
                    Line("gradient_accumulation_steps", 1, "="),
                    Line("max_length", 128, "?", "no pair is longer"),
                ),
            ),
        )


# --- SmolLM2-135M-Instruct on a processor -------------------------------------------------------------------------


def _smollm() -> Iterable[Recipe]:
    folder = "smollm2-135m-cpu"
    yield Recipe(
        path=f"{folder}/mallows_theta.yaml",
        title="MallowsPO-θ: SmolLM2-135M-Instruct on a thousand pairs of UltraFeedback, on a processor.",
        hardware="2 cores (2.2 GB of weights, gradients and optimizer state in float32, reckoned).",
        command="",
        work=Work(
            pairs=1_000,
            pairs_from="the slice below",
            tokens=600,
            tokens_from="assumed; the prompt counts once in packed rows",
            epochs=1,
            parameters=1.35e8,
            flop=6,
            devices=2,
            tflops=0.1,
            share=0.5,
        ),
        notes=(
            "The same on plain DPO: --objective dpo --output_dir output/smollm2-135m-cpu/dpo.",
            "[A] has all 61,000 pairs, two epochs and a batch of 128 on 8 GPUs.",
        ),
        groups=(
            (
                Line("model_name_or_path", "HuggingFaceTB/SmolLM2-135M-Instruct"),
                Line("dataset_name", "HuggingFaceH4/ultrafeedback_binarized"),
                Line("dataset_train_split", "train_prefs[:1000]", "?"),
                Line("output_dir", f"output/{folder}/mallows_theta"),
            ),
            (
                Line("objective", "mallows_theta"),
                Line("beta", 0.5, "A"),
                Line("invalid_rows", "drop"),
            ),
            (
                Line("max_length", 512, "?", "[A] has 1024"),
                Line("per_device_train_batch_size", 16, "=", "the 2 x 8 of one of its GPUs"),
                Line("optim", "adamw_torch", "A"),
                Line("learning_rate", 1e-6, "A"),
                Line("lr_scheduler_type", "cosine", "A"),
                Line("warmup_steps", 0.1, "A", "a tenth of the steps"),
                Line("num_train_epochs", 1, "?"),
                Line("logging_steps", 1, "?"),
                Line("save_strategy", "no", remark="the model is saved at the end"),
                Line("seed", 42, "A"),
            ),
            (Line("use_cpu", True), Line("bf16", False), Line("gradient_checkpointing", False)),
        ),
    )


def recipes() -> list[Recipe]:
    """All that are written by this script."""
    return [*_llama(), *_qwen(), *_pythia(), *_imdb(), *_smollm()]


def main(arguments: list[str]) -> int:
    """Write the files, or say which differ."""
    differing = 0
    for recipe in recipes():
        path, text = FOLDER / recipe.path, recipe.text()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        differing += 1
        if "--check" in arguments:
            sys.stderr.write(f"{path}: not what `python recipes/make.py` writes\n")
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return int("--check" in arguments and differing > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
