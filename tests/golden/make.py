"""Golden results: what the commands wrote at one commit, to hold a later commit against, cell by cell.

    python tests/golden/make.py [NAME ...]             makes goldens afresh and writes tests/golden/NAME.json
    python tests/golden/make.py [NAME ...] --compare   makes them and prints every cell that differs, old beside new

Without NAME all are made, which takes some minutes on two cores. `--compare` ends with code 1 where a cell differs.
Each golden is made by the program itself in a temporary folder, on one thread, offline, with tiny models and data of
the tests. Seconds, dates, memory, versions and the number of workers are masked by the name of their key. On the
machine that made a golden (the same processor and libraries) floats must be equal; elsewhere they may differ by
`--tolerance`, relative, which is 1e-9 unless given, and a digest of bytes says nothing. Given, it holds everywhere.

The studies (`quickstart`, `experiment_*`), `dispersion_indexes`, `evaluate` and `train` are compared by this script
alone: they take minutes together. `tests/test_golden.py` compares the others in the default suite.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import inspect
import io
import json
import math
import os
import pkgutil
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent
# As `conftest.py` has it: one thread, no network, no cache; read when the libraries are imported.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "MALLOWSPO_CACHE": "",
    "PYTHONPATH": str(TESTS.parent / "src"),  # the sources beside these goldens, whatever is installed
}
for _folder in (TESTS, TESTS / "evaluation", TESTS.parent / "src"):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

PACKAGES = ("torch", "transformers", "trl", "numpy", "scipy", "pyarrow")
MASKED = {"seconds", "cpu_seconds", "processor_seconds", "date", "machine", "peak_memory_gb", "versions", "workers"}
VERSIONS = {"python", "mallowspo", "accelerate", "peft", "datasets", *PACKAGES}
"""Keys that are masked where their value is text."""

LARGE = 300_000
"""Bytes of a golden from which its long lists are kept as digests."""

LONG = 10_000
"""Bytes of a list from which it is long."""

PUBLIC = (
    "mallowspo",
    "mallowspo.data",
    "mallowspo.dispersion",
    "mallowspo.evaluation",
    "mallowspo.maths",
    "mallowspo.maths.links",
    "mallowspo.objectives",
    "mallowspo.scoring",
    "mallowspo.training",
    "mallowspo.world",
)

OF_TRL = "train, options of TRL"

# --------------------------------------------------------------------------------------------------------------------
# Running the program, in a temporary folder that is the current one


def here(*arguments: Any, code: int = 0) -> None:
    """Run the program in this process."""
    from mallowspo.cli.main import main

    told = io.StringIO()
    try:
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            main([str(argument) for argument in arguments])
    except SystemExit as stop:
        assert stop.code == code, f"{arguments}: ended with {stop.code}, not {code}\n{told.getvalue()[-3000:]}"


def alone(*arguments: Any) -> None:
    """Run the program as a process of its own, whose random state and threads nothing has touched."""
    command = [sys.executable, "-m", "mallowspo.cli.main", *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}: ended with {done.returncode}\n{done.stderr[-3000:]}"


def read(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def columns(path: Path) -> dict[str, list[Any]]:
    """A table's columns in clear: where the bytes differ they say by how much."""
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pydict()


def tiny_model(folder: str) -> str:
    from tiny import save_tiny

    return str(save_tiny(folder))


def write_rows(path: str, rows: list[dict[str, Any]]) -> str:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# --------------------------------------------------------------------------------------------------------------------
# The studies


def quickstart() -> Any:
    alone("quickstart", "--fast", "--output_dir", "out")
    return {"results": read("out/results.json"), "preferences": digest(Path("out/preferences.jsonl").read_bytes())}


def experiment_bandit() -> Any:
    alone("experiment", "bandit", "--fast", "--output_dir", "out")
    return read("out/results.json")


def experiment_world() -> Any:
    alone("experiment", "world", "--fast", "--output_dir", "out")
    return read("out/results.json")


def experiment_controllable() -> Any:
    """With preferences that are drawn and a classifier as the reward: the form without any package of others."""
    from studies.controllable_inputs import write_classifier, write_texts

    policy, texts = tiny_model("policy"), write_texts(Path("texts.txt"))
    write_classifier(Path("classifier"), ("joy", "anger"))
    reward = ("--reward_model", "classifier", "--reward_label", "joy", "--preferences", "bradley_terry")
    alone("experiment", "controllable", "--fast", "--use_cpu", "--model_name_or_path", policy, "--dataset_name", texts,
          "--output_dir", "out", *reward)  # fmt: skip
    return read("out/results.json")


