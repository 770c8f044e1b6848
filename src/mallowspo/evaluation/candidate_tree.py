"""Exact probabilities of enumerated answers, and KL over whole sequences, for any causal language model.

The K candidate answers of a prompt form a tree of prefixes. One forward pass over prompt + candidate rows gives the
next-token distribution at every node of the tree, and with it

- log π(y | x) of every whole candidate, its end-of-sequence token included;
- the mass outside the candidates, 1 − Σ_k π(y_k | x): all the probability that leaves the tree;
- by the chain rule, the part of the sequence-level KL that arises on the tree:
  KL(π ‖ π_ref) = Σ_prefix π(prefix) · KL(π(· | prefix) ‖ π_ref(· | prefix)).

What is left of the KL arises after an answer has left the tree. It is never negative, is weighted by the outside
mass, and is estimated by rolling answers out from the points of exit.

Suffixes: p prompts, k candidates, r = p·k rows, t positions, n nodes of all trees together, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mallowspo.errors import InputError

__all__ = [
    "CandidateScores",
    "CandidateTree",
    "SequenceKL",
    "build_candidate_tree",
    "score_candidates",
    "sequence_kl",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class CandidateTree:
    """The candidates of P prompts as rows for a model and as a forest of prefixes.

    Attributes:
        ids_rt: Prompt + candidate, padded on the right, shape (P·K, T).
        lengths_r: Tokens of each row, shape (P·K,).
        prompts: P.
        candidates: K.
        prompt_n: Which prompt each node belongs to; nodes of one prompt are neighbours, parents before children.
        row_n: A row that passes through the node.
        position_n: The position in that row whose logits predict the node's next token.
        parent_n: The node before, −1 at the root.
        token_n: The token that leads from the parent to the node, −1 at the root.
        leaf_node_r: The node that predicts the last token of each row's candidate.
        leaf_token_r: That last token.
        continues: Per node, the tokens that stay on the tree or complete a candidate.
    """

    ids_rt: torch.Tensor
    lengths_r: torch.Tensor
    prompts: int
    candidates: int
    prompt_n: Ints
    row_n: Ints
    position_n: Ints
    parent_n: Ints
    token_n: Ints
    leaf_node_r: Ints
    leaf_token_r: Ints
    continues: tuple[frozenset[int], ...]


@dataclass(frozen=True)
class CandidateScores:
    """What a model says on a candidate tree.

    Attributes:
        logp_pk: Log-probability of each whole candidate, nats, shape (P, K), float64.
        reach_n: Log-probability of reaching each node, nats, shape (N,).
        next_logp_nv: Log-probabilities of the next token at each node, shape (N, V).
    """

    logp_pk: Floats
    reach_n: Floats
    next_logp_nv: Floats


@dataclass(frozen=True)
class SequenceKL:
    """KL(policy ‖ reference) over whole sequences, in nats.

    Attributes:
        tree_p: The part that arises on the tree of candidates, exact, shape (P,). A lower bound of the whole.
        remainder_p: Estimate of the part that arises after leaving the tree, shape (P,).
        standard_error: Standard error of the mean of `remainder_p` over the prompts; 0 where nothing was rolled out.
        cut_share: Share of the rolled-out answers that were cut before they ended; what follows is not counted.
    """

    tree_p: Floats
    remainder_p: Floats
    standard_error: float
    cut_share: float

    @property
    def total_p(self) -> Floats:
        """Both parts together, shape (P,)."""
        return self.tree_p + self.remainder_p


def build_candidate_tree(
    prompt_ids: Sequence[Sequence[int]], candidate_ids: Sequence[Sequence[Sequence[int]]], *, pad_id: int = 0
) -> CandidateTree:
    """Lay prompts and candidates out for scoring; build it once and score any number of models on it.

    Args:
        prompt_ids: Token ids of P prompts, each at least one token.
        candidate_ids: For each prompt the ids of its K candidates, each ending in the end-of-sequence token.
        pad_id: Token to pad with; its value has no influence.

    Returns:
        The tree.

    Raises:
        InputError: Numbers of candidates differ, something is empty, or one candidate is the beginning of another
            (then "the model gave that answer" would not be one event).

    Example:
        >>> tree = build_candidate_tree([[1, 5]], [[[7, 2], [7, 8, 2]]])
        >>> tree.token_n.tolist(), tree.parent_n.tolist()  # root, then "7", then "7 8"
        ([-1, 7, 8], [-1, 0, 1])
    """
    _check(prompt_ids, candidate_ids)
    candidates = len(candidate_ids[0])
    rows = [
        (*prompt, *answer) for prompt, answers in zip(prompt_ids, candidate_ids, strict=True) for answer in answers
    ]
    lengths_r = torch.tensor([len(row) for row in rows])
    ids_rt = torch.full((len(rows), int(lengths_r.max())), pad_id, dtype=torch.long)
    for r, row in enumerate(rows):
        ids_rt[r, : len(row)] = torch.tensor(row)
    nodes: list[tuple[int, int, int, int, int]] = []  # prompt, row, position, parent, token
    continues: list[set[int]] = []
    leaves: list[tuple[int, int]] = []
    for p, (prompt, answers) in enumerate(zip(prompt_ids, candidate_ids, strict=True)):
        known: dict[tuple[int, ...], int] = {}
        for k, answer in enumerate(answers):
            parent = -1
            for depth in range(len(answer)):
                prefix = tuple(answer[:depth])
                if prefix not in known:
                    known[prefix] = len(nodes)
                    token = prefix[-1] if prefix else -1
                    nodes.append((p, p * candidates + k, len(prompt) + depth - 1, parent, token))
                    continues.append(set())
                parent = known[prefix]
                continues[parent].add(int(answer[depth]))
            leaves.append((parent, int(answer[-1])))
    prompt_n, row_n, position_n, parent_n, token_n = np.asarray(nodes, dtype=np.int64).T
    leaf_node_r, leaf_token_r = np.asarray(leaves, dtype=np.int64).T
    return CandidateTree(
        ids_rt=ids_rt,
        lengths_r=lengths_r,
        prompts=len(prompt_ids),
        candidates=candidates,
        prompt_n=prompt_n,
        row_n=row_n,
        position_n=position_n,
        parent_n=parent_n,
        token_n=token_n,
        leaf_node_r=leaf_node_r,
        leaf_token_r=leaf_token_r,
        continues=tuple(frozenset(tokens) for tokens in continues),
    )


def _check(prompt_ids: Sequence[Sequence[int]], candidate_ids: Sequence[Sequence[Sequence[int]]]) -> None:
    if not prompt_ids or len(prompt_ids) != len(candidate_ids):
        raise InputError(
            f"build_candidate_tree: got {len(prompt_ids)} prompts and {len(candidate_ids)} sets of candidates; "
            f"give one set per prompt, for at least one prompt"
        )
    for p, (prompt, answers) in enumerate(zip(prompt_ids, candidate_ids, strict=True)):
        if not prompt or not answers or len(answers) != len(candidate_ids[0]) or not all(map(len, answers)):
            raise InputError(
                f"build_candidate_tree: prompt {p} has {len(prompt)} tokens and {len(answers)} candidates; every "
                f"prompt needs at least one token and {len(candidate_ids[0])} candidates of at least one token"
            )
        ordered = sorted(tuple(answer) for answer in answers)
        for first, second in zip(ordered, ordered[1:], strict=False):
            if second[: len(first)] == first:
                raise InputError(
                    f"build_candidate_tree: prompt {p}: candidate {list(first)} is the beginning of "
                    f"{list(second)}; end every candidate in the end-of-sequence token and give each only once"
                )


@torch.no_grad()
def score_candidates(model: Any, tree: CandidateTree, *, batch_size: int = 256) -> CandidateScores:
    """Score every candidate of a tree exactly.

    Args:
        model: A causal language model of transformers; it is run in eval mode and left as it was.
        tree: The candidates.
        batch_size: Rows of one forward pass; it changes memory, not the result.

    Returns:
        The scores.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    order = np.argsort(tree.row_n, kind="stable")
    parts: list[torch.Tensor] = []
    try:
        for start in range(0, len(tree.ids_rt), batch_size):
            stop = min(start + batch_size, len(tree.ids_rt))
            here = order[(tree.row_n[order] >= start) & (tree.row_n[order] < stop)]
            logits_btv = _logits(model, tree.ids_rt[start:stop], tree.lengths_r[start:stop], device)
            rows, positions = torch.as_tensor(tree.row_n[here] - start), torch.as_tensor(tree.position_n[here])
            parts.append(logits_btv[rows.to(device), positions.to(device)].double().log_softmax(-1).cpu())
    finally:
        model.train(was_training)
    next_logp_nv = np.empty((len(order), parts[0].shape[-1]))
    next_logp_nv[order] = torch.cat(parts).numpy()
    reach_n = np.zeros(len(order))
    for node, (parent, token) in enumerate(zip(tree.parent_n, tree.token_n, strict=True)):
        if parent >= 0:
            reach_n[node] = reach_n[parent] + next_logp_nv[parent, token]
    logp_r = reach_n[tree.leaf_node_r] + next_logp_nv[tree.leaf_node_r, tree.leaf_token_r]
    return CandidateScores(logp_r.reshape(tree.prompts, tree.candidates), reach_n, next_logp_nv)


