"""The two models that the study makes before any policy: a reference that knows dialogue, and a judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mallowspo.errors import InputError, reason_of
from mallowspo.evaluation.json_log import key_of
from mallowspo.evaluation.local_model import inference_device, load_causal_model, load_tokenizer
from mallowspo.files import plain, write_json
from mallowspo.studies.dialogue.data import read_parts, study_tokenizer
from mallowspo.studies.dialogue.design import DialogueSetup
from mallowspo.studies.policies import one_thread, quiet_libraries
from mallowspo.studies.study import Results, say

__all__ = [
    "JUDGE", "REFERENCE", "Basis", "JudgeJob", "Place", "ReferenceJob", "load_model", "make_judge", "make_reference",
    "note_of", "open_place", "renew",
]  # fmt: skip

REFERENCE, JUDGE = "reference", "judge"
"""Where the two models lie in the study's folder, as Hugging Face checkpoints."""


@dataclass(frozen=True)
class Basis:
    """What all jobs of a stage depend on: the settings, and by `key` the models and rows that these name."""

    setup: DialogueSetup
    key: str


@dataclass(frozen=True)
class Place:
    """Where a job works: on what, in which folder, and the base model's tokenizer."""

    basis: Basis
    folder: Path
    tokenizer: Any


def open_place(basis: Basis, job: Any, folder: Path) -> Place:
    """The bench of all stages; the data is read once in a process, see `mallowspo.studies.dialogue.data`."""
    return Place(basis, folder, study_tokenizer(basis.setup))


def note_of(model: Path, basis: Basis, job: Any) -> Path:
    """The file that says of a saved model which job made it: another run may have left one in its place."""
    return model / f"made_by_{key_of(basis=plain(asdict(basis)), job=plain(asdict(job)))}.json"


def renew(model: Path) -> None:
    """Take away what says of a saved model which job made it, before another one writes into its folder."""
    for note in model.glob("made_by_*.json"):
        note.unlink()


@dataclass(frozen=True, kw_only=True)
class ReferenceJob:
    """The SFT of the base model."""

    steps: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class JudgeJob:
    """The training of the held-out judge; `base` is the model that it starts from."""

    base: str
    steps: int
    batch_size: int
    learning_rate: float


def load_model(folder: Path | str, setup: DialogueSetup, *, option: str) -> Any:
    """A language model in float32."""
    return load_causal_model(
        str(folder), option=option, dtype="float32", use_cpu=setup.use_cpu, trust_remote_code=setup.trust_remote_code
    )


def _save(model: Any, tokenizer: Any, note: Path) -> Results:
    renew(note.parent)
    model.save_pretrained(note.parent)
    tokenizer.save_pretrained(note.parent)
    write_json(note, {})
    return {"key": note.stem}


def make_reference(place: Place, job: ReferenceJob) -> Results:
    """Fine-tune the base model on the chosen responses of its part of the data, and save it."""
    setup, (sft, _, _) = place.basis.setup, read_parts(place.basis.setup)
    with quiet_libraries(), one_thread():
        model = load_model(setup.model_name_or_path, setup, option="model_name_or_path")
        rows = [(row["prompt_ids"], row["chosen_ids"]) for row in sft.rows]
        _fit("SFT", model, len(rows), lambda at: _response_loss(model, [rows[int(n)] for n in at]), setup, job)
        return _save(model, place.tokenizer, note_of(place.folder / REFERENCE, place.basis, job))


def _padded(rows: Sequence[Sequence[int]], device: Any, pad_id: int = 0) -> tuple[Any, Any]:
    """Rows as ids and mask, padded on the right: what stands after a token cannot change it."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask


def _response_loss(model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> Any:
    """Mean negative log-probability of the responses' tokens, their ends included, nats a token."""
    ids, mask = _padded([[*prompt, *response] for prompt, response in rows], model.device)
    labels = ids.masked_fill(mask == 0, -100)
    for row, (prompt, _) in enumerate(rows):
        labels[row, : len(prompt)] = -100
    return model(input_ids=ids, attention_mask=mask, labels=labels).loss


def make_judge(place: Place, job: JudgeJob) -> Results:
    """Train a reward model on the part of the data that no policy saw (Bradley-Terry, one score an answer)."""
    setup, (_, _, judge) = place.basis.setup, read_parts(place.basis.setup)
    with quiet_libraries(), one_thread():
        tokenizer = load_tokenizer(job.base, option="judge_base", trust_remote_code=setup.trust_remote_code)
        model = _classifier(job.base, tokenizer, setup)
        texts = [(row["prompt"], row["chosen"], row["rejected"]) for row in judge.rows]
        ids = [[tokenizer(prompt + text.strip())["input_ids"] for text in both] for prompt, *both in texts]
        _fit(
            "Training the judge", model, len(ids), lambda at: _preference_loss(model, [ids[int(n)] for n in at]),
            setup, job,
        )  # fmt: skip
        return _save(model, tokenizer, note_of(place.folder / JUDGE, place.basis, job))


def _classifier(base: str, tokenizer: Any, setup: DialogueSetup) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setup.data_seed)  # of the new head
        try:
            model: Any = AutoModelForSequenceClassification.from_pretrained(
                base, num_labels=1, dtype="float32", trust_remote_code=setup.trust_remote_code
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"judge_base: {base} cannot be loaded as a sequence classifier ({reason_of(error)}); name "
                "another judge_base, or another judge"
            ) from error
    # The classifier finds the last token by this value; an end token never stands inside a text that it is shown.
    model.config.pad_token_id = (
        tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    )
    return model.to(inference_device(setup.use_cpu))


def _preference_loss(model: Any, pairs: Sequence[Sequence[list[int]]]) -> Any:
    """−log σ(reward of the chosen − reward of the rejected), mean over pairs."""
    import torch

    rows = [pair[side] for side in (0, 1) for pair in pairs]
    ids, mask = _padded(rows, model.device, model.config.pad_token_id)
    chosen, rejected = model(input_ids=ids, attention_mask=mask).logits[:, 0].chunk(2)
    return -torch.nn.functional.logsigmoid(chosen - rejected).mean()


def _batches(rows: int, size: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng([seed, 3])
    while True:
        order = rng.permutation(rows)
        yield from (order[start : start + size] for start in range(0, rows - size + 1, size))


def _fit(
    title: str,
    model: Any,
    rows: int,
    loss_of: Callable[[np.ndarray], Any],
    setup: DialogueSetup,
    job: ReferenceJob | JudgeJob,
) -> None:
    """AdamW with a warm-up over a tenth of the steps, then half a cosine down to 0; gradients clipped at norm 1."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=job.learning_rate, weight_decay=0.0)
    warmup = max(1, job.steps // 10)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, job.steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    batches = _batches(rows, min(job.batch_size, rows), setup.data_seed)
    model.train()
    for step in range(job.steps):
        loss_of(next(batches)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        say(title, step + 1, job.steps)
    model.eval()
