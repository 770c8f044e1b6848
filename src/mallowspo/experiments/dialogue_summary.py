"""From the jobs and verdicts of the dialogue study to its findings: every number that the report shows is made here.

Suffixes: s seeds, n rows, p prompts, k the two responses of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.dispersion import Calibration, IndexMap, entropy_index
from mallowspo.evaluation.exact import terciles
from mallowspo.evaluation.length_control import length_controlled_win_rate
from mallowspo.evaluation.win_rates import check_orders
from mallowspo.experiments.dialogue_config import METHODS, DialogueConfig
from mallowspo.experiments.dialogue_data import DialogueData, PairSet
from mallowspo.experiments.dialogue_judging import Comparison, JudgedAnswers
from mallowspo.stats.bootstrap import Resamples
from mallowspo.stats.frontiers import SeedFrontier, equal_kl_differences
from mallowspo.stats.intervals import Interval, mean_interval
from mallowspo.stats.verdicts import verdict

__all__ = ["BASELINE", "QUANTITIES", "THIRDS", "summarise"]

Floats = NDArray[np.float64]
Run = dict[str, Any]

BASELINE = "dpo"
THIRDS = ("agreed", "middle", "contested")
QUANTITIES = {"accuracy": "better", "margin": "more", "log_loss": "worse", "overconfidence": "worse"}
"""What is measured on every row -> what more of it is; see `mallowspo.stats.verdicts.verdict`."""


def both_intervals(
    value_sn: ArrayLike, draws: Resamples, where_n: ArrayLike | None = None
) -> dict[str, dict[str, float]]:
    """A quantity of S policies on N rows with both sources of chance: the rows of a test set and the pairs of a seed.

    Args:
        value_sn: Shape (S, N).
        draws: Of these rows; whole dialogues are drawn, the trained policies taken as given.
        where_n: Rows that count, shape (N,); None for all.

    Returns:
        `rows` and `seeds` (which takes the test set as given), each a mapping with `mean`, `low`, `high`.

    Example:
        >>> draws = Resamples.of(["a", "b"], rng=np.random.default_rng(0))
        >>> found = both_intervals([[1.0, 0.0], [1.0, 1.0]], draws)
        >>> found["rows"]["mean"], found["seeds"]["mean"]
        (0.75, 0.75)
    """
    value = np.asarray(value_sn, dtype=np.float64)
    where = slice(None) if where_n is None else np.asarray(where_n, dtype=bool)
    return {
        "rows": asdict(draws.mean(value.mean(axis=0), where_n)),
        "seeds": asdict(mean_interval(value[:, where].mean(axis=1))),
    }


def said(found: dict[str, Any], more_is: str = "better") -> str:
    """What the two intervals of a difference allow to say together: nothing unless both leave out 0."""
    return verdict(*map(Interval.of, (found["rows"], found["seeds"])), more_is=more_is)


@dataclass(frozen=True)
class _Policies:
    """The policies of one method at one β on one test set, one per seed.

    Attributes:
        gap_sn: Log-ratio gaps, chosen − rejected, without β, shape (S, N), nats.
        logp_sn: Log-probability that the method's own model gives to people's choice, shape (S, N), nats.
        plain_sn: The same with the weight left out, log σ(β gap).
        margin_sn: β gap.
    """

    gap_sn: Floats
    logp_sn: Floats
    plain_sn: Floats
    margin_sn: Floats

    def value(self, name: str) -> Floats:
        """A quantity of `QUANTITIES` on every row, shape (S, N)."""
        correct_sn = (self.gap_sn > 0) + 0.5 * (self.gap_sn == 0)
        p_sn = np.exp(self.logp_sn)
        return {
            "accuracy": correct_sn,
            "margin": self.margin_sn,
            "log_loss": -self.logp_sn,
            "overconfidence": np.maximum(p_sn, 1 - p_sn) - correct_sn,
        }[name]


@dataclass(frozen=True)
class _Test:
    """A test set with what the reference says of it."""

    pairs: PairSet
    draws: Resamples
    logp_nk: Floats
    entropy_sum_nk: Floats
    length_nk: Floats
    index_n: Floats
    third_n: NDArray[np.int64]


def summarise(
    config: DialogueConfig, data: DialogueData, runs: Sequence[Run], judged: JudgedAnswers, prompts: int
) -> dict[str, Any]:
    """Turn jobs and verdicts into findings.

    Args:
        config: The settings.
        data: The dialogues.
        runs: Of `run_dialogue_job`, in the order of `config.jobs`.
        judged: Of `judge_everything`.
        prompts: Prompts that were judged.

    Returns:
        A tree of plain values for `results.json`: `data`, `reference`, `policies` (training and KL), `tests` (per
        test set: every method at every β, by third, differences from DPO at the same β and at equal KL, the weight's
        effect), `judge` and `win_rates`. Intervals are mappings with `mean`, `low`, `high`; `rows` and `seeds` tell
        over what.
    """
    reference, trained = runs[0], list(runs[1:])
    tests = [_test(pairs, reference) for pairs in data.tests]
    return {
        "data": {pairs.name: _account(pairs) for pairs in (data.sft, data.policy, data.judge, *data.tests)},
        "reference": {test.pairs.name: _reference(test) for test in tests},
        "policies": _policies(config, trained),
        "tests": {test.pairs.name: _findings(config, test, trained) for test in tests},
        "judge": _judge(config, judged, prompts),
        "win_rates": [_win_rate(comparison, config) for comparison in judged.comparisons],
    }


def _account(pairs: PairSet) -> dict[str, Any]:
    return {
        "source": pairs.source,
        "rows": len(pairs),
        "dialogues": len(set(pairs.groups)),
        "account": pairs.account,
        "unanimous": None if pairs.unanimous_n is None else int(pairs.unanimous_n.sum()),
    }


def _test(pairs: PairSet, reference: Run) -> _Test:
    found = {name: np.asarray(values, np.float64) for name, values in reference["tests"][pairs.name].items()}
    index_n = entropy_index(
        found["entropy_sum_nk"], found["length_nk"], vocab_size=reference["vocab_size"],
        prompt_ids=pairs.rows["prompt_id"][:],
    )  # fmt: skip
    return _Test(
        pairs,
        Resamples.of(pairs.groups, rng=np.random.default_rng(0)),
        index_n=index_n,
        third_n=terciles(index_n),
        **found,
    )


def _reference(test: _Test) -> dict[str, Any]:
    longer_n = (test.length_nk[:, 0] > test.length_nk[:, 1]) + 0.5 * (test.length_nk[:, 0] == test.length_nk[:, 1])
    likelier_n = (test.logp_nk[:, 0] > test.logp_nk[:, 1]) + 0.5 * (test.logp_nk[:, 0] == test.logp_nk[:, 1])
    return {
        "nats_per_token_chosen": float(-test.logp_nk[:, 0].sum() / test.length_nk[:, 0].sum()),
        "longer_is_chosen": asdict(test.draws.mean(longer_n)),
        "likelier_is_chosen": asdict(test.draws.mean(likelier_n)),
        "index_quantiles": np.quantile(test.index_n, [0.05, 0.5, 0.95]),
    }


def _select(runs: Sequence[Run], **wanted: object) -> list[Run]:
    return [run for run in runs if all(run[key] == value for key, value in wanted.items())]


def _policies(config: DialogueConfig, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Training and distance from the reference, means over seeds with the sampling error of each beside them."""
    rows = []
    for beta in config.betas:
        for method in config.methods:
            here = _select(runs, method=method, beta=beta)
            weights = [run["calibration"] for run in here if run["calibration"] is not None]
            rows.append(
                {
                    "method": method,
                    "beta": beta,
                    "kl": asdict(mean_interval([run["kl"]["kl"] for run in here])),
                    "kl_per_seed": [run["kl"]["kl"] for run in here],
                    "kl_standard_error_per_seed": [run["kl"]["kl_standard_error"] for run in here],
                    "kl_per_token": asdict(mean_interval([run["kl"]["kl_per_token"] for run in here])),
                    "cut": float(np.mean([run["kl"]["cut"] for run in here])),
                    "train_loss": asdict(mean_interval([run["train"]["loss"] for run in here])),
                    "steps": here[0]["train"]["steps"],
                    "pairs": [run["train"]["pairs"] for run in here],
                    "weight_std": float(np.mean([c["weight_std"] for c in weights])) if weights else None,
                    "cpu_seconds": float(np.mean([run["cpu_seconds"] for run in here])),
                }
            )
    return rows