def experiment_dialogue() -> Any:
    """With the judge that the study trains itself, votes, and two turns."""
    from dialogue_world import dialogue_world

    given = [part for name, path in dialogue_world(Path(".")).items() for part in (f"--{name}", path)]
    alone("experiment", "dialogue", "--fast", "--use_cpu", "--output_dir", "out", *given)
    return read("out/results.json")


def experiment_estimator() -> Any:
    """With a model and votes, without which the part on people does not run."""
    from dialogue_world import votes

    Path("votes.json").write_text(json.dumps(votes(40)), encoding="utf-8")
    alone("experiment", "estimator", "--fast", "--model_name_or_path", tiny_model("model"), "--votes",
          "people=votes.json", "--output_dir", "out")  # fmt: skip
    return read("out/results.json")


# --------------------------------------------------------------------------------------------------------------------
# The other commands


def pairs() -> list[dict[str, Any]]:
    """Six prompts with two pairs each, with votes, annotations and rankings; responses of 2 to 12 words."""
    prompts = ["The quick fox", "Once upon a time", "Question: what?", "Human: hello", "good bad", "one two three"]
    return [
        {
            "prompt": prompt,
            "chosen": " jumps over the dog" + " and waits" * number,
            "rejected": f" {'jumps over' if number % 2 else 'cooks rice'} {'twice ' * pair}then",
            "votes": [5 - number % 3, number % 3, pair],
            "score_chosen": 2.0 + number,
            "score_rejected": 1.0,
        }
        for number, prompt in enumerate(prompts)
        for pair in range(2)
    ]


def _store(folder: str, *options: str) -> Any:
    if not Path("model").exists():
        tiny_model("model")
        write_rows("pairs.jsonl", pairs())
    here("reference", "--model_name_or_path", "model", "--dataset_name", "pairs.jsonl", "--output_dir", folder,
         "--use_cpu", "--shard_rows", "5", *options)  # fmt: skip
    shards = sorted(Path(folder).glob("*.parquet"))
    files = {shard.name: {"sha256": digest(shard.read_bytes()), "columns": columns(shard)} for shard in shards}
    return {"manifest": read(f"{folder}/manifest.json"), "files": files}


def store() -> Any:
    cut = ("--max_length", "16", "--invalid_rows", "drop")
    return {"plain": _store("plain"), "per_token": _store("per_token", "--per_token", *cut)}


def check() -> Any:
    """Data with one fault of many kinds, its evaluation data, and what `--fix` writes."""
    rows = [
        {
            "prompt": f"Question {number}: how are you?",
            "chosen": f" seven wizards jump over the pond {number}",
            "rejected": f" no {number} brown fox",
        }
        for number in range(24)
    ]
    rows[3]["chosen"] += " \ufffd"
    rows[4]["chosen"] = rows[4]["rejected"]
    rows[5]["rejected"] = ""
    rows[6]["chosen"] = rows[7]["chosen"] = " " + "three wizards box " * 12
    rows[8] = dict(rows[9])
    rows[10] = rows[11] | {"chosen": rows[11]["rejected"], "rejected": rows[11]["chosen"]}
    rows[12]["rejected"] = rows[12]["chosen"] + "."
    rows[13]["prompt"] += " good bad yes no maybe" * 12
    rows[14]["chosen"] = " как дела"
    rows[15]["chosen"] = " As an AI language model, I cannot help."
    tiny_model("model")
    write_rows("rows.jsonl", rows)
    write_rows("eval.jsonl", rows[16:18])
    here("check", "rows.jsonl", "--model_name_or_path", "model", "--output_dir", "out", "--eval_data", "eval.jsonl",
         "--max_length", "48", "--fix", "clean.jsonl", code=1)  # fmt: skip
    fixed = {name: Path(name).read_text(encoding="utf-8").splitlines() for name in sorted(os.listdir(".")) if
             name.startswith("clean.")}  # fmt: skip
    return {"check": read("out/check.json"), "fixed": fixed}


def _dispersion(folder: str, *options: Any) -> Any:
    here("dispersion", "--output_dir", folder, "--fit_draws", "9", *options)
    table = Path(folder, "dispersion.parquet")
    return {"summary": read(f"{folder}/summary.json"), "table": columns(table)}


