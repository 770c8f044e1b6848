"""A comparison in the formats of other evaluations: AlpacaEval, Arena-Hard-Auto and JudgeArena.

Each writes a folder of its own, whole or not at all, in place of one of an earlier run. What the formats are was read
from the readers of these projects: `alpaca_eval/metrics/winrate.py` of tatsu-lab/alpaca_eval 0.6.6;
`gen_answer.py`, `gen_judgment.py`, `utils/add_markdown_info.py` and `show_result.py` of lmarena/arena-hard-auto (its
version 2); `evaluate.py` and `generate_and_evaluate.py` of OpenEuroLLM/JudgeArena 0.1.0.
"""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mallowspo.evaluation.json_log import key_of
from mallowspo.evaluation.judge import AnswerPair, Judgement
from mallowspo.evaluation.style_control import StyleCounts
from mallowspo.evaluation.win_rates import both_orders
from mallowspo.files import atomic_path, passing_folder, staging_folder, write_json, write_lines, write_text
from mallowspo.redaction import without_known_secrets

__all__ = ["EXPORTS", "Comparison", "export_comparison"]


@dataclass(frozen=True)
class Comparison:
    """What was compared, and what the judge said of it."""

    pairs: Sequence[AnswerPair]
    judgement: Judgement
    model: str
    baseline: str
    judge: str
    uids: Sequence[str] | None = None  # of the prompts; None for digests of their text
    categories: Sequence[str] | None = None  # of the prompts, as Arena-Hard has them

    @property
    def preference_n(self) -> NDArray[np.float64]:
        """Preference for the model, over both orders."""
        said = self.judgement
        return both_orders(said.model_first_n, said.model_second_n) if said.both_orders else said.model_first_n

    def verdicts(self, order: int) -> list[float | None]:
        """Preference for the model with its answer first (0) or second (1); None where the judge gave none."""
        said = (self.judgement.model_first_n, self.judgement.model_second_n)[order]
        missing = self.judgement.missing_n
        return [None if missing is not None and missing[order, n] else float(y) for n, y in enumerate(said)]

    def replies(self, order: int) -> list[str]:
        """What the judge wrote; empty where it writes nothing."""
        return [both[order] for both in self.judgement.replies] or [""] * len(self.pairs)


def export_comparison(comparison: Comparison, formats: Iterable[str], folder: Path) -> None:
    """Write a comparison in some of `EXPORTS`, each into a folder of that name."""
    for name in dict.fromkeys(formats):
        final = folder / name
        staging = staging_folder(final)
        with passing_folder(staging):
            staging.mkdir(parents=True, exist_ok=True)
            EXPORTS[name](comparison, staging)
            if final.exists():
                shutil.rmtree(final)
            staging.rename(final)


# --------------------------------------------------------------------------------------------------------------------
# AlpacaEval


def _alpaca_eval(found: Comparison, folder: Path) -> None:
    """Write both models' outputs and the annotations, whose preference is 1 for the baseline and 2 for the model."""
    rows = [
        {
            "index": pair.prompt.index,
            "instruction": pair.prompt.text,
            "output_1": pair.baseline,
            "generator_1": found.baseline,
            "output_2": pair.answer,
            "generator_2": found.model,
            "annotator": found.judge,
            "preference": 1.0 + preference,
            "raw_completion": {"model_first": first, "baseline_first": second},
        }
        for pair, preference, first, second in zip(
            found.pairs, found.preference_n.tolist(), found.replies(0), found.replies(1), strict=True
        )
    ]
    write_json(folder / "annotations.json", rows)
    for name, side in (("model_outputs", "answer"), ("reference_outputs", "baseline")):
        generator = found.model if side == "answer" else found.baseline
        write_json(
            folder / f"{name}.json",
            [
                {"instruction": pair.prompt.text, "output": getattr(pair, side), "generator": generator}
                for pair in found.pairs
            ],
        )


# --------------------------------------------------------------------------------------------------------------------
# Arena-Hard-Auto

ARENA_CATEGORY = "hard_prompt"
_WORD = re.compile(r"\w+|[^\w\s]")


def _arena_hard(found: Comparison, folder: Path) -> None:
    """Write the questions, both models' answers and the judgments, as they lie in `data/BENCHMARK` of Arena-Hard."""
    uids = found.uids or [key_of(prompt=pair.prompt.text, repeat=pair.prompt.repeat) for pair in found.pairs]
    categories = found.categories or [ARENA_CATEGORY] * len(found.pairs)
    model, baseline = _file_names(found)
    write_lines(
        folder / "question.jsonl",
        (
            {"uid": uid, "category": category, "cluster": "", "prompt": pair.prompt.text}
            for uid, category, pair in zip(uids, categories, found.pairs, strict=True)
        ),
    )
    for name, side in ((model, "answer"), (baseline, "baseline")):
        rows = (
            _arena_answer(uid, name, pair.prompt.text, getattr(pair, side))
            for uid, pair in zip(uids, found.pairs, strict=True)
        )
        write_lines(folder / "model_answer" / f"{name}.jsonl", rows)
    judge = _file_name(found.judge)
    # Their first game shows the baseline's answer as A, the second the model's.
    games: list[list[dict[str, Any]]] = [
        [
            {"score": _arena_score(verdict, model_is_a=order == 0), "judgment": {"answer": reply}, "prompt": []}
            for verdict, reply in zip(found.verdicts(order), found.replies(order), strict=True)
        ]
        for order in (1, 0)
    ]
    judgments = (
        {
            "uid": uid,
            "category": category,
            "judge": judge,
            "model": model,
            "baseline": baseline,
            "games": [games[0][place], games[1][place]],
        }
        for place, (uid, category) in enumerate(zip(uids, categories, strict=True))
    )
    write_lines(folder / "model_judgment" / judge / f"{model}.jsonl", judgments)