def _of(test: _Test, runs: Sequence[Run]) -> _Policies:
    """Gaps and probabilities of the policies of `runs`, which share method and β."""
    import torch

    from mallowspo.objectives import pairwise_loss

    objective, beta = METHODS[runs[0]["method"]]["objective"], runs[0]["beta"]
    policy_snk = np.asarray([run["tests"][test.pairs.name]["logp_nk"] for run in runs], np.float64)
    ratio_snk = policy_snk - test.logp_nk
    logp_sn = []
    for run, policy_nk in zip(runs, policy_snk, strict=True):
        columns = [torch.from_numpy(np.ascontiguousarray(values)) for values in (*policy_nk.T, *test.logp_nk.T)]
        weight = None
        if run["calibration"] is not None:
            weight = torch.from_numpy(_weights(test, run["calibration"]))
        # The loss of these objectives is −log of the probability that they give to the choice.
        logp_sn.append(-pairwise_loss(*columns, objective=objective, beta=beta, weight=weight).double().numpy())
    gap_sn = ratio_snk[..., 0] - ratio_snk[..., 1]
    return _Policies(gap_sn, np.asarray(logp_sn), -np.logaddexp(0.0, -beta * gap_sn), beta * gap_sn)


def _weights(test: _Test, calibration: dict[str, Any]) -> Floats:
    """Weights of the test rows under the calibration that the run fitted on its training rows."""
    found = Calibration.from_dict(calibration)
    assert found.index_map is not None
    raw_n, _ = IndexMap.from_dict(found.index_map).raw(test.index_n)
    return np.asarray(found.weight(raw_n), np.float64)


