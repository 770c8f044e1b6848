"""The corpus with one row a prompt: the prompt once, behind it all of its answers, none of which sees another.

    row        <bos> ask cooks : 3 + 4 = | seven <eos> | twenty one <eos> | ...
    position     0    1    2   3 4 5 6 7 |   8     9   |   8     9    10  | ...

A row has a third of the tokens that the same answers have with a prompt each, and gives the same loss.

Suffixes: s forms, p prompts, k candidates, t positions of a row, m answer tokens of a row, b rows of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

__all__ = ["PackedCorpus"]

Answers = Sequence[Sequence[Sequence[Sequence[int]]]]


class PackedCorpus:
    """Rows of all prompts, once for each way of writing the answers."""

    def __init__(
        self,
        prompt_ids: Sequence[Sequence[int]],
        form_ids: Answers,
        share_pk: NDArray[np.float64],
        *,
        pad: int,
        seed: int,
    ) -> None:
        """Lay the rows out."""
        forms = max(len(texts) for candidates in form_ids for texts in candidates)
        layers = [
            [
                _row(prompt, [texts[(s + k) % len(texts)] for k, texts in enumerate(candidates)], share_k)
                for prompt, candidates, share_k in zip(prompt_ids, form_ids, share_pk.tolist(), strict=True)
            ]
            for s in range(forms)
        ]
        flat = [row for layer in layers for row in layer]
        size, targets = (max(len(row[name]) for row in flat) for name in ("ids", "target"))

        def stack(name: str, length: int, fill: float, dtype: torch.dtype) -> torch.Tensor:
            padded = [[[*row[name], *[fill] * (length - len(row[name]))] for row in layer] for layer in layers]
            return torch.tensor(padded, dtype=dtype)

        self._ids_spt, self._position_spt = stack("ids", size, pad, torch.long), stack("position", size, 0, torch.long)
        self._part_spt = stack("part", size, -1, torch.long)
        self._from_spm, self._target_spm = (
            stack("from", targets, 0, torch.long),
            stack("target", targets, 0, torch.long),
        )
        self._weight_spm = stack("weight", targets, 0.0, torch.float32)
        self._forms_p = np.array([max(len(texts) for texts in candidates) for candidates in form_ids])
        self._draws = np.random.default_rng([seed, 1])

    def loss(self, model: Any, rows: torch.Tensor) -> torch.Tensor:
        """Mean over some prompts of the cross-entropy of their answers, each weighted by its share.

        The form is drawn anew for each prompt at each call; its answers are in forms that follow one another, so that
        all forms come up.
        """
        count_b = self._forms_p[rows.numpy()]
        drawn = (torch.as_tensor((self._draws.random(len(count_b)) * count_b).astype(np.int64)), rows)
        part_bt = self._part_spt[drawn]
        used = int((part_bt >= 0).sum(dim=1).max())
        part_bt = part_bt[:, :used]
        earlier = torch.ones(used, used, dtype=torch.bool).tril()
        own = part_bt[:, :, None] == part_bt[:, None, :]
        seen_btt = earlier & (own | (part_bt[:, None, :] == 0))
        mask = torch.zeros(seen_btt.shape).masked_fill(~seen_btt, torch.finfo(torch.float32).min)[:, None]
        logits_btv = model(
            input_ids=self._ids_spt[drawn][:, :used],
            position_ids=self._position_spt[drawn][:, :used],
            attention_mask=mask,
            use_cache=False,
        ).logits
        logits_bmv = logits_btv[torch.arange(len(rows))[:, None], self._from_spm[drawn]]
        loss_bm = cross_entropy(logits_bmv.transpose(1, 2), self._target_spm[drawn], reduction="none")
        return (loss_bm * self._weight_spm[drawn]).sum() / len(rows)


def _row(prompt: Sequence[int], answers: Sequence[Sequence[int]], share_k: Sequence[float]) -> dict[str, list[Any]]:
    """Lay one row out; part 0 is the prompt, k + 1 the answer k."""
    row: dict[str, list[Any]] = {
        "ids": list(prompt),
        "position": list(range(len(prompt))),
        "part": [0] * len(prompt),
        "from": [],
        "target": [],
        "weight": [],
    }
    for k, (answer, share) in enumerate(zip(answers, share_k, strict=True)):
        start = len(row["ids"])
        row["ids"] += answer
        row["position"] += range(len(prompt), len(prompt) + len(answer))
        row["part"] += [k + 1] * len(answer)
        # What the first token of an answer is drawn from stands at the prompt's end.
        row["from"] += [len(prompt) - 1, *range(start, start + len(answer) - 1)]
        row["target"] += answer
        row["weight"] += [share] * len(answer)
    return row
