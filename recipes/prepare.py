"""Make the data of the recipes.

python recipes/prepare.py hh Anthropic/hh-rlhf output/hh
python recipes/prepare.py imdb output/gpt2-large-imdb/sft output/imdb
python recipes/prepare.py shp stanfordnlp/SHP output/ood/shp.jsonl
python recipes/prepare.py stack_exchange HuggingFaceH4/stack-exchange-preferences output/ood/stack_exchange.jsonl

A name that is no file or folder here is one of the hub.

hh: single-turn dialogues as prompt, chosen and rejected, raw text: train.jsonl, test.jsonl, and for the SFT
sft/train.jsonl with prompt and completion (the chosen reply). HH as it is published holds two whole dialogues a row.
The prompt here is all before the last reply, which a common prefix of the two texts is not where both replies begin
alike. Rows with several human turns, and rows whose two dialogues differ before the last reply, are left out and
counted.

imdb: a model's own answers to the first words of film reviews, all pairs of four answers, the one that the classifier
takes for more positive as the chosen one: train.jsonl, as token ids, so that training sees what the model wrote.

shp, stack_exchange: questions of other kinds as prompts of single-turn HH dialogues, each once, for evaluation alone.
"""

from __future__ import annotations

import argparse
import html
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mallowspo.cli.exits import exit_code_of
from mallowspo.data.sources import load_preferences
from mallowspo.errors import InputError
from mallowspo.files import write_lines
from mallowspo.studies.dialogue.data import REPLY, TURN, pair_of


def write_rows(path: Path, rows: Iterable[dict[str, Any]], left_out: str) -> None:
    """Write rows as JSON lines, and say how many."""
    sys.stdout.write(f"{path}: {write_lines(path, rows)} rows; {left_out}\n")


def hh(arguments: argparse.Namespace) -> None:
    """Write one file a split, and the first split once more for the SFT."""
    folder = Path(arguments.output)
    for split in ("train", "test"):
        rows, read = [], 0
        for row in load_preferences(arguments.source, split=split).dataset:
            read += 1
            pair = pair_of(row)
            if pair is not None and pair[0].count(TURN) == 1:
                rows.append(dict(zip(("prompt", "chosen", "rejected"), pair, strict=True)))
        left_out = f"{read - len(rows)} others left out"
        write_rows(folder / f"{split}.jsonl", rows, left_out)
        if split == "train":
            completions = ({"prompt": row["prompt"], "completion": row["chosen"]} for row in rows)
            write_rows(folder / "sft/train.jsonl", completions, left_out)


def imdb(arguments: argparse.Namespace) -> None:
    """Draw answers of the model, let the classifier compare them, write the pairs."""
    from mallowspo.studies.controllable.bench import Inputs, make_pairs, open_bench
    from mallowspo.studies.controllable.design import ControllableDesign

    design = ControllableDesign(
        model_name_or_path=arguments.source,
        dataset_name=arguments.texts,
        reward_model=arguments.classifier,
        min_prompt_tokens=2,
        prompt_tokens=8,
        response_tokens=arguments.response_tokens,
        train_prompts=arguments.prompts,
        eval_prompts=arguments.held_out,
        samples_per_prompt=4,
    )
    bench = open_bench(Inputs(design, ""), None, Path(arguments.output))
    made = make_pairs(bench, arguments.seed)
    rows = (
        {"prompt_ids": bench.prompts.train[pair.prompt], "chosen_ids": pair.chosen, "rejected_ids": pair.rejected}
        for pair in made.pairs
    )
    left_out = f"{made.equal} of {made.compared} pairs of answers left out, which are alike or equally positive"
    write_rows(Path(arguments.output) / "train.jsonl", rows, left_out)


def shp(arguments: argparse.Namespace) -> None:
    """Write Reddit's questions; the data set has a row for each pair of answers."""
    _questions(arguments, "history", "test")


def stack_exchange(arguments: argparse.Namespace) -> None:
    """Write Stack Exchange's questions, which are HTML; on the hub a stream of 22 GB that is shuffled as it comes."""
    _questions(arguments, "question", "train")


def _questions(arguments: argparse.Namespace, column: str, split: str) -> None:
    prompts: dict[str, None] = {}
    too_long = 0
    for row in _rows(arguments.source, split, arguments.seed):
        text = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", row[column])).split())
        if len(text) > arguments.characters:
            too_long += 1
        elif text:
            prompts.setdefault(f"{TURN} {text}{REPLY}")
        if len(prompts) == arguments.prompts:
            break
    if not prompts:
        raise InputError(f"{arguments.source}: no question of at most {arguments.characters} characters")
    write_rows(Path(arguments.output), ({"prompt": text} for text in prompts), f"{too_long} longer ones left out")


def _rows(source: str, split: str, seed: int) -> Iterator[dict[str, Any]]:
    if Path(source).exists():
        yield from load_preferences(source).dataset.shuffle(seed=seed)
        return
    import datasets

    try:
        stream = datasets.load_dataset(source, split=split, streaming=True)
    except (OSError, ValueError) as error:  # no such name, no network, no such split
        raise InputError(
            f"{source}: no file or folder, and the hub did not give its split {split!r} ({error})"
        ) from error
    yield from stream.shuffle(seed=seed, buffer_size=10_000)


def options() -> argparse.ArgumentParser:
    """What the command line may hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    commands = parser.add_subparsers(required=True)
    for make in (hh, imdb, shp, stack_exchange):
        command = commands.add_parser(make.__name__, help=make.__doc__)
        command.set_defaults(make=make)
        command.add_argument("source", help="the model for imdb, else a data set")
        command.add_argument("output", help="a folder for hh and imdb, else a file")
        if make is not hh:
            command.add_argument("--seed", type=int, default=0)
            command.add_argument("--prompts", type=int, default=4_000 if make is imdb else 500)
        if make in (shp, stack_exchange):
            command.add_argument("--characters", type=int, default=1_000, help="of the longest question")
    imdb_command = commands.choices["imdb"]
    imdb_command.add_argument("--texts", default="stanfordnlp/imdb")
    imdb_command.add_argument("--classifier", default="siebert/sentiment-roberta-large-english")
    imdb_command.add_argument("--response_tokens", type=int, default=64)
    imdb_command.add_argument(
        "--held_out", type=int, default=512, help="prompts that are left for `mallowspo experiment controllable`"
    )
    return parser


def main(arguments: list[str]) -> int:
    """Make one data set."""
    given = options().parse_args(arguments)
    return exit_code_of(lambda: given.make(given) or 0, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
