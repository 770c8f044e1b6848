"""What is fuzzed: every reader of something that the program did not write in this run, with valid examples of it."""

from __future__ import annotations

import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from mallowspo.errors import InputError


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        name: For the report.
        inputs: What it is given.
        read: Gets the input and an empty folder. Whatever it raises but an `InputError` is a fault.
        share: Of the inputs that another target gets; a reader that is slow gets fewer.
    """

    name: str
    inputs: st.SearchStrategy[bytes]
    read: Callable[[bytes, Path], object]
    share: float = 1.0


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
_FORMATS: tuple[tuple[str, Callable[[Any], bytes]], ...] = (
    (".jsonl", as_lines),
    (".json", as_json),
    (".csv", as_csv),
    (".parquet", as_parquet),
    (".jsonl.gz", as_gzip),
)


@functools.cache
def _tokenizer() -> Any:
    from tiny import tiny_tokenizer

    return tiny_tokenizer(chat=True)


def _read_pairs(path: Path) -> None:
    from mallowspo.data import load_preferences, tokenize_pairs, validate_rows
    from mallowspo.data.annotations import OPTIONAL_COLUMNS
    from mallowspo.data.lint import check_preferences

    try:
        clean = not check_preferences(path, _tokenizer()).has_errors
    except InputError:
        clean = False
    for invalid_rows in ("drop", "error"):
        try:
            loaded = load_preferences(path, invalid_rows=invalid_rows).dataset
            # A column without a value is one that no training can ask for.
            columns = [
                n for n in OPTIONAL_COLUMNS if n in loaded.column_names and any(v is not None for v in loaded[n])
            ]
            rows = validate_rows(loaded, invalid_rows=invalid_rows, columns=columns).dataset
            tokenize_pairs(rows, _tokenizer(), max_length=1024, invalid_rows=invalid_rows)
        except InputError as error:
            if clean and invalid_rows == "error":
                raise Disagreement(str(error)) from error


def _read_votes(path: Path) -> None:
    from mallowspo.dispersion.votes_file import load_votes

    load_votes(path, invalid_rows="drop")


def _read_rankings(path: Path) -> None:
    from mallowspo.dispersion.rankings_file import load_rankings, load_truth

    for read in (load_rankings, functools.partial(load_truth, items=3)):
        try:
            read(path)
        except InputError:
            continue


def _read_people(path: Path) -> None:
    """Whatever a published shape is taken for; names of columns are given for those that have others."""
    from mallowspo.dispersion.rankings_file import load_rankings
    from mallowspo.dispersion.votes_file import load_votes

    for columns in ("", "prompt=question,first=answer_a,second=answer_b,vote=winner,rater=who"):
        for read in (functools.partial(load_votes, invalid_rows="drop"), load_rankings):
            try:
                read(path, columns=columns)
            except InputError:
                continue


def _read_prompts(path: Path) -> None:
    from mallowspo.evaluation.prompts import load_prompts

    load_prompts(str(path))


def _table(name: str, documents: Sequence[Any], read: Callable[[Path], None], share: float = 1.0) -> list[Target]:
    """A reader of tables, once for each format."""

    def target(suffix: str, write: Callable[[Any], bytes]) -> Target:
        def read_file(data: bytes, folder: Path) -> None:
            path = folder / f"data{suffix}"
            path.write_bytes(data)
            read(path)

        return Target(f"{name} {suffix}", files(documents, write), read_file, share)

    def odd(suffix: str, inputs: st.SearchStrategy[bytes]) -> Target:
        return Target(f"{name} odd {suffix}", inputs, target(suffix, as_json).read, share)

    made = [target(suffix, write) for suffix, write in _FORMATS]
    return [*made, odd(".parquet", odd_parquet(documents)), odd(".json", repeating(documents))]


@functools.cache
def _saved() -> Path:
    """A directory that `datasets` saved, from which a damaged one is made."""
    import datasets

    folder = Path(tempfile.mkdtemp()) / "saved"
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(_PAIRS[0]).save_to_disk(folder)
    return folder


def _read_saved(name: str, data: bytes, folder: Path) -> None:
    shutil.copytree(_saved(), folder / "saved")
    (folder / "saved" / name).write_bytes(data)
    _read_pairs(folder / "saved")


def _read_checkpoint(name: str, data: bytes, folder: Path) -> None:
    from mallowspo.training.checkpoints import newest_whole, seal

    checkpoint = folder / "checkpoint-3"
    checkpoint.mkdir()
    for file in ("model.safetensors.index.json", "trainer_state.json", "scheduler.pt", "config.json"):
        (checkpoint / file).write_bytes(_CHECKPOINT.get(file, b"{}"))
    if name.startswith("mallowspo"):
        seal(checkpoint)
    (checkpoint / name).write_bytes(data)
    newest_whole(folder)


_CHECKPOINT = {
    "model.safetensors.index.json": b'{"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "x"}}',
    "trainer_state.json": b'{"global_step": 3, "log_history": []}',
    "mallowspo-files.json": b'{"format": 1, "files": {"config.json": {"bytes": 2, "xxh3_128": "0f"}, "x": {}}}',
}


def _read_json_option(data: bytes, folder: Path) -> None:
    from mallowspo.cli.evaluate import _json_object

    _json_object("judge_parameters", data.decode("utf-8", "replace"))


def _read_adapter(data: bytes, folder: Path) -> None:
    from mallowspo.scoring.model_checks import refuse_adapter_folder

    (folder / "adapter_config.json").write_bytes(data)
    refuse_adapter_folder(str(folder), "model", "merge it")


def _read_columns(path: Path) -> None:
    """What an evaluation takes from the columns of its prompts."""
    from mallowspo.evaluation.prompts import answer_text, load_prompts, texts_of

    prompts = load_prompts(str(path))
    for read in (
        lambda: prompts.numbers("difficulty", "difficulty_column"),
        lambda: prompts.numbers("dispersion", "dispersion_column"),
        lambda: texts_of(prompts.column("output", "model"), answer_text, "model", prompts.prompts),
    ):
        try:
            read()
        except InputError:
            continue


def _read_answers(data: bytes, folder: Path) -> None:
    from mallowspo.evaluation.generation import answers_from_file
    from mallowspo.evaluation.prompts import EvaluationPrompt

    for suffix in (".json", ".jsonl"):
        path = folder / f"answers{suffix}"
        path.write_bytes(data)
        try:
            answers_from_file(path, [EvaluationPrompt(0, "Hi"), EvaluationPrompt(1, "Ho")], option="model")
        except InputError:
            continue


def _read_index_table(data: bytes, folder: Path) -> None:
    from mallowspo.evaluation.prompts import load_prompts, read_dispersion

    prompts = folder / "prompts.jsonl"
    prompts.write_bytes(as_lines(_PROMPTS[0]))
    (folder / "dispersion.parquet").write_bytes(data)
    read_dispersion(folder / "dispersion.parquet", load_prompts(str(prompts)))


def _state() -> dict[str, Any]:
    from mallowspo.dispersion import Calibration
    from mallowspo.files import parse_json
    from mallowspo.objectives import Objective
    from mallowspo.training.state_file import STATE_FILE, TrainingState, write_state

    folder = Path(tempfile.mkdtemp())
    clip = (0.0, 10.0)
    calibration = Calibration(source="entropy", scale=2.0, automatic=True, clip=clip, per="prompt", map="neglog")
    write_state(folder, TrainingState(Objective(), 0.1, calibration, 7))
    values: dict[str, Any] = parse_json((folder / STATE_FILE).read_text())
    shutil.rmtree(folder)
    return values


def _read_state(data: bytes, folder: Path) -> None:
    from mallowspo.training.state_file import STATE_FILE, read_state

    (folder / STATE_FILE).write_bytes(data)
    read_state(folder)


@functools.cache
def _store() -> Path:
    """A whole store, from which a damaged one is made."""
    from mallowspo.scoring import StoreSettings, write_store
    from scoring.stores import TinyReference, token_rows

    folder, reference, rows = Path(tempfile.mkdtemp()) / "store", TinyReference(), token_rows(6)
    settings = StoreSettings(batch_size=4, shard_rows=4)
    write_store(folder, rows, key=reference.key(rows), score=reference.score, settings=settings, made_with={})
    return folder


def _read_store(name: str, data: bytes, folder: Path) -> None:
    from mallowspo.scoring import ReferenceStore

    store = folder / "store"
    shutil.copytree(_store(), store)
    (store / name).write_bytes(data)
    opened = ReferenceStore.open(store)
    opened.damaged()
    opened.read()


def _read_rewritten(data: bytes, folder: Path) -> None:
    """A shard that another program wrote, with its checksum put into the manifest."""
    from mallowspo.scoring import ReferenceStore
    from mallowspo.scoring.store_format import file_checksum

    store = folder / "store"
    shutil.copytree(_store(), store)
    shard = min(store.glob("shard-*.parquet"))
    shard.write_bytes(data)
    values = json.loads((store / "manifest.json").read_text())
    values["shards"][0]["sha256"] = file_checksum(shard)
    (store / "manifest.json").write_text(json.dumps(values))
    ReferenceStore.open(store).read()


def _shard_rows() -> list[Any]:
    import pyarrow.parquet as pq

    rows: list[Any] = pq.read_table(min(_store().glob("shard-*.parquet"))).to_pylist()
    return rows


def _read_log(data: bytes, folder: Path) -> None:
    from mallowspo.evaluation.json_log import JsonLog
    from mallowspo.evaluation.verdicts import states_of

    (folder / "log.jsonl").write_bytes(data)
    with JsonLog(folder / "log.jsonl") as log:
        states_of(log.records)


def _read_reply(data: bytes, folder: Path) -> None:
    from mallowspo.evaluation.judge_prompt import parse_verdict
    from mallowspo.evaluation.server_reply import Malformed, ServerError, read_reply

    try:
        text = read_reply(data).text
    except (Malformed, ServerError):
        return
    parse_verdict(text)


def _read_verdict(data: bytes, folder: Path) -> None:
    from mallowspo.evaluation.judge_prompt import parse_verdict

    assert parse_verdict(data.decode("utf-8", "replace")) in ("A", "B", "tie", "undecided")


def _read_address(data: bytes, folder: Path) -> None:
    from mallowspo.evaluation.endpoint import EndpointAddress

    EndpointAddress.parse(data.decode("utf-8", "replace"), "judge")


def _read_tables(name: str, data: bytes, folder: Path) -> None:
    from mallowspo.evaluation.length_control import read_alpaca_tables

    for other, content in _TABLES.items():
        (folder / other).write_bytes(data if other == name else content)
    read_alpaca_tables(folder)


_TABLES = {
    "instructions.csv": b"index,instruction_difficulty\n0,0.5\n1,-0.25\n2,0.0\n",
    "gamed_lengths.csv": b"index,baseline,concise,verbose\n0,10,5,20\n1,12,6,30\n2,9,4,18\n",
    "gamed_sums.json": b'{"S_tanh_len": 1.5, "S_difficulty": 0.5, "weight_per_gamed_row": 0.1}',
}


def _read_template(data: bytes, folder: Path) -> None:
    from mallowspo.evaluation.judge_prompt import read_template

    (folder / "judge.txt").write_bytes(data)
    read_template(folder / "judge.txt").fill("a", "b", "c")


def _read_options(data: bytes, folder: Path) -> None:
    from mallowspo.cli.yaml_file import read_yaml

    (folder / "recipe.yaml").write_bytes(data)
    read_yaml(folder / "recipe.yaml")


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


@functools.cache
def targets() -> tuple[Target, ...]:
    """All of them."""
    store = _store()
    manifest, rows = json.loads((store / "manifest.json").read_text()), _shard_rows()
    shards = [name for name in sorted(p.name for p in store.iterdir()) if name.endswith((".parquet", ".json"))]
    addresses = [b"http://127.0.0.1:8000/v1#m", b"https://user:key@host/v1?api_key=k#m", b"http://[::1]:80/v1#a/b"]
    return (
        *_table("pairs", _PAIRS, _read_pairs, 0.2),
        *_table("votes", _VOTES + _PAIRS, _read_votes),
        *_table("rankings", _RANKINGS + _VOTES, _read_rankings),
        *_table("prompts", _PROMPTS, _read_prompts),
        *_table("people", _SHAPES, _read_people),
        *_table("columns", _COLUMNS, _read_columns),
        *(
            Target(f"saved {p.name}", damaged([p.read_bytes()]), functools.partial(_read_saved, p.name), 0.2)
            for p in sorted(_saved().iterdir())
        ),
        *(
            Target(
                f"checkpoint {name}",
                st.one_of(damaged([whole]), files([json.loads(whole)], as_json)),
                functools.partial(_read_checkpoint, name),
            )
            for name, whole in _CHECKPOINT.items()
        ),
        Target("option of JSON", files([{"temperature": 1, "extra_body": {"x": [1]}}], as_json), _read_json_option),
        Target("adapter", files([{"base_model_name_or_path": "m", "r": 8}], as_json), _read_adapter),
        Target(
            "shard rewritten",
            st.one_of(files([rows := _shard_rows()], as_parquet), odd_parquet([rows])),
            _read_rewritten,
        ),
        Target("manifest of JSON", files([manifest], as_json), functools.partial(_read_store, "manifest.json")),
        Target("answers", st.one_of(files(_ANSWERS, as_json), files(_ANSWERS, as_lines)), _read_answers),
        Target("index table", st.one_of(files(_INDEX, as_parquet), odd_parquet(_INDEX)), _read_index_table),
        Target("training state", files([_state()], as_json), _read_state),
        *(
            Target(f"store {name}", damaged([(store / name).read_bytes()]), functools.partial(_read_store, name))
            for name in shards
        ),
        Target("verdict log", files(_LOG, as_lines), _read_log),
        Target("server's reply", files(_REPLIES, as_json), _read_reply),
        Target("verdict", st.one_of(damaged(_WORDS), st.text(max_size=80).map(lambda t: t.encode())), _read_verdict),
        Target("address", damaged(addresses), _read_address),
        *(Target(name, damaged([_TABLES[name]]), functools.partial(_read_tables, name)) for name in _TABLES),
        Target("judge template", damaged([b"Judge {prompt}: {answer_a} or {answer_b}?"]), _read_template),
        Target("recipe", files(_RECIPES, as_yaml), _read_options),
    )
