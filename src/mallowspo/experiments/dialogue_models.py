"""The two models that the study makes before any policy: a reference that knows dialogue, and a judge.

Each is trained once and lies in the study's folder with a note of what it was made from; a run that finds the note
unchanged takes it as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mallowspo.errors import InputError, reason_of
from mallowspo.evaluation.json_log import key_of
from mallowspo.evaluation.local_model import inference_device, load_causal_model, load_tokenizer, model_stamp
from mallowspo.experiments.dialogue_config import DialogueConfig, DialogueSetup
from mallowspo.experiments.dialogue_data import PairSet
from mallowspo.files import parse_json, write_json

__all__ = ["make_judge", "make_reference", "study_tokenizer"]

_NOTE = "made_from.json"

OnStep = Callable[[int, int], None]


def study_tokenizer(setup: DialogueSetup) -> Any:
    """The base model's tokenizer, with a padding token where it has none."""
    tokenizer = load_tokenizer(
        setup.model_name_or_path, option="model_name_or_path", trust_remote_code=setup.trust_remote_code
    )
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _is_made(folder: Path, key: str) -> bool:
    try:
        return bool(parse_json((folder / _NOTE).read_text(encoding="utf-8"))["key"] == key)
    except (OSError, ValueError, KeyError):
        return False


def _save(model: Any, tokenizer: Any, folder: Path, key: str) -> None:
    # The note goes last: a folder that a kill left half written has none.
    (folder / _NOTE).unlink(missing_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / _NOTE, {"key": key})


def make_reference(setup: DialogueSetup, sft: PairSet, tokenizer: Any, on_step: OnStep) -> str:
    """Fine-tune the base model on chosen responses, and save it.

    Args:
        setup: Base model, steps and rate.
        sft: Whose chosen responses.
        tokenizer: The base model's.
        on_step: Called with steps done and steps in all.

    Returns:
        The key of what it was made from.
    """
    key = key_of(
        base=model_stamp(setup.model_name_or_path), rows=sft.key, steps=setup.sft_steps, batch=setup.batch_size,
        rate=setup.sft_learning_rate, seed=setup.data_seed,
    )  # fmt: skip
    on_step(0, setup.sft_steps)
    if not _is_made(setup.reference_dir, key):
        model = load_causal_model(
            setup.model_name_or_path,
            option="model_name_or_path",
            dtype="float32",
            use_cpu=setup.use_cpu,
            trust_remote_code=setup.trust_remote_code,
        )
        _fit(
            model,
            len(sft),
            lambda places: _response_loss(model, [_row(sft, place) for place in places]),
            steps=setup.sft_steps,
            batch_size=setup.batch_size,
            learning_rate=setup.sft_learning_rate,
            seed=setup.data_seed,
            on_step=on_step,
        )
        _save(model, tokenizer, setup.reference_dir, key)
    on_step(setup.sft_steps, setup.sft_steps)
    return key


def _row(pairs: PairSet, place: int) -> tuple[list[int], list[int]]:
    row = pairs.rows[int(place)]
    return row["prompt_ids"], row["chosen_ids"]


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


def make_judge(config: DialogueConfig, judge: PairSet, on_step: OnStep) -> Path:
    """Train a reward model on the part of the data that no policy saw (Bradley-Terry, one score an answer).

    It reads what `mallowspo.evaluation` will show it: the prompt with the stripped answer, without an end token.

    Args:
        config: Base model, steps and rate.
        judge: The judge's part.
        on_step: Called with steps done and steps in all.

    Returns:
        Its folder, a Hugging Face sequence classifier with one output.

    Raises:
        InputError: The base model has no classifier in transformers.
    """
    setup, base = config.setup, config.judge_base or config.setup.model_name_or_path
    key = key_of(
        base=model_stamp(base), rows=judge.key, steps=config.judge_steps, batch=setup.batch_size,
        rate=config.judge_learning_rate, seed=setup.data_seed,
    )  # fmt: skip
    on_step(0, config.judge_steps)
    if not _is_made(setup.judge_dir, key):
        tokenizer = load_tokenizer(base, option="judge_base", trust_remote_code=setup.trust_remote_code)
        model = _classifier(base, tokenizer, setup)
        texts = [(row["prompt"], row["chosen"], row["rejected"]) for row in judge.rows]
        ids = [[tokenizer(prompt + text.strip())["input_ids"] for text in both] for prompt, *both in texts]
        _fit(
            model,
            len(ids),
            lambda places: _preference_loss(model, [ids[int(place)] for place in places]),
            steps=config.judge_steps,
            batch_size=setup.batch_size,
            learning_rate=config.judge_learning_rate,
            seed=setup.data_seed,
            on_step=on_step,
        )
        _save(model, tokenizer, setup.judge_dir, key)
    on_step(config.judge_steps, config.judge_steps)
    return setup.judge_dir


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
    model: Any,
    rows: int,
    loss_of: Callable[[np.ndarray], Any],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    on_step: OnStep,
) -> None:
    """AdamW with a warm-up over a tenth of the steps, then half a cosine down to 0; gradients clipped at norm 1."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    warmup = max(1, steps // 10)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    batches = _batches(rows, min(batch_size, rows), seed)
    model.train()
    for step in range(steps):
        loss_of(next(batches)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        on_step(step + 1, steps)
    model.eval()