def _findings(config: DialogueConfig, test: _Test, runs: Sequence[Run]) -> dict[str, Any]:
    policies = {
        (method, beta): _of(test, _select(runs, method=method, beta=beta))
        for method in config.methods
        for beta in config.betas
    }
    return {
        "settings": [
            {"method": method, "beta": beta} | _levels(test, found) for (method, beta), found in policies.items()
        ],
        "differences": [
            {"method": method, "beta": beta} | _differences(test, found, policies[BASELINE, beta])
            for (method, beta), found in policies.items()
            if method != BASELINE
        ],
        "equal_kl": [
            _equal_kl(config, method, policies, runs) for method in config.methods if method != BASELINE
        ] if len(config.betas) > 1 else [],
    }  # fmt: skip


def _groups(test: _Test) -> dict[str, NDArray[np.bool_] | None]:
    found: dict[str, NDArray[np.bool_] | None] = {"all": None}
    found |= {name: test.third_n == place for place, name in enumerate(THIRDS)}
    if test.pairs.unanimous_n is not None:
        found |= {"unanimous": test.pairs.unanimous_n, "split": ~test.pairs.unanimous_n}
    return found


def _levels(test: _Test, found: _Policies) -> dict[str, Any]:
    levels = {
        name: {
            group: both_intervals(found.value(name), test.draws, where) | {"count": _count(where, test)}
            for group, where in _groups(test).items()
        }
        for name in QUANTITIES
    }
    correct_n = found.value("accuracy").mean(axis=0)
    agreed, contested = test.third_n == 0, test.third_n == len(THIRDS) - 1
    weight_sn = found.logp_sn - found.plain_sn
    return levels | {
        "accuracy_agreed_minus_contested": asdict(test.draws.contrast(correct_n, agreed, contested)),
        # Above 0: the probabilities with the weight are the better ones, for the very same policy.
        "log_probability_gained_by_weight": both_intervals(weight_sn, test.draws),
        "reliability": _reliability(found),
    }


def _count(where: NDArray[np.bool_] | None, test: _Test) -> int:
    return len(test.pairs) if where is None else int(where.sum())


def _reliability(found: _Policies, bins: int = 5) -> list[dict[str, float]]:
    """Confidence against accuracy in bins of equal count, over all seeds' rows."""
    p_n = np.exp(found.logp_sn).ravel()
    confidence, correct = np.maximum(p_n, 1 - p_n), found.value("accuracy").ravel()
    parts = np.array_split(np.argsort(confidence, kind="stable"), bins)
    return [
        {"confidence": float(confidence[part].mean()), "accuracy": float(correct[part].mean()), "count": len(part)}
        for part in parts
        if len(part)
    ]