def _arena_answer(uid: str, model: str, prompt: str, answer: str) -> dict[str, Any]:
    style = StyleCounts.of(answer)
    return {
        "uid": uid,
        "ans_id": key_of(uid=uid, model=model, answer=answer)[:22],
        "model": model,
        "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": {"answer": answer}}],
        "tstamp": 0.0,
        "metadata": {
            # Arena-Hard counts GPT-4o's tokens; only ratios between answers are read, so that words serve.
            "token_len": max(len(_WORD.findall(answer)), 1),
            "header_count": {f"h{level}": count for level, count in enumerate(style.headers, start=1)},
            "list_count": {"ordered": style.ordered, "unordered": style.unordered},
            "bold_count": {"**": style.stars, "__": style.underscores},
        },
    }


def _arena_score(verdict: float | None, *, model_is_a: bool) -> str | None:
    if verdict is None:
        return None
    if verdict == 0.5:
        return "A=B"
    return "A>B" if (verdict > 0.5) == model_is_a else "B>A"


# --------------------------------------------------------------------------------------------------------------------
# JudgeArena

_TEMPERATURE = 0.3  # with which JudgeArena turns a difference of scores into a preference
_COLUMNS = (
    *("judge_completion", "instruction", "completion_A", "completion_B", "instruction_index"),
    *("model_A", "model_B", "judge"),
)


def _judgearena(found: Comparison, folder: Path) -> None:
    """Write the answers of both models, the annotations in both orders, and the results with their preferences."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = [pair.prompt.index for pair in found.pairs]
    for name, side in (("model", "answer"), ("baseline", "baseline")):
        texts = [without_known_secrets(getattr(pair, side)) for pair in found.pairs]
        table = pa.table({"instruction_index": index, "output": texts})
        with atomic_path(folder / f"{name}.parquet") as beside:
            pq.write_table(table, str(beside))
    rows: list[Sequence[Any]] = []
    preferences: list[float | None] = []
    for order in (0, 1):
        names = (found.model, found.baseline) if order == 0 else (found.baseline, found.model)
        for pair, verdict, reply in zip(found.pairs, found.verdicts(order), found.replies(order), strict=True):
            answers = (pair.answer, pair.baseline) if order == 0 else (pair.baseline, pair.answer)
            a_wins = verdict if order == 0 or verdict is None else 1.0 - verdict
            rows.append((_scored(a_wins, reply), pair.prompt.text, *answers, pair.prompt.index, *names, found.judge))
            preferences.append(None if verdict is None else 1.0 - verdict)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(rows)
    write_text(folder / "annotations.csv", stream.getvalue())
    said = [value for value in preferences if value is not None]
    wins, ties = sum(value < 0.5 for value in said), sum(value == 0.5 for value in said)
    results = {
        "dataset": "mallowspo",
        "model_A": found.model,
        "model_B": found.baseline,
        "judge_model": found.judge,
        "num_battles": len(preferences),
        "winrate": (wins + 0.5 * ties) / len(said) if said else None,
        "num_wins": wins,
        "num_losses": len(said) - wins - ties,
        "num_ties": ties,
        "num_missing": len(preferences) - len(said),
        "preferences": preferences,  # 0 is A's win, whose answers are the model's, 1 is B's
    }
    write_json(folder / "results.json", results)


def _scored(a_wins: float | None, reply: str) -> str:
    """The judge's reply below the two scores from which JudgeArena reads the same preference again, up to rounding."""
    if a_wins is None:
        return reply
    bounded = min(max(a_wins, 1e-9), 1 - 1e-9)
    steps = min(max(math.log(bounded / (1 - bounded)) / _TEMPERATURE, -10.0), 10.0)
    ahead = 0 if a_wins == 0.5 else int(math.copysign(max(abs(round(steps)), 1), steps))
    return f"score_A: {max(ahead, 0)}\nscore_B: {max(-ahead, 0)}\n\n{reply}".rstrip()


# --------------------------------------------------------------------------------------------------------------------
# Files


def _file_name(name: str) -> str:
    """The last part of a path or an address, as a file can be called."""
    return re.sub(r"[^\w.-]+", "_", re.split(r"[/#]", name.rstrip("/"))[-1]) or "judge"


def _file_names(found: Comparison) -> tuple[str, str]:
    """What the two models' files are called: never the same."""
    model, baseline = _file_name(found.model), _file_name(found.baseline)
    return (model, baseline) if model != baseline else (f"{model}-model", f"{baseline}-baseline")


EXPORTS: Mapping[str, Callable[[Comparison, Path], None]] = MappingProxyType(
    {"alpaca_eval": _alpaca_eval, "arena_hard": _arena_hard, "judgearena": _judgearena}
)
"""Format → what writes it."""
