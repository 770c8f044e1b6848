"""The family of indexes u(x) that one pass of the reference gives: larger = more dispersed.

None of them is right everywhere. The mean entropy follows length, style and common prefixes as readily as
disagreement; the sum over the answer is robust to length but not to style; the first token knows nothing behind a
common opening. Where the responses first differ is the best place to look for the price of one pass.

Entropies come as shares of log |V|, so that an index in nats is u * log |V|.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.dispersion.entropy import ReferenceStatistics, entropy_index, mean_by_prompt, normalised_entropy
from mallowspo.dispersion.panel import PANEL_ALTERNATIVES, panel_neg_log_phi
from mallowspo.errors import InputError

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "answer_entropy",
    "divergent_token",
    "first_token",
    "mean_entropy",
    "panel",
    "prompt_index",
    "reference_margin",
    "sampled_entropy",
]

Floats = NDArray[np.float64]
Answer = TypeVar("Answer")


def mean_entropy(statistics: ReferenceStatistics) -> Floats:
    """Mean next-token entropy per token, as the authors released it (Chen et al. 2025); see `entropy_index`."""
    return entropy_index(statistics.entropy_sum_nk, statistics.length_nk, vocab_size=statistics.vocab_size)


def answer_entropy(statistics: ReferenceStatistics) -> Floats:
    """Entropies summed over each answer, as the paper's formula has it (Chen et al. 2025, arXiv 2405.14953)."""
    return _mean_over_responses(statistics.entropy_sum_nk, statistics, "entropy_sum_nk")


def first_token(statistics: ReferenceStatistics) -> Floats:
    """Entropy of the answer's first token, u in [0, 1]."""
    return _mean_over_responses(statistics.first_entropy_nk, statistics, "first_entropy_nk")


def divergent_token(statistics: ReferenceStatistics) -> Floats:
    """Entropy of the token at which the responses first differ; where they never do, the median of the others."""
    return _mean_over_responses(statistics.divergent_entropy_nk, statistics, "divergent_entropy_nk")


def reference_margin(statistics: ReferenceStatistics) -> Floats:
    """exp(-|log pi_ref(y) - log pi_ref(y')|), mean over pairs: how far apart the reference holds the responses.

    If people's choices follow phi^rank and the reference follows people, the margin is -log phi times the rank gap.
    Between long answers it is mostly wording.
    """
    # Beyond, exp(-margin) is no longer a normal number.
    return np.asarray(np.exp(-np.minimum(_mean_margin(statistics), 700.0)), np.float64)


def panel(statistics: ReferenceStatistics) -> Floats:
    """First token, divergent token and margin together: the median of what they say of -log phi; see `panel.py`."""
    unit = float(np.log(statistics.vocab_size))
    entropies = {"first": unit * first_token(statistics), "divergent": unit * divergent_token(statistics)}
    return np.exp(-panel_neg_log_phi(entropies, _mean_margin(statistics), alternatives=PANEL_ALTERNATIVES))


def _mean_margin(statistics: ReferenceStatistics) -> Floats:
    """Mean |log pi_ref(y) - log pi_ref(y')| over the pairs of each row's responses, nats."""
    logp = np.asarray(statistics.logp_nk, np.float64)
    first, second = np.triu_indices(logp.shape[1], k=1)
    return np.asarray(np.abs(logp[:, first] - logp[:, second]).mean(axis=1), np.float64)


def sampled_entropy(
    answers: Sequence[Sequence[Answer]], *, same: Callable[[Answer, Answer], bool] | None = None
) -> Floats:
    """Entropy over clusters of answers that were sampled from the reference, as a share of the largest possible.

    Whether two answers mean the same is the whole difficulty: exact match suits short answers only. An answer joins
    the first cluster whose first member it equals.

    Args:
        answers: For each prompt the S >= 2 sampled answers.
        same: Whether two answers say the same; exact match of the stripped text (or equality) where None.

    Returns:
        u in [0, 1], shape (N,): 0 where all say the same, 1 where no two do.

    Raises:
        InputError: A prompt has fewer than two answers.

    Source:
        Farquhar et al., Nature 2024 (semantic entropy), in its discrete form.

    Example:
        >>> sampled_entropy([["4", "4 ", "4", "4"], ["a", "b", "c", "d"], ["a", "a", "b", "b"]]).tolist()
        [0.0, 1.0, 0.5]
    """
    index = []
    for prompt, drawn in enumerate(answers):
        if len(drawn) < 2:
            raise InputError(f"answers: prompt {prompt:,} has {len(drawn)} of them, expected at least 2 samples")
        counts: list[int] = []
        heads: list[Answer] = []
        for answer in drawn:
            place = next((i for i, head in enumerate(heads) if (same or _equal)(head, answer)), len(heads))
            if place == len(heads):
                heads.append(answer)
                counts.append(0)
            counts[place] += 1
        share = np.array(counts) / len(drawn)
        index.append(float(-(share * np.log(share)).sum() / np.log(len(drawn))))
    return np.clip(np.array(index, np.float64), 0.0, 1.0) + 0.0