def dispersion_reference() -> Any:
    """The reference alone, and beside people."""
    _store("store")
    given = ("--reference", "store", "--dataset_name", "pairs.jsonl")
    return {"alone": _dispersion("alone", *given), "beside": _dispersion("beside", *given, "--votes", "pairs.jsonl")}


def dispersion_indexes() -> Any:
    """Every other index and map once, and the options that go with them."""
    _store("store")
    index, map_ = "--dispersion_estimator", "--dispersion_map"
    ways: dict[str, tuple[Any, ...]] = {
        "divergent": (index, "divergent_token", map_, "quantile", "--spread", 0.1, 1.5),
        "first": (index, "first_token", map_, "mallows", "--alternatives", 1000, "--dispersion_scale", 0.5),
        "answer": (index, "answer_entropy", map_, "quantile", "--dispersion_per", "pair", "--dispersion_clip", 0.5, 2),
        "margin": (index, "reference_margin", map_, "isotonic", "--votes", "pairs.jsonl"),
        "panel": (index, "panel", map_, "quantile"),
    }
    given = ("--reference", "store", "--dataset_name", "pairs.jsonl")
    return {name: _dispersion(name, *given, *options) for name, options in ways.items()}


def dispersion_votes() -> Any:
    from dialogue_world import votes

    write_rows("pairs.jsonl", pairs())
    Path("pandalm.json").write_text(json.dumps(votes(40)), encoding="utf-8")
    return {
        "counts": _dispersion("counts", "--votes", "pairs.jsonl", "--vote_prior", "1"),
        "published": _dispersion("published", "--votes", "pandalm.json", "--write_preferences", "majority.jsonl"),
        "majority": [json.loads(line) for line in Path("majority.jsonl").read_text().splitlines()],
    }


def dispersion_rankings() -> Any:
    for name, lines in (("sight", "1,2,3\n2,1,3\n1,3,2\n3,2,1"), ("hand", "1,2,3\n1,2,3\n2,1,3\n1,2,3")):
        Path(f"{name}.csv").write_text(f"a,b,c\n{lines}\n", encoding="utf-8")
    Path("truth.csv").write_text("a,b,c\n1,2,3\n", encoding="utf-8")
    files = ("--rankings", "sight.csv", "--rankings", "hand.csv", "--truth", "truth.csv")
    return {
        "kendall": _dispersion("kendall", *files),
        "spearman": _dispersion("spearman", *files, "--distance", "spearman", "--ranking_prior", "0.5"),
    }


def evaluate() -> Any:
    """Two models, a judge on loopback that prefers the longer answer, thirds of dispersion, KL and prices."""
    from judge_server import JudgeServer

    from tiny import tiny_llama, tiny_tokenizer

    tiny_model("a")
    tiny_llama(vocab_size=len(tiny_tokenizer()), seed=1).save_pretrained("b")
    tiny_tokenizer().save_pretrained("b")
    write_rows("prompts.jsonl", [{"prompt": row["prompt"], "phi": 0.1 + i / 20} for i, row in enumerate(pairs())])
    with JudgeServer() as server:
        alone("evaluate", "--model", "a", "--baseline", "b", "--prompts", "prompts.jsonl", "--judge",
              f"{server.url}#judge", "--output_dir", "out", "--judge_prices", "2,10", "--use_cpu", "--max_new_tokens",
              "8", "--temperature", "1", "--dispersion_column", "phi", "--kl_samples", "2", "--resamples", "200"
              )  # fmt: skip
    answers = {side: read(f"out/{side}_outputs.json") for side in ("model", "baseline")}
    return {"results": read("out/results.json"), "answers": answers}


def train() -> Any:
    """What six steps log, for a pair objective with an estimated index and one with people's votes."""
    tiny_model("model")
    write_rows("pairs.jsonl", pairs())
    found = {}
    for objective, dispersion in (("dpo", "none"), ("mallows_theta", "entropy"), ("mallows_phi", "votes")):
        alone("train", "--model_name_or_path", "model", "--dataset_name", "pairs.jsonl", "--output_dir", objective,
              "--objective", objective, "--dispersion", dispersion, "--use_cpu", "--bf16", "false", "--max_steps", "6",
              "--gradient_checkpointing", "false", "--report_to", "none", "--per_device_train_batch_size", "4",
              "--logging_steps", "1", "--learning_rate", "1e-3", "--save_strategy", "no")  # fmt: skip
        record = read(f"{objective}/run.json")
        found[objective] = record["final_metrics"]
    return found


