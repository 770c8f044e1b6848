"""`make realrun`: a real chat model and real people's choices through every command.

python recipes/smollm2/realrun.py [--data FOLDER_OR_HUB_NAME] [--model FOLDER] [--output_dir output/realrun]

It gets SmolLM2-135M-Instruct, takes dialogues of HH helpful, and runs `mallowspo check`, `reference`, `dispersion`,
`train` (LoRA, DPO and MallowsPO-θ) and `evaluate` as a user would, each as a command of its own. What is finished is
kept in `jobs.jsonl` and not run again; at the end there is one page, `report.html`, that says what was found.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE))

from judge import PROMPTS  # noqa: E402
from prepare import DISK, prepare  # noqa: E402

from mallowspo.errors import InputError  # noqa: E402
from mallowspo.evaluation.json_log import key_of  # noqa: E402
from mallowspo.files import write_lines  # noqa: E402
from mallowspo.outputs import writable_folder  # noqa: E402
from mallowspo.reports.blocks import (  # noqa: E402
    Callout,
    CodeBlock,
    Example,
    Examples,
    Meta,
    Paragraph,
    Report,
    Section,
)
from mallowspo.reports.figures import Curve, line_figure  # noqa: E402
from mallowspo.reports.sections import picture, table  # noqa: E402
from mallowspo.reports.text import format_number, interval_text, verdict_word  # noqa: E402
from mallowspo.stats.bootstrap import Resamples  # noqa: E402
from mallowspo.stats.verdicts import verdict  # noqa: E402
from mallowspo.studies import pages, policies  # noqa: E402
from mallowspo.studies.dialogue.data import REPLY, TURN, pair_of  # noqa: E402
from mallowspo.studies.study import Done, Results, Stage, Study, run_study  # noqa: E402

HUB, HUB_FOLDER = "Anthropic/hh-rlhf", "helpful-base"
SHARED = ROOT.parent / "shared/data/hh"
METHODS = ("dpo", "mallows_theta")
PAIRS = (("helpful_train.jsonl.gz", "helpful_test.jsonl.gz"), ("train.jsonl.gz", "test.jsonl.gz"))
"""Files for training and for the tests, in the folders that DATA may name; `helpful-base/` below it as well."""


@dataclass(frozen=True, kw_only=True)
class RealrunSettings:
    """The sizes of the run; the page lists them."""

    output_dir: str = "output/realrun"
    model: str = "output/smollm2"  # a folder; where it is missing and `own_model` is false, SmolLM2 is put there
    own_model: bool = False
    data: str = HUB  # a folder, or the hub's name of HH
    train_pairs: int = 64  # of twice as many rows that are checked
    heldout_pairs: int = 48  # on which the policies' reward accuracy is measured
    prompts: int = 16  # of the held-out pairs: answered by both policies and the model that they started from
    max_new_tokens: int = 48
    workers: int = 0

    def __post_init__(self) -> None:
        policies.check_at_least(self, train_pairs=8, heldout_pairs=8, prompts=3, max_new_tokens=1)
        if self.prompts > self.heldout_pairs:
            raise InputError(f"prompts: got {self.prompts}, expected at most heldout_pairs ({self.heldout_pairs})")


@dataclass(frozen=True)
class Step:
    """A job: one step of the run, by its name."""

    name: str


@dataclass(frozen=True)
class DataSetup:
    """What the rows depend on."""

    data: str
    train_pairs: int
    heldout_pairs: int
    prompts: int


@dataclass(frozen=True)
class Setup:
    """What every command depends on: the settings that it is given, and the rows."""

    model: str
    own_model: bool
    max_new_tokens: int
    train_pairs: int
    rows: str = field(default="")  # digest of the rows


@dataclass(frozen=True)
class Bench:
    """A setup and the folder of the run."""

    setup: Any
    folder: Path


def open_bench(setup: Any, job: Step, folder: Path) -> Bench:
    """Nothing is shared but the folder."""
    return Bench(setup, folder.resolve())


# The rows


def single_turn(row: Mapping[str, Any]) -> dict[str, str] | None:
    """A row of HH with one human turn as question, chosen and rejected; None for other rows."""
    if "prompt" in row:
        prompt, chosen, rejected = row["prompt"], row["chosen"], row["rejected"]
    else:
        pair = pair_of(row)
        if pair is None:
            return None
        prompt, chosen, rejected = pair
    if prompt.count(TURN) != 1 or not prompt.endswith(REPLY):
        return None
    question = prompt.removesuffix(REPLY).split(TURN, 1)[1].strip()
    return {"prompt": question, "chosen": chosen.strip(), "rejected": rejected.strip()}


def as_chat(row: Mapping[str, str]) -> dict[str, list[dict[str, str]]]:
    """The row as conversations, which training renders with the model's chat template."""
    roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    return {name: [{"role": role, "content": row[name]}] for name, role in roles.items()}


