"""What is fuzzed: every reader of something that the program did not write in this run, with valid examples of it."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
from hypothesis import strategies as st

from fuzz.documents import (
    as_csv,
    as_gzip,
    as_json,
    as_lines,
    as_parquet,
    as_yaml,
    damaged,
    files,
    odd_parquet,
    repeating,
)
from mallowspo.cli.evaluate import _json_object
from mallowspo.cli.yaml_file import read_yaml
from mallowspo.data import OPTIONAL_COLUMNS, load_preferences, tokenize_pairs, validate_rows
from mallowspo.data.lint import check_preferences
from mallowspo.dispersion import Calibration
from mallowspo.dispersion.rankings_file import load_rankings, load_truth
from mallowspo.dispersion.votes_file import load_votes
from mallowspo.errors import InputError
from mallowspo.evaluation.endpoint import EndpointAddress
from mallowspo.evaluation.generation import answers_from_file
from mallowspo.evaluation.json_log import JsonLog
from mallowspo.evaluation.judge import check_verdict
from mallowspo.evaluation.judge_prompt import parse_verdict, read_template
from mallowspo.evaluation.length_control import read_alpaca_tables
from mallowspo.evaluation.prompts import EvaluationPrompt, answer_text, load_prompts, read_dispersion, texts_of
from mallowspo.evaluation.server_reply import Malformed, ServerError, read_reply
from mallowspo.objectives import Objective
from mallowspo.scoring import ReferenceStore, StoreSettings, write_store
from mallowspo.scoring.model_checks import refuse_adapter_folder
from mallowspo.scoring.store_format import file_checksum
from mallowspo.training.checkpoints import newest_whole, seal
from mallowspo.training.state_file import STATE_FILE, TrainingState, read_state, write_state
from scoring.stores import TinyReference, token_rows
from tiny import tiny_tokenizer


@dataclass(frozen=True)
class Target:
    """One reader."""

    name: str
    inputs: st.SearchStrategy[bytes]
    # Gets the input and an empty folder. Whatever it raises but an `InputError` is a fault.
    read: Callable[[bytes, Path], object]
    share: float = 1.0  # of the inputs that another target gets; a reader that is slow gets fewer


class Disagreement(AssertionError):
    """`check` passed what `train` refuses."""


def _turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


_PAIRS: list[Any] = [
    [
        {"prompt": "1 + 1 =", "chosen": " 2", "rejected": " 3", "margin": 0.5, "dispersion": 0.2},
        {"prompt": "A film:", "chosen": " Alien", "rejected": " Tampopo", "margin": 0.1, "dispersion": 0.9},
    ],
    [{"chosen": "Hello there", "rejected": "Hello you"}, {"chosen": "one two", "rejected": "one three"}],
    [
        {
            "prompt": [_turn("system", "Be brief."), _turn("user", "Hi")],
            "chosen": [_turn("assistant", "Hello.")],
            "rejected": [_turn("assistant", [{"type": "text", "text": "Go."}])],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            "chat_template_kwargs": {"x": 1},
        }
    ],
    [{"prompt": "Name a fish", "responses": [" cod", " eel", " ray"], "ranks": [1, 3, 2], "row_index": 5}],
    [{"prompt": "a", "chosen": "b", "rejected": "c", "votes": [3, 1], "rankings": [[1, 2], [2, 1]], "weight": 1.0}],
]
_VOTES: list[Any] = [
    [{"prompt": "a", "chosen": "b", "rejected": "c", "votes": [3, 1, 1]}, {"prompt": "d", "votes": {"A": 2, "B": 1}}],
    [{"votes_chosen": 3, "votes_rejected": 1, "votes_tied": 0}, {"votes_chosen": None, "votes_rejected": 2}],
    [{"annotator1": 1, "annotator2": 2, "annotator3": 0, "instruction": "x", "input": "", "response1": "a"}],
    [{"source": "x", "outputs": {"s1": "a", "s2": "b"}, "penalty": {"s1": {"r1": 0.0}, "s2": {"r1": 1.0, "r2": 2.0}}}],
]
_SHAPES: list[Any] = [
    [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for path in sorted((Path(__file__).parent.parent / "dispersion" / "shapes").glob("*.jsonl"))
]
"""What data sets look like that are published."""

_RANKINGS: list[Any] = [
    [{"red": 1, "green": 2, "blue": 3}, {"red": 2, "green": 1, "blue": 3}, {"red": 1, "green": 3, "blue": 2}],
    [{"voter_id": 7, "red": 1, "green": 2}, {"voter_id": 8, "red": 2, "green": 1}],
    [{"prompt": "x", "rankings": [[1, 2, 3], [2, 1, 3]]}, {"prompt": "y", "rankings": [[1, 2], [1, 2]]}],
]
_PROMPTS: list[Any] = [[{"prompt": "Hi"}, {"prompt": [_turn("user", "Hi")]}], [{"instruction": "Hi", "output": "Yes"}]]
_COLUMNS: list[Any] = [
    [
        {"prompt": "Hi", "output": "Yes", "difficulty": 0.5, "dispersion": 0.2},
        {
            "prompt": "Ho",
            "output": [_turn("user", "Ho"), _turn("assistant", "No")],
            "difficulty": 1,
            "dispersion": 1.0,
        },
    ]
]
_ANSWERS: list[Any] = [[{"instruction": "Hi", "output": "Yes"}, {"instruction": "Ho", "output": "No"}]]
_FORMATS: dict[str, Callable[[Any], bytes]] = {
    ".jsonl": as_lines,
    ".json": as_json,
    ".csv": as_csv,
    ".parquet": as_parquet,
    ".jsonl.gz": as_gzip,
}
_TABLES = {
    "instructions.csv": b"index,instruction_difficulty\n0,0.5\n1,-0.25\n2,0.0\n",
    "gamed_lengths.csv": b"index,baseline,concise,verbose\n0,10,5,20\n1,12,6,30\n2,9,4,18\n",
    "gamed_sums.json": b'{"S_tanh_len": 1.5, "S_difficulty": 0.5, "weight_per_gamed_row": 0.1}',
}
_CHECKPOINT = {
    "model.safetensors.index.json": b'{"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "x"}}',
    "trainer_state.json": b'{"global_step": 3, "log_history": []}',
    "mallowspo-files.json": b'{"format": 1, "files": {"config.json": {"bytes": 2, "xxh3_128": "0f"}, "x": {}}}',
}
_RECIPES: list[Any] = [
    {"model_name_or_path": "m", "beta": 0.1, "dispersion_clip": [0.0, 10.0], "loss_type": ["sigmoid", "sft"]},
    {"datasets": [{"path": "json", "data_files": "x"}], "env": {"A": "1"}, "learning_rate": "1e-6"},
]
_REPLIES: list[Any] = [
    {"choices": [{"message": {"content": "Reasons. [[A]]"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}},
    {"choices": [{"message": {"content": [{"type": "text", "text": "[[B]]"}], "refusal": None}}], "error": {}},
]
_LOG: list[Any] = [[{"key": "k", "verdict": "A", "reply": "x", "prompt_tokens": 3}, {"key": "l", "verdict": 0.5}]]
_INDEX: list[Any] = [[{"prompt": "Hi", "dispersion": 0.5}, {"prompt": "Ho", "dispersion": 0.25}]]
_WORDS = [
    b"Reasons.\n[[A]]",
    b"<think>[[A]] or [[B]]</think>\n[[B]]",
    b'{"verdict": "A"}',
    b"Verdict: tie",
    b"\\boxed{B}",
]
_tokenizer = functools.cache(partial(tiny_tokenizer, chat=True))


def _each(*reads: Callable[[], object]) -> None:
    """Call all of these, also where one refuses what it is given."""
    for read in reads:
        with contextlib.suppress(InputError):
            read()


def _named(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    """Write the input under a name, and read the file."""

    def read_file(data: bytes, folder: Path) -> object:
        path = folder / name
        path.write_bytes(data)
        return read(path)

    return read_file


def _table(name: str, documents: Sequence[Any], read: Callable[[Path], object], share: float = 1.0) -> list[Target]:
    """A reader of tables, once for each format."""

    def target(suffix: str, inputs: st.SearchStrategy[bytes], odd: str = "") -> Target:
        return Target(f"{name} {odd}{suffix}", inputs, _named(f"data{suffix}", read), share)

    return [
        *(target(suffix, files(documents, form)) for suffix, form in _FORMATS.items()),
        target(".parquet", odd_parquet(documents), "odd "),
        target(".json", repeating(documents), "odd "),
    ]


def _read_pairs(path: Path) -> None:
    try:
        clean = not check_preferences(path, _tokenizer()).has_errors
    except InputError:
        clean = False
    for mode in ("drop", "error"):
        try:
            loaded = load_preferences(path, invalid_rows=mode).dataset
            # A column without a value is one that no training can ask for.
            given = [n for n in OPTIONAL_COLUMNS if n in loaded.column_names]
            columns = [n for n in given if any(value is not None for value in loaded[n])]
            rows = validate_rows(loaded, invalid_rows=mode, columns=columns).dataset
            tokenize_pairs(rows, _tokenizer(), max_length=1024, invalid_rows=mode)
        except InputError as error:
            if clean and mode == "error":
                raise Disagreement(str(error)) from error


_read_votes = partial(load_votes, invalid_rows="drop")


def _read_people(path: Path) -> None:
    """Whatever a published shape is taken for; names of columns are given for those that have others."""
    for columns in ("", "prompt=question,first=answer_a,second=answer_b,vote=winner,rater=who"):
        _each(partial(_read_votes, path, columns=columns), partial(load_rankings, path, columns=columns))


def _read_columns(path: Path) -> None:
    """What an evaluation takes from the columns of its prompts."""
    prompts = load_prompts(str(path))
    _each(
        lambda: prompts.numbers("difficulty", "difficulty_column"),
        lambda: prompts.numbers("dispersion", "dispersion_column"),
        lambda: texts_of(prompts.column("output", "model"), answer_text, "model", prompts.prompts),
    )


@functools.cache
def _saved() -> Path:
    """A directory that `datasets` saved, from which a damaged one is made."""
    folder = Path(tempfile.mkdtemp()) / "saved"
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(_PAIRS[0]).save_to_disk(folder)
    return folder


def _read_saved(name: str, data: bytes, folder: Path) -> None:
    shutil.copytree(_saved(), folder / "saved")
    (folder / "saved" / name).write_bytes(data)
    _read_pairs(folder / "saved")


def _read_checkpoint(name: str, data: bytes, folder: Path) -> None:
    checkpoint = folder / "checkpoint-3"
    checkpoint.mkdir()
    for file in ("model.safetensors.index.json", "trainer_state.json", "scheduler.pt", "config.json"):
        (checkpoint / file).write_bytes(_CHECKPOINT.get(file, b"{}"))
    if name.startswith("mallowspo"):
        seal(checkpoint)
    (checkpoint / name).write_bytes(data)
    newest_whole(folder)


def _read_answers(data: bytes, folder: Path) -> None:
    prompts = [EvaluationPrompt(0, "Hi"), EvaluationPrompt(1, "Ho")]
    read = partial(answers_from_file, prompts=prompts, option="model")
    _each(*(partial(_named(f"answers{suffix}", read), data, folder) for suffix in (".json", ".jsonl")))


def _read_index_table(path: Path) -> None:
    prompts = path.with_name("prompts.jsonl")
    prompts.write_bytes(as_lines(_PROMPTS[0]))
    read_dispersion(path, load_prompts(str(prompts)))


def _state() -> dict[str, Any]:
    calibration = Calibration(
        source="entropy", scale=2.0, automatic=True, clip=(0.0, 10.0), per="prompt", map="neglog"
    )
    with tempfile.TemporaryDirectory() as folder:
        write_state(Path(folder), TrainingState(Objective(), 0.1, calibration, 7))
        values: dict[str, Any] = json.loads((Path(folder) / STATE_FILE).read_text())
    return values


@functools.cache
def _store() -> Path:
    """A whole store, from which a damaged one is made."""
    folder, reference, rows = Path(tempfile.mkdtemp()) / "store", TinyReference(), token_rows(6)
    settings = StoreSettings(batch_size=4, shard_rows=4)
    write_store(folder, rows, key=reference.key(rows), score=reference.score, settings=settings, made_with={})
    return folder


def _read_store(name: str, data: bytes, folder: Path) -> None:
    store = folder / "store"
    shutil.copytree(_store(), store)
    (store / name).write_bytes(data)
    opened = ReferenceStore.open(store)
    opened.damaged()
    opened.read()


def _read_rewritten(data: bytes, folder: Path) -> None:
    """A shard that another program wrote, with its checksum put into the manifest."""
    store = folder / "store"
    shutil.copytree(_store(), store)
    shard = min(store.glob("shard-*.parquet"))
    shard.write_bytes(data)
    values = json.loads((store / "manifest.json").read_text())
    values["shards"][0]["sha256"] = file_checksum(shard)
    (store / "manifest.json").write_text(json.dumps(values))
    ReferenceStore.open(store).read()


def _read_log(path: Path) -> None:
    with JsonLog(path) as log:
        for record in log.records:
            check_verdict(record, "log.jsonl")


def _read_verdict(text: str) -> None:
    assert parse_verdict(text) in ("A", "B", "tie", "undecided")


def _read_reply(data: bytes, folder: Path) -> None:
    with contextlib.suppress(Malformed, ServerError):
        _read_verdict(read_reply(data).text)


def _of_text(read: Callable[[str], object]) -> Callable[[bytes, Path], object]:
    return lambda data, folder: read(data.decode("utf-8", "replace"))


def _read_alpaca(name: str, data: bytes, folder: Path) -> None:
    for other, content in _TABLES.items():
        (folder / other).write_bytes(data if other == name else content)
    read_alpaca_tables(folder)


@functools.cache
def targets() -> tuple[Target, ...]:
    """All of them."""
    store = _store()
    manifest = json.loads((store / "manifest.json").read_text())
    rows = pq.read_table(min(store.glob("shard-*.parquet"))).to_pylist()
    addresses = [b"http://127.0.0.1:8000/v1#m", b"https://user:key@host/v1?api_key=k#m", b"http://[::1]:80/v1#a/b"]
    adapter, option = {"base_model_name_or_path": "m", "r": 8}, {"temperature": 1, "extra_body": {"x": [1]}}
    return (
        *_table("pairs", _PAIRS, _read_pairs, 0.2),
        *_table("votes", _VOTES + _PAIRS, _read_votes),
        *_table(
            "rankings",
            _RANKINGS + _VOTES,
            lambda path: _each(partial(load_rankings, path), partial(load_truth, path, items=3)),
        ),
        *_table("prompts", _PROMPTS, lambda path: load_prompts(str(path))),
        *_table("people", _SHAPES, _read_people),
        *_table("columns", _COLUMNS, _read_columns),
        *(
            Target(f"saved {p.name}", damaged([p.read_bytes()]), partial(_read_saved, p.name), 0.2)
            for p in sorted(_saved().iterdir())
        ),
        *(
            Target(
                f"checkpoint {name}",
                st.one_of(damaged([whole]), files([json.loads(whole)], as_json)),
                partial(_read_checkpoint, name),
            )
            for name, whole in _CHECKPOINT.items()
        ),
        Target("option of JSON", files([option], as_json), _of_text(partial(_json_object, "judge_parameters"))),
        Target(
            "adapter",
            files([adapter], as_json),
            _named("adapter_config.json", lambda path: refuse_adapter_folder(str(path.parent), "model", "merge it")),
        ),
        Target("shard rewritten", st.one_of(files([rows], as_parquet), odd_parquet([rows])), _read_rewritten),
        Target("manifest of JSON", files([manifest], as_json), partial(_read_store, "manifest.json")),
        Target("answers", st.one_of(files(_ANSWERS, as_json), files(_ANSWERS, as_lines)), _read_answers),
        Target(
            "index table",
            st.one_of(files(_INDEX, as_parquet), odd_parquet(_INDEX)),
            _named("dispersion.parquet", _read_index_table),
        ),
        Target("training state", files([_state()], as_json), _named(STATE_FILE, lambda path: read_state(path.parent))),
        *(
            Target(f"store {p.name}", damaged([p.read_bytes()]), partial(_read_store, p.name))
            for p in sorted(store.iterdir())
            if p.suffix in (".parquet", ".json")
        ),
        Target("verdict log", files(_LOG, as_lines), _named("log.jsonl", _read_log)),
        Target("server's reply", files(_REPLIES, as_json), _read_reply),
        Target(
            "verdict",
            st.one_of(damaged(_WORDS), st.text(max_size=80).map(lambda text: text.encode())),
            _of_text(_read_verdict),
        ),
        Target("address", damaged(addresses), _of_text(lambda text: EndpointAddress.parse(text, "judge"))),
        *(Target(name, damaged([_TABLES[name]]), partial(_read_alpaca, name)) for name in _TABLES),
        Target(
            "judge template",
            damaged([b"Judge {prompt}: {answer_a} or {answer_b}?"]),
            _named("judge.txt", lambda path: read_template(path).fill("a", "b", "c")),
        ),
        Target("recipe", files(_RECIPES, as_yaml), _named("recipe.yaml", read_yaml)),
    )