# --------------------------------------------------------------------------------------------------------------------
# Names


def names() -> Any:
    """`__all__` of every public module; of `evaluation`, whose package exports nothing, those of its modules."""
    modules = {name: importlib.import_module(name) for name in PUBLIC}
    for name, module in [*modules.items()]:
        if not hasattr(module, "__all__"):
            del modules[name]
            parts = [f"{name}.{one.name}" for one in pkgutil.iter_modules(module.__path__)]
            modules |= {part: importlib.import_module(part) for part in parts}
    return {name: {one: _kind(getattr(module, one)) for one in module.__all__} for name, module in modules.items()}


def _kind(value: Any) -> str:
    return "class" if inspect.isclass(value) else "function" if callable(value) else "value"


def options() -> Any:
    """Command, "" for the program -> option, with its other names -> its default as the help shows it, its choices."""
    from dataclasses import MISSING, fields

    from trl import DPOConfig

    from mallowspo.cli.main import COMMANDS
    from mallowspo.cli.plan import PlanOptions
    from mallowspo.cli.train_options import TrainParser
    from mallowspo.training import MallowsPOConfig

    found: dict[str, dict[str, list[Any]]] = {"": {"--version": [False, None]}, "experiment": {}}
    kinds = {words: kind for words, (kind, _) in COMMANDS.items()} | {"plan": PlanOptions}
    for words, kind in kinds.items():
        found[words] = {"--config": [None, None]}
        for item in fields(kind):
            shown, default = item.metadata["shown"], None if item.default == () else item.default
            names = [item.name if item.metadata["positional"] else f"--{item.name}"]
            names += [f"--no-{item.name}", f"--no_{item.name}"] if item.type in ("bool", "bool | None") else []
            # None of these options declares its choices; where there are any, its help says them.
            found[words][", ".join(names)] = [
                "required" if default is MISSING else _read(shown) if shown else _plain(default),
                None,
            ]
    # Apart, since those of TRL change with its version.
    ours = {item.name for item in fields(MallowsPOConfig)} - {item.name for item in fields(DPOConfig)}
    found |= {"train": {}, OF_TRL: {}}
    for action in TrainParser()._actions:
        if action.dest != "help":
            listed = found["train" if action.dest in ours else OF_TRL]
            listed[", ".join(action.option_strings)] = [_plain(action.default), _plain(action.choices)]
    return found


def _read(shown: str) -> Any:
    """A default in the words of a help text as a value where it is one."""
    try:
        return json.loads(shown)
    except ValueError:
        return shown


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | None) else str(value)


STUDIES: tuple[Callable[[], Any], ...] = (
    quickstart,
    experiment_bandit,
    experiment_world,
    experiment_controllable,
    experiment_dialogue,
    experiment_estimator,
    dispersion_indexes,
    evaluate,
    train,
)
QUICK: tuple[Callable[[], Any], ...] = (
    names,
    options,
    store,
    check,
    dispersion_reference,
    dispersion_votes,
    dispersion_rankings,
)
GOLDENS = {make.__name__: make for make in (*QUICK, *STUDIES)}

# --------------------------------------------------------------------------------------------------------------------
# Keeping and comparing