def prompt_index(estimator: str, index_n: ArrayLike, prompt_ids: Sequence[object]) -> Floats:
    """Give all rows of a prompt one index: their mean; for margins and panels the mean of -log u.

    Args:
        estimator: A name in `ESTIMATORS`.
        index_n: u of each row, shape (N,).
        prompt_ids: What identifies the prompt of each row, length N.

    Returns:
        u, shape (N,).

    Example:
        >>> prompt_index("mean_entropy", [0.2, 0.4, 0.9], ["a", "a", "b"]).round(4).tolist()
        [0.3, 0.3, 0.9]
        >>> prompt_index("reference_margin", np.exp([-1.0, -3.0, -5.0]), ["a", "a", "b"]).round(4).tolist()
        [0.1353, 0.1353, 0.0067]
    """
    if estimator in ESTIMATORS and ESTIMATORS[estimator].geometric:
        # The mean of exp(-margin) would be that of the smallest margin.
        return np.exp(mean_by_prompt(np.log(np.asarray(index_n, np.float64)), prompt_ids))
    return mean_by_prompt(index_n, prompt_ids)


def _equal(first: object, second: object) -> bool:
    if isinstance(first, str) and isinstance(second, str):
        return first.strip() == second.strip()
    return first == second


def _mean_over_responses(entropy_nk: ArrayLike | None, statistics: ReferenceStatistics, name: str) -> Floats:
    """Mean over the responses that have a value, in units of log |V|."""
    if entropy_nk is None:
        raise InputError(
            f"{name}: this pass of the reference did not keep these entropies; score the data with "
            "`mallowspo reference`, which keeps all of them, or choose another dispersion_estimator"
        )
    entropy = np.asarray(entropy_nk, np.float64) / np.log(statistics.vocab_size)
    known = np.isfinite(entropy)
    counts = known.sum(axis=1)
    if not counts.any():
        raise InputError(f"{name}: no row has a value; are all responses of each row the same?")
    index = np.where(known, entropy, 0.0).sum(axis=1) / np.maximum(counts, 1)
    index[counts == 0] = np.median(index[counts > 0])
    return np.asarray(index, np.float64)


@dataclass(frozen=True)
class Estimator:
    """An index and what is to be known of it."""

    read: Callable[[ReferenceStatistics], Floats]  # from the statistics of N rows to u >= 0, shape (N,)
    words: str  # what it is, for a reader of the report
    bounded: bool = True  # u <= 1
    # u is e to the minus an estimate of a multiple of -log phi, and no entropy: its mean is the geometric one.
    geometric: bool = False
    # u of single responses, shape (N, K), where it compares none: an interval may be told from them.
    single: Callable[[ReferenceStatistics], Floats] | None = None
    no_interval: str = ""  # why responses to one prompt tell nothing of its spread

    def __call__(self, statistics: ReferenceStatistics) -> Floats:
        """Read the index of every row."""
        return self.read(statistics)


ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {
        "mean_entropy": Estimator(
            mean_entropy,
            "The reference's mean uncertainty about the next token of the responses, as a share of the "
            "largest possible (`mean_entropy`, the paper's released code). It also rises and falls with "
            "length, style and common openings.",
            single=lambda of: normalised_entropy(of.entropy_sum_nk, of.length_nk, vocab_size=of.vocab_size),
        ),
        "answer_entropy": Estimator(
            answer_entropy,
            "The reference's uncertainty about each token, summed over the response (`answer_entropy`, the "
            "paper's formula), in units of log |V|. Robust to filler in length, not to style.",
            bounded=False,
            single=lambda of: of.entropy_sum_nk / np.log(of.vocab_size),
        ),
        "first_token": Estimator(
            first_token,
            "The reference's uncertainty about the response's first token (`first_token`). It knows nothing "
            "that comes behind a common opening.",
            no_interval="the first token's distribution is the same for every response to a prompt",
        ),
        "divergent_token": Estimator(
            divergent_token,
            "The reference's uncertainty about the token at which the responses first differ "
            "(`divergent_token`): what the pair really decides.",
        ),
        "reference_margin": Estimator(
            reference_margin,
            "e to the minus the difference of the responses' log-probabilities under the reference "
            "(`reference_margin`). Between long responses it is mostly wording.",
            geometric=True,
        ),
        "panel": Estimator(
            panel,
            "First token, divergent token and margin, each read as an estimate of −log φ; the middle one "
            "counts (`panel`): hardly two of them are misled by the same thing.",
            geometric=True,
        ),
    }
)
"""The indexes by their names in `dispersion_estimator`; a further one is one entry here."""