def _differences(test: _Test, found: _Policies, baseline: _Policies) -> dict[str, Any]:
    """Method − DPO at the same β, paired by row and seed."""
    rows: dict[str, Any] = {}
    for name, more_is in QUANTITIES.items():
        gap_sn = found.value(name) - baseline.value(name)
        rows[name] = {}
        for group, where in _groups(test).items():
            both = both_intervals(gap_sn, test.draws, where)
            rows[name][group] = both | {"verdict": said(both, more_is=more_is)}
    return rows


def _equal_kl(
    config: DialogueConfig, method: str, policies: dict[tuple[str, float], _Policies], runs: Sequence[Run]
) -> dict[str, Any]:
    """Accuracy − DPO's at equal KL, read along each seed's own line over β."""

    def frontiers(name: str) -> list[list[SeedFrontier]]:
        lines = []
        for place, seed in enumerate(config.seeds):
            here = [_select(runs, method=name, beta=beta, seed=seed)[0] for beta in config.betas]
            accuracy_b = [policies[name, beta].value("accuracy")[place].mean() for beta in config.betas]
            lines.append([SeedFrontier([run["kl"]["kl"] for run in here], accuracy_b, accuracy_b)])
        return lines

    found = equal_kl_differences(frontiers(method), frontiers(BASELINE))
    difference = mean_interval(found.difference_s)
    shared = np.isfinite(found.difference_s)
    return {
        "method": method,
        "accuracy": asdict(difference),
        "seeds": int(shared.sum()),
        "kl_low": float(np.mean(found.low_s[shared])) if shared.any() else float("nan"),
        "kl_high": float(np.mean(found.high_s[shared])) if shared.any() else float("nan"),
    }


def _judge(config: DialogueConfig, judged: JudgedAnswers, prompts: int) -> dict[str, Any]:
    """What the judge is worth: how often it agrees with people, and how much it goes by length."""
    human, judgement = judged.human, judged.judgement
    draws = Resamples.of(human.groups, rng=np.random.default_rng(0))
    difference_n = np.asarray([len(row["chosen"].strip()) - len(row["rejected"].strip()) for row in human.rows])
    longer_n = np.where(difference_n >= 0, judged.human_n, 1.0 - judged.human_n)
    accuracy = draws.mean(judged.human_n)
    pairs = len(judgement.model_first_n)
    orders = None
    if judgement.both_orders:
        orders = asdict(check_orders(judgement.model_first_n, judgement.model_second_n))
    return {
        "name": config.judge,
        "human_pairs": len(human),
        "accuracy": asdict(accuracy),
        "shrinkage": 2 * accuracy.mean - 1,
        "prefers_longer": asdict(draws.mean(longer_n, difference_n != 0)),
        "longer_is_chosen": asdict(draws.mean(0.5 + 0.5 * np.sign(difference_n))),
        "pairs": pairs,
        "identical": judgement.identical,
        "undecided": judgement.undecided,
        "refused": judgement.refused,
        "orders": orders,
        "prompts": prompts,
    }


def _win_rate(comparison: Comparison, config: DialogueConfig) -> dict[str, Any]:
    """Points above an even match, with both intervals; prompts are the rows."""
    preference_sp = comparison.preference_sp
    draws = Resamples.of(range(preference_sp.shape[1]), rng=np.random.default_rng(0))
    found = both_intervals(preference_sp - 0.5, draws)
    control: Callable[..., Any] = length_controlled_win_rate
    length, other = comparison.length_sp.ravel(), comparison.baseline_length_sp.ravel()
    return {
        "method": comparison.method,
        "baseline": comparison.baseline,
        "temperature": comparison.temperature,
        "beta": config.shown_beta,
        "win_rate": float(preference_sp.mean()),
        "above_even": found,
        "verdict": said(found),
        "ties": float(np.mean(preference_sp == 0.5)),
        "length_controlled": control(preference_sp.ravel(), length, other, seed=0).win_rate / 100,
        "characters": float(length.mean()),
        "baseline_characters": float(other.mean()),
    }