def machine() -> dict[str, Any]:
    """What the last bits of a float depend on."""
    import torch

    listed = Path("/proc/cpuinfo")
    text = listed.read_text(encoding="utf-8") if listed.exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    return {
        "processor": model[1] if model else platform.processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def masked(value: Any, folder: str) -> Any:
    """The value without what differs from run to run."""
    if isinstance(value, dict):
        return {
            key: "(masked)" if key in MASKED or (key in VERSIONS and isinstance(item, str)) else masked(item, folder)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [masked(item, folder) for item in value]
    if isinstance(value, str):
        return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", value.replace(folder, "FOLDER"))
    return value


def shortened(value: Any) -> Any:
    """A value of too many bytes with its long lists as digests, of each column where they are lists of records."""
    if isinstance(value, dict):
        return {key: shortened(item) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    if len(json.dumps(value)) < LONG:
        return [shortened(item) for item in value]
    if all(isinstance(item, dict) for item in value):
        keys = sorted({key for item in value for key in item})
        return {"rows": len(value), "columns": {key: _column([item.get(key) for item in value]) for key in keys}}
    return _column(value)


def _column(values: list[Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {"values": len(values), "sha256": digest(json.dumps(values).encode())}
    numbers = [*_numbers(values)]
    # In clear, so that a difference has a size, and a comparison with a tolerance something to compare.
    return kept | ({"mean": math.fsum(numbers) / len(numbers), "last": numbers[-1]} if numbers else {})


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, dict):
        for key in sorted(value):
            yield from _numbers(value[key])


def made(name: str) -> Any:
    """Make one golden in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        # As JSON gives it back: tuples are lists, and so on.
        value = json.loads(json.dumps(masked(GOLDENS[name](), folder)))
    return shortened(value) if len(json.dumps(value)) > LARGE else value


def kept(name: str) -> tuple[Any, dict[str, Any]]:
    """A golden that was written, and the machine that made it."""
    record = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    return record["golden"], record["machine"]


def differences(old: Any, new: Any, tolerance: float, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every cell that differs: where it is, what it was, what it is now.

    >>> list(differences({"a": [1.0, 2.0]}, {"a": [1.0, 2.5], "b": None}, tolerance=0.0))
    [('a[1]', 2.0, 2.5), ('b', '(absent)', None)]
    >>> list(differences({"a": 1.0}, {"a": 1.0 + 1e-12}, tolerance=1e-9))
    []
    >>> list(differences({"a": 1.0}, {"a": True}, tolerance=1e-9))
    [('a', 1.0, True)]
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            inner = f"{place}.{key}" if place else key
            if key not in old or key not in new:
                yield inner, old.get(key, "(absent)"), new.get(key, "(absent)")
            else:
                yield from differences(old[key], new[key], tolerance, inner)
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{place} (length)", len(old), len(new)
        for index, (before, after) in enumerate(zip(old, new, strict=False)):
            yield from differences(before, after, tolerance, f"{place}[{index}]")
    elif isinstance(old, float) and isinstance(new, float):
        if not (math.isclose(old, new, rel_tol=tolerance, abs_tol=0.0) or (math.isnan(old) and math.isnan(new))):
            yield place, old, new
    elif tolerance and all(isinstance(one, str) and re.fullmatch("[0-9a-f]{64}", one) for one in (old, new)):
        pass  # digests of bytes say nothing of how far apart two numbers are
    elif old != new or isinstance(old, bool) != isinstance(new, bool):
        yield place, old, new


def laid_out(value: Any, indent: str = "") -> str:
    """JSON with a line for each part that fits into one: small files whose diffs can be read."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(flat) <= 118 or not isinstance(value, dict | list) or not value:
        return flat
    inner = indent + " "
    if isinstance(value, list) and not any(isinstance(item, dict | list | str) for item in value):
        return flat  # numbers alone: a column
    if isinstance(value, dict):
        parts = [f"{inner}{json.dumps(key, ensure_ascii=False)}: {laid_out(value[key], inner)}" for key in value]
        return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + laid_out(item, inner) for item in value) + f"\n{indent}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(GOLDENS)}")
    parser.add_argument("--compare", action="store_true", help="hold against what is there, write nothing")
    parser.add_argument("--tolerance", type=float, help="relative difference of floats that is none")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in GOLDENS]
    if unknown:
        parser.error(f"got {', '.join(unknown)}, expected names among {', '.join(GOLDENS)}")
    os.environ.update(ENVIRONMENT)
    import torch

    torch.set_num_threads(1)
    found = 0
    for name in given.names or GOLDENS:
        started = time.perf_counter()
        new = made(name)
        took = f"{time.perf_counter() - started:.0f} s"
        if not given.compare:
            text = laid_out({"machine": machine(), "golden": new}) + "\n"
            (HERE / f"{name}.json").write_text(text, encoding="utf-8")
            print(f"{name}: {len(text.encode()) / 1024:.0f} KB, {took}", flush=True)
            continue
        old, made_on = kept(name)
        tolerance = given.tolerance if given.tolerance is not None else 0.0 if made_on == machine() else 1e-9
        cells = list(differences(old, new, tolerance))
        for place, before, after in cells:
            print(f"{name}: {place}: {before!r} -> {after!r}")
        print(f"{name}: {len(cells)} cells differ at tolerance {tolerance:g}, {took}", flush=True)
        found += len(cells)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