def _logits(model: Any, ids_bt: torch.Tensor, lengths_b: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Logits of right-padded rows; the mask keeps padding out even where attention is not causal throughout."""
    mask_bt = torch.arange(ids_bt.shape[1]) < lengths_b[:, None]
    output = model(input_ids=ids_bt.to(device), attention_mask=mask_bt.long().to(device), use_cache=False)
    logits: torch.Tensor = output.logits
    return logits


def sequence_kl(
    policy: Any,
    reference: Any,
    tree: CandidateTree,
    policy_scores: CandidateScores,
    reference_scores: CandidateScores,
    *,
    exits_per_prompt: int = 8,
    max_new_tokens: int = 16,
    end_id: int,
    seed: int = 0,
) -> SequenceKL:
    """KL(policy ‖ reference) over whole answers: exact on the tree, estimated beyond it.

    On the tree the chain rule needs no sampling. Beyond it, points of exit are drawn in proportion to their mass under
    the policy and rolled out under the policy; the KL of the next-token distributions along the way, averaged over a
    prompt's exits and multiplied by its outside mass, is an unbiased estimate of the rest (up to the cut).

    Args:
        policy: The model whose answers count.
        reference: The model that it is compared with.
        tree: The candidates.
        policy_scores: `score_candidates(policy, tree)`.
        reference_scores: `score_candidates(reference, tree)`.
        exits_per_prompt: Answers rolled out per prompt on average, more where more mass is outside, at least two; 0
            leaves the remainder at 0.
        max_new_tokens: Tokens after which a rolled-out answer is cut.
        end_id: The end-of-sequence token.
        seed: Seed of the draws.

    Returns:
        The KL, in nats.
    """
    gap_nv = policy_scores.next_logp_nv - reference_scores.next_logp_nv
    kl_n = np.einsum("nv,nv->n", np.exp(policy_scores.next_logp_nv), gap_nv)
    weighted_n = np.exp(policy_scores.reach_n) * kl_n
    tree_p = np.bincount(tree.prompt_n, weighted_n, minlength=tree.prompts).astype(np.float64)
    if exits_per_prompt < 1:
        return SequenceKL(tree_p, np.zeros(tree.prompts), 0.0, 0.0)
    rng = np.random.default_rng(seed)
    rows, prompt_e, outside_p = _draw_exits(tree, policy_scores, exits_per_prompt, rng)
    starts = [len(row) for row in rows]
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    ended = _roll_out(policy, rows, end_id, max_new_tokens, generator)
    kl_e = _kl_along(policy, reference, rows, starts, end_id)
    count_p = np.bincount(prompt_e, minlength=tree.prompts)
    mean_p = np.bincount(prompt_e, kl_e, minlength=tree.prompts) / count_p
    # Prompts are independent strata: the variances of their means add up.
    square_p = np.bincount(prompt_e, (kl_e - mean_p[prompt_e]) ** 2, minlength=tree.prompts)
    variance_p = outside_p**2 * square_p / (count_p - 1) / count_p
    error = float(np.sqrt(variance_p.sum()) / tree.prompts)
    return SequenceKL(tree_p, outside_p * mean_p, error, 1.0 - float(np.mean(ended)))


def _draw_exits(
    tree: CandidateTree, scores: CandidateScores, exits_per_prompt: int, rng: np.random.Generator
) -> tuple[list[list[int]], Ints, Floats]:
    """Draw points where an answer leaves the tree.

    Returns:
        Rows of ids up to and including the leaving token, the prompt of each, and each prompt's outside mass.
    """
    mass_nv = np.exp(scores.reach_n[:, None] + scores.next_logp_nv)
    for node, tokens in enumerate(tree.continues):
        mass_nv[node, list(tokens)] = 0.0
    outside_p = np.bincount(tree.prompt_n, mass_nv.sum(axis=1), minlength=tree.prompts).astype(np.float64)
    # The error of the mean is smallest when prompts are drawn from in proportion to what leaves them. Two draws at
    # least, for a variance.
    share_p = outside_p / max(outside_p.sum(), np.finfo(np.float64).tiny)
    count_p = np.maximum(2, np.rint(exits_per_prompt * tree.prompts * share_p)).astype(np.int64)
    vocabulary = mass_nv.shape[1]
    bounds = np.searchsorted(tree.prompt_n, np.arange(tree.prompts + 1))
    rows: list[list[int]] = []
    for p in range(tree.prompts):
        mass = mass_nv[bounds[p] : bounds[p + 1]].ravel()
        # A model that cannot leave the tree has no exits; whatever is drawn then counts nothing.
        shares = mass / mass.sum() if mass.sum() > 0 else None
        for exit_ in rng.choice(mass.size, size=count_p[p], p=shares):
            node, token = bounds[p] + exit_ // vocabulary, exit_ % vocabulary
            known = tree.ids_rt[tree.row_n[node], : tree.position_n[node] + 1].tolist()
            rows.append([*known, int(token)])
    return rows, np.repeat(np.arange(tree.prompts), count_p), outside_p


def _padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths_b = torch.tensor([len(row) for row in rows])
    ids_bt = torch.zeros((len(rows), int(lengths_b.max())), dtype=torch.long)
    for b, row in enumerate(rows):
        ids_bt[b, : len(row)] = torch.tensor(row)
    return ids_bt, lengths_b


@torch.no_grad()
def _roll_out(
    policy: Any, rows: list[list[int]], end_id: int, max_new_tokens: int, generator: torch.Generator
) -> list[bool]:
    """Continue each row in place under the policy until it ends or is cut; return which ended."""
    device = next(policy.parameters()).device
    for _ in range(max_new_tokens):
        active = [b for b, row in enumerate(rows) if row[-1] != end_id]
        if not active:
            break
        ids_bt, lengths_b = _padded([rows[b] for b in active])
        logits_btv = _logits(policy, ids_bt, lengths_b, device)
        last_bv = logits_btv[torch.arange(len(active)), lengths_b.to(device) - 1].double().softmax(-1).cpu()
        drawn = torch.multinomial(last_bv, 1, generator=generator)[:, 0].tolist()
        for b, token in zip(active, drawn, strict=True):
            rows[b].append(token)
    return [row[-1] == end_id for row in rows]


@torch.no_grad()
def _kl_along(policy: Any, reference: Any, rows: list[list[int]], starts: list[int], end_id: int) -> Floats:
    """Sum of the next-token KL after each prefix of a row from `starts` on, where the row goes on, nats."""
    device = next(policy.parameters()).device
    ids_bt, lengths_b = _padded(rows)
    policy_btv = _logits(policy, ids_bt, lengths_b, device).double().log_softmax(-1)
    reference_btv = _logits(reference, ids_bt, lengths_b, device).double().log_softmax(-1).to(device)
    kl_bt = (policy_btv.exp() * (policy_btv - reference_btv)).sum(-1).cpu()
    position_t = torch.arange(ids_bt.shape[1])
    # The logits at position i give the distribution of token i + 1; a row that has ended has none after its end.
    # A row that was cut has its last distribution counted too: the prefix was reached, only the next token was not.
    goes_on_b = torch.tensor([row[-1] != end_id for row in rows])
    stop_b = lengths_b - 1 + goes_on_b.long()
    counted_bt = (position_t >= torch.tensor(starts)[:, None] - 1) & (position_t < stop_b[:, None])
    return np.asarray((kl_bt * counted_bt).sum(1).numpy(), dtype=np.float64)