def find_files(folder: Path) -> tuple[Path, Path]:
    """The files for training and for the tests in a folder that holds HH in one of its layouts."""
    for place in (folder, folder / HUB_FOLDER):
        for names in PAIRS:
            train, test = (place / name for name in names)
            if train.is_file() and test.is_file():
                return train, test
    wanted = " or ".join(" and ".join(names) for names in PAIRS)
    raise InputError(f"data: {folder} holds no {wanted}; give a folder with HH's dialogues (make realrun DATA=folder)")


def read_rows(data: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The single-turn rows for training and for the tests, drawn into an order that does not change."""
    from mallowspo.data.sources import load_preferences

    if Path(data).is_dir():
        loaded = [load_preferences(file).dataset for file in find_files(Path(data))]
    else:
        from datasets import load_dataset

        try:
            loaded = [load_dataset(data, data_dir=HUB_FOLDER, split=split) for split in ("train", "test")]
        except (OSError, ValueError, LookupError, RuntimeError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise InputError(
                f"data: {data} could not be loaded from the hub ({said}); see to the network, or give a folder with "
                "HH's dialogues (make realrun DATA=folder)"
            ) from error
    found = []
    for part, rows in enumerate(loaded):
        turns = [one for one in map(single_turn, rows) if one]
        order = np.random.default_rng([7, part]).permutation(len(turns))
        found.append([turns[place] for place in order])
    return found[0], found[1]


def write_rows(bench: Bench, step: Step) -> Results:
    """Write the rows to check and those that are held out, of whose prompts none is trained on."""
    setup: DataSetup = bench.setup
    train, test = read_rows(setup.data)
    seen = {row["prompt"] for row in train}
    # One pair a prompt, so that rows are drawn independently.
    fresh = list({row["prompt"]: row for row in test if row["prompt"] not in seen}.values())
    heldout, checked = fresh[: setup.heldout_pairs], train[: 2 * setup.train_pairs]
    for name, rows, wanted in (
        ("train_pairs", checked, 2 * setup.train_pairs), ("heldout_pairs", heldout, setup.heldout_pairs)
    ):  # fmt: skip
        if len(rows) < wanted:
            raise InputError(f"{name}: {setup.data} has {len(rows)} dialogues with one human turn, expected {wanted}")
    write_lines(bench.folder / "rows.jsonl", map(as_chat, checked))
    write_lines(bench.folder / "heldout.jsonl", map(as_chat, heldout))
    write_lines(bench.folder / "prompts.jsonl", heldout[: setup.prompts])
    return {"single_turn": [len(train), len(fresh)], "digest": key_of(checked=checked, heldout=heldout)}


def _lines(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:  # not `splitlines`, which cuts at more than ends of lines
        return [json.loads(line) for line in lines]


# The commands


def _check(bench: Bench) -> list[str]:
    return [
        "check", _at(bench, "rows.jsonl"), "--model_name_or_path", _model(bench), "--max_length", "256",
        "--eval_data", _at(bench, "heldout.jsonl"), "--fix", _at(bench, "checked.jsonl"), "--html",
        "--output_dir", _at(bench, "check"),
    ]  # fmt: skip


def _checked(bench: Bench) -> Results:
    """The first of the rows that can be used are those to train on."""
    rows = _lines(bench.folder / "checked.jsonl")
    if len(rows) < bench.setup.train_pairs:
        raise InputError(f"train_pairs: {len(rows)} rows can be used, expected {bench.setup.train_pairs}")
    write_lines(bench.folder / "pairs.jsonl", rows[: bench.setup.train_pairs])
    found = _json(bench, "check/check.json")
    findings = [{name: one[name] for name in ("kind", "severity", "count")} for one in found["findings"]]
    return {"rows": found["rows"], "usable": len(rows), "findings": findings}


def _score(data: str, store: str, adapter: str = "") -> Callable[[Bench], list[str]]:
    return lambda bench: [
        "reference", "--model_name_or_path", _model(bench), *(["--adapter", _at(bench, adapter)] if adapter else []),
        "--dataset_name", _at(bench, data), "--max_length", "256", "--use_cpu", "--output_dir", _at(bench, store),
    ]  # fmt: skip


def _scored(store: str) -> Callable[[Bench], Results]:
    def read(bench: Bench) -> Results:
        from mallowspo.scoring.store_reader import ReferenceStore

        rows = ReferenceStore.open(bench.folder / store).read()
        return {"logp": rows.scores.logp_nk.tolist()}

    return read


def _dispersion(bench: Bench) -> list[str]:
    return [
        "dispersion", "--reference", _at(bench, "reference"), "--dataset_name", _at(bench, "pairs.jsonl"),
        "--output_dir", _at(bench, "dispersion"),
    ]  # fmt: skip


def _weighed(bench: Bench) -> Results:
    return {"weight": _json(bench, "dispersion/summary.json")["reference"]["weight"]}


# Set before the first run, and not tuned.
_LORA = (
    "--use_peft --lora_r 16 --lora_alpha 32 --lora_target_modules q_proj k_proj v_proj o_proj gate_proj up_proj "
    "down_proj --beta 0.1 --learning_rate 2e-4 --lr_scheduler_type cosine --warmup_steps 0.1 --num_train_epochs 1 "
    "--per_device_train_batch_size 4 --max_length 256 --logging_steps 1 --save_strategy no --report_to none --seed 1 "
    "--use_cpu --bf16 false --gradient_checkpointing false"
).split()


def _train(method: str) -> Callable[[Bench], list[str]]:
    return lambda bench: [
        "train", "--model_name_or_path", _model(bench), "--dataset_name", _at(bench, "pairs.jsonl"),
        "--reference_store", _at(bench, "reference"), "--objective", method, *_LORA, "--output_dir",
        _at(bench, method),
    ]  # fmt: skip


def _trained(method: str) -> Callable[[Bench], Results]:
    def read(bench: Bench) -> Results:
        kept = ("step", "loss", "rewards/margins")
        found = _json(bench, f"{method}/run.json")
        log = [entry for entry in found["log_history"] if "loss" in entry]
        return {"steps": found["steps"], "log": [{name: row[name] for name in kept} for row in log]}

    return read


def _evaluate(method: str) -> Callable[[Bench], list[str]]:
    return lambda bench: [
        "evaluate", "--model", _at(bench, method), "--baseline", _model(bench), "--prompts",
        _at(bench, "prompts.jsonl"), "--judge", "recipes.smollm2.judge:shared_words", "--max_new_tokens",
        str(bench.setup.max_new_tokens), "--kl_samples", "1", "--use_cpu", "--output_dir",
        _at(bench, f"evaluate/{method}"),
    ]  # fmt: skip


def _evaluated(method: str) -> Callable[[Bench], Results]:
    def read(bench: Bench) -> Results:
        folder = f"evaluate/{method}"
        found = _json(bench, f"{folder}/results.json")
        return {
            "preferences": found["preferences"],
            "kl": found["kl"]["kl"],
            "answers": [row["output"] for row in _json(bench, f"{folder}/model_outputs.json")[:3]],
            "before": [row["output"] for row in _json(bench, f"{folder}/baseline_outputs.json")[:3]],
        }

    return read


def _at(bench: Bench, name: str) -> str:
    return os.path.relpath(bench.folder / name, ROOT)


def _model(bench: Bench) -> str:
    return os.path.relpath(Path(bench.setup.model).resolve(), ROOT)


def _json(bench: Bench, name: str) -> Any:
    return json.loads((bench.folder / name).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Command:
    """A step that is a command of `mallowspo`: its words, what it leaves, and what the page wants of that."""

    words: Callable[[Bench], list[str]]
    leaves: Sequence[str]  # below the folder of the run; the last one is what to open
    read: Callable[[Bench], Results]
    codes: Sequence[int] = (0,)


COMMANDS: Mapping[str, Command] = {
    # Findings are what `check` is for: exit code 1.
    "check": Command(_check, ("pairs.jsonl", "check/check.html"), _checked, (0, 1)),
    "reference": Command(_score("pairs.jsonl", "reference"), ("reference/manifest.json",), _scored("reference")),
    "dispersion": Command(_dispersion, ("dispersion/report.html",), _weighed),
    **{f"train {m}": Command(_train(m), (f"{m}/adapter_config.json", f"{m}/run.json"), _trained(m)) for m in METHODS},
    "held-out pairs, before": Command(
        _score("heldout.jsonl", "heldout/before"), ("heldout/before/manifest.json",), _scored("heldout/before")
    ),
    **{
        f"held-out pairs, {m}": Command(
            _score("heldout.jsonl", f"heldout/{m}", m), (f"heldout/{m}/manifest.json",), _scored(f"heldout/{m}")
        )
        for m in METHODS
    },
    **{f"evaluate {m}": Command(_evaluate(m), (f"evaluate/{m}/report.html",), _evaluated(m)) for m in METHODS},
}


def run_step(bench: Bench, step: Step) -> Results:
    """Get the model, or run one command as a user would, and read what it left."""
    began = time.perf_counter(), time.process_time()

    def done(line: str, found: Results) -> Results:
        wall, processor = time.perf_counter() - began[0], time.process_time() - began[1]
        return {"seconds": wall, "processor_seconds": processor, "line": line, "found": found}

    if step.name == "model":
        line = "" if bench.setup.own_model else "python recipes/smollm2/prepare.py " + _model(bench)
        if line:
            _say("model", line)
            prepare(ROOT / _model(bench))
        return done(line, {})
    command = COMMANDS[step.name]
    words = command.words(bench)
    line = shlex.join(["mallowspo", *words])
    _say(step.name, line)
    os.environ[PROMPTS] = _at(bench, "prompts.jsonl")
    code = _command(words)
    if code not in command.codes:
        raise InputError(
            f"{step.name}: `{line}` ended with exit code {code}; mend what it says above and run this again: what is "
            "finished is kept"
        )
    return done(line, command.read(bench))


def _command(words: list[str]) -> int:
    """Run a command in this process, whose libraries are loaded once for all of them; gives its exit code."""
    from mallowspo.cli.main import main as mallowspo

    try:
        mallowspo(words)
    except SystemExit as end:
        if end.code in (130, 143):  # interrupted
            raise KeyboardInterrupt from end
        return int(end.code or 0)
    return 0


def _say(name: str, line: str) -> None:
    names = ["model", *COMMANDS]
    sys.stderr.write(f"\n{names.index(name) + 1} of {len(names)}: {name}\n$ {line}\n")
    sys.stderr.flush()


def left(setup: Setup, step: Step, folder: Path) -> list[Path]:
    """What a finished step has left."""
    if step.name == "model":
        return [ROOT / setup.model / "config.json"]
    return [folder / name for name in COMMANDS[step.name].leaves]


# What was found


def summarise(settings: RealrunSettings, done: Done) -> Results:
    """Reward accuracy on held-out pairs, what the judge says, and the verdicts of their intervals."""
    steps = dict(zip(("model", *COMMANDS), done["steps"], strict=True))
    found = {name: step["found"] for name, step in steps.items()}
    before = _gap(found["held-out pairs, before"])
    right = {m: _right(_gap(found[f"held-out pairs, {m}"]) - before) for m in METHODS}
    draws = Resamples.of(range(len(before)), rng=np.random.default_rng(0))
    judged = {m: np.asarray(found[f"evaluate {m}"]["preferences"], np.float64) for m in METHODS}
    prompts = Resamples.of(range(len(judged["dpo"])), rng=np.random.default_rng(1))
    compared = {"accuracy": (draws, right), "judged": (prompts, judged)}
    verdicts = {}
    for quantity, (drawn, values) in compared.items():
        for method in METHODS:
            verdicts[f"{quantity} {method}"] = drawn.mean(values[method]), drawn.mean(values[method] - 0.5)
        ahead = drawn.mean(values["mallows_theta"] - values["dpo"])
        verdicts[f"{quantity} difference"] = ahead, ahead
    return {
        "verdicts": {
            name: {"value": asdict(value), "verdict": verdict(difference)}
            for name, (value, difference) in verdicts.items()
        },
        "steps": {
            name: {key: step[key] for key in ("seconds", "processor_seconds", "line")} for name, step in steps.items()
        },
        "rows": done["data"][0],
        "check": found["check"],
        "dispersion": found["dispersion"],
        "training": {m: found[f"train {m}"] for m in METHODS},
        "kl": {m: found[f"evaluate {m}"]["kl"] for m in METHODS},
        "examples": [
            {"prompt": row["prompt"], "people": row["chosen"], "before": found["evaluate dpo"]["before"][i]}
            | {m: found[f"evaluate {m}"]["answers"][i] for m in METHODS}
            for i, row in enumerate(_lines(Path(settings.output_dir) / "prompts.jsonl")[:3])
        ],
    }


def _gap(scored: Results) -> Any:
    logp = np.asarray(scored["logp"], np.float64)
    return logp[:, 0] - logp[:, 1]


def _right(margin: Any) -> Any:
    return np.where(margin == 0, 0.5, margin > 0).astype(np.float64)


def figures(results: Results) -> dict[str, Any]:
    """The implicit rewards' margin along training."""
    curves = {}
    for method in METHODS:
        log = results["training"][method]["log"]
        margin = [row["rewards/margins"] for row in log]
        curves[method] = Curve([row["step"] for row in log], margin)
    figure = line_figure(
        curves, x_label="Step", y_label="Margin of the implicit rewards, nats", title="Training, batch by batch"
    )
    return {"training": figure}


_NAMES = {
    "accuracy dpo": "DPO's implicit reward sides with people on held-out pairs, %",
    "accuracy mallows_theta": "MallowsPO-θ's does, %",
    "accuracy difference": "θ minus DPO, points",
    "judged dpo": "DPO's answer shares more words with people's than the model's before, %",
    "judged mallows_theta": "MallowsPO-θ's does, %",
    "judged difference": "θ minus DPO, points",
}


def page(results: Results) -> Report:
    """What the page says."""
    config, steps = results["config"], results["steps"]
    verdicts = table(
        results["verdicts"].items(),
        {
            "question": lambda item: _NAMES[item[0]],
            "found": lambda item: interval_text(item[1]["value"], 1, scale=100, signed=item[0].endswith("difference")),
            "verdict": lambda item: verdict_word(item[1]["verdict"]),
        },
    )
    return Report(
        title="A real model and real people through every command",
        summary=(
            f"{'`' + Path(config['model']).name + '`' if config['own_model'] else _MODEL}, trained with LoRA on "
            f"{config['train_pairs']} pairs of HH helpful by DPO and by MallowsPO-θ. So few pairs show that every "
            "part works and how long it takes, not which method is better: *no significant difference* is what to "
            "expect. Brackets are 95% intervals over held-out pairs or prompts; a coin has 50."
        ),
        sections=[_run(results), _data(results), _weights(results), _training(results), _answers(results),
                  pages.limits(results, *_LIMITS[config["own_model"]:])],
        meta=Meta(extra={"Minutes in all": format_number(sum(step["seconds"] for step in steps.values()) / 60, 1)}),
        verdicts=verdicts,
    )  # fmt: skip


_MODEL = "SmolLM2-135M-Instruct, read from a file of 4-bit weights and made full again"


def _run(results: Results) -> Section:
    def opened(item: tuple[str, Any]) -> str:
        return COMMANDS[item[0]].leaves[-1] if item[0] in COMMANDS else Path(results["config"]["model"]).name

    shown = table(
        results["steps"].items(),
        {
            "step": lambda item: item[0],
            "seconds": lambda item: format_number(item[1]["seconds"], 0),
            "processor seconds": lambda item: format_number(item[1]["processor_seconds"], 0),
            "what it left": opened,
        },
    )
    lines = [_wrapped(step["line"]) for step in results["steps"].values() if step["line"]]
    wall, processor = (
        sum(step[key] for step in results["steps"].values()) / 60 for key in ("seconds", "processor_seconds")
    )
    text = (
        f"The {len(results['steps'])} steps took {wall:.1f} minutes, {processor:.1f} minutes of a processor. Each is "
        "a command of its own, and what it left lies beside this page."
    )
    return pages.text_section(
        "The run", text, shown, CodeBlock("\n".join(lines), "The commands, one after the other.")
    )


def _wrapped(line: str) -> str:
    """A command over several lines."""
    parts = textwrap.wrap(line, 84, break_long_words=False, break_on_hyphens=False)
    return " \\\n    ".join(parts)


def _data(results: Results) -> Section:
    found = results["check"]
    rows = table(
        found["findings"],
        {
            "finding": lambda one: one["kind"].replace("_", " "),
            "severity": pages.plain("severity"),
            "rows": pages.plain("count"),
        },
    )
    text = (
        f"`mallowspo check` read {found['rows']:,} dialogues with one human turn as the model's chat template renders "
        f"them; {found['usable']:,} can be used, and the first {results['config']['train_pairs']} of them were "
        "trained on. No held-out prompt is among them."
    )
    return pages.text_section("The data", text, rows)


def _weights(results: Results) -> Section:
    weight = results["dispersion"]["weight"]
    quantiles = weight["quantiles"]
    text = (
        f"`mallowspo dispersion` read the index off the model's own entropy. Nine in ten weights lie between "
        f"{format_number(quantiles['0.05'])} and {format_number(quantiles['0.95'])}, standard deviation "
        f"{format_number(weight['std'])}: θ differs from DPO by no more than that. Whether this index knows what "
        "people disagree on is the question of `docs/experiments/estimator.md`."
    )
    return Section("The weights", [Paragraph(text)])


def _training(results: Results) -> Section:
    def mean(method: str, key: str, part: slice) -> str:
        return format_number(np.mean([row[key] for row in results["training"][method]["log"][part]]), 3)

    third = max(1, len(results["training"]["dpo"]["log"]) // 3)
    shown = table(
        METHODS,
        {
            "method": policies.label,
            "loss, first third": lambda m: mean(m, "loss", slice(third)),
            "loss, last third": lambda m: mean(m, "loss", slice(-third, None)),
            "margin, first third": lambda m: mean(m, "rewards/margins", slice(third)),
            "margin, last third": lambda m: mean(m, "rewards/margins", slice(-third, None)),
            "KL from the start, nats a response": lambda m: format_number(results["kl"][m]),
        },
    )
    figure = picture("training", "Margin of the implicit rewards against the step, for DPO and for MallowsPO-θ.")
    return Section("Training", [figure, shown])


def _answers(results: Results) -> Section:
    who = {"people": "People chose", "before": "Before"} | {m: policies.label(m) for m in METHODS}
    shown = Examples(
        [Example(row["prompt"], [(text, row[name]) for name, text in who.items()]) for row in results["examples"]]
    )
    caution = Callout(
        "warning",
        "The judge of this run counts words that an answer shares with people's (ROUGE-1). It needs no further model, "
        "and says little about how good an answer is: read some.",
    )
    return Section("The answers", [caution, shown])


_LIMITS = (
    "The model comes from a file of 4-bit weights and was made full again: it is not the model that was released.",
    "One seed, one β, one learning rate, set before the first run and not tuned.",
    "Reward accuracy says how a policy orders pairs that others wrote, not how it answers.",
)


REALRUN: Study[RealrunSettings] = Study(
    name="realrun",
    version=1,
    stages=(
        Stage(
            "data",
            "Reading the dialogues",
            jobs=lambda settings, done: [Step("data")],
            setup=lambda settings, done: DataSetup(
                settings.data, settings.train_pairs, settings.heldout_pairs, settings.prompts
            ),
            work=write_rows,
            bench=open_bench,
            files=lambda setup, job, folder: [
                folder / name for name in ("rows.jsonl", "heldout.jsonl", "prompts.jsonl")
            ],
            parallel=False,
        ),
        Stage(
            "steps",
            "Running the commands",
            jobs=lambda settings, done: [Step(name) for name in ("model", *COMMANDS)],
            setup=lambda settings, done: Setup(
                settings.model, settings.own_model, settings.max_new_tokens, settings.train_pairs,
                done["data"][0]["digest"],
            ),
            work=run_step,
            bench=open_bench,
            files=left,
            parallel=False,
        ),
    ),
    summarise=summarise,
    figures=figures,
    page=page,
    presets={"default": lambda folder: RealrunSettings(output_dir=folder)},
    imports=(),
)  # fmt: skip
"""The declaration: steps that are finished are not run again."""


def check_inputs(settings: RealrunSettings) -> None:
    """Find out before any work what would end the run in the middle of it."""
    folder = writable_folder(settings.output_dir, "output_dir")
    if settings.data != HUB:
        if not Path(settings.data).is_dir():
            raise InputError(
                f"data: there is no folder {settings.data}; give one with HH's dialogues (make realrun DATA=folder), "
                f"or {HUB} for the hub"
            )
        find_files(Path(settings.data))
    there = (Path(settings.model) / "config.json").is_file()
    if settings.own_model:
        if not there:
            raise InputError(f"model: {settings.model} holds no config.json; give the folder of a chat model")
        from mallowspo.evaluation.local_model import load_tokenizer

        if not load_tokenizer(settings.model, option="model").chat_template:
            raise InputError(f"model: {settings.model} has no chat template; give the folder of a chat model")
    wanted = DISK // 5 + (0 if there else DISK)
    place = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    if (free := shutil.disk_usage(place).free) < wanted:
        raise InputError(
            f"output_dir: {settings.output_dir} has {free / 1e9:.1f} GB left, expected {wanted / 1e9:.1f}; free some "
            "space or name another folder"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options, check them, and run what is left to run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    own = RealrunSettings()
    parser.add_argument(
        "--data", default=str(SHARED) if SHARED.is_dir() else HUB,
        help=f"a folder with HH's dialogues, or {HUB}; ../shared/data/hh where it is there",
    )  # fmt: skip
    parser.add_argument("--model", help="folder of a chat model to take in place of SmolLM2")
    parser.add_argument("--output_dir", default=own.output_dir, help="where everything goes; the same folder goes on")
    for name, text in (
        ("train_pairs", "pairs to train on"), ("heldout_pairs", "pairs to measure on"),
        ("prompts", "prompts that are answered"), ("max_new_tokens", "tokens after which an answer is cut"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=getattr(own, name), help=text)
    given = vars(parser.parse_args(arguments))
    model = given.pop("model")
    # Commands are shown, and judges found, as from the root of the checkout.
    if given["data"] != HUB:
        given["data"] = os.path.relpath(given["data"], ROOT)
    if given["output_dir"] != own.output_dir:
        given["output_dir"] = os.path.relpath(given["output_dir"], ROOT)
    if model is not None:
        model = os.path.relpath(model, ROOT)
    os.chdir(ROOT)
    settings = RealrunSettings(**given, model=model or own.model, own_model=model is not None)
    check_inputs(settings)
    run_study(REALRUN, settings)
    sys.stdout.write(f"Open {settings.output_dir}/report.html in a browser.\n")
    return 0


if __name__ == "__main__":
    from mallowspo.cli.exits import exit_code_of
    from mallowspo.progress import lines_for_a_log

    with lines_for_a_log():
        raise SystemExit(exit_code_of(main, sys.argv[1:]))
