"""From the jobs and verdicts of the dialogue study to its findings: every number that the report shows is made here.

Suffixes: s seeds, n rows, p prompts, k the two responses of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.dispersion import Calibration, IndexMap, entropy_index
from mallowspo.evaluation.exact import terciles
from mallowspo.evaluation.length_control import length_controlled_win_rate
from mallowspo.evaluation.win_rates import both_orders
from mallowspo.stats.bootstrap import Resamples
from mallowspo.stats.intervals import Interval
from mallowspo.stats.verdicts import verdict
from mallowspo.studies.dialogue.bench import sides, texts_of
from mallowspo.studies.dialogue.data import PairSet, prompts_that_fit, read_dialogues
from mallowspo.studies.dialogue.design import REFERENCE, DialogueSettings
from mallowspo.studies.policies import BASELINE, METHODS, THIRDS, Run, compare_at_equal_kl, mean_of, select_runs
from mallowspo.studies.study import Done, Results

__all__ = ["QUANTITIES", "both_intervals", "summarise"]

Floats = NDArray[np.float64]

QUANTITIES = {"accuracy": "better", "margin": "more", "log_loss": "worse", "overconfidence": "worse"}
"""What is measured on every row -> what more of it is; see `mallowspo.stats.verdicts.verdict`."""


def both_intervals(
    value_sn: ArrayLike, draws: Resamples, where_n: ArrayLike | None = None
) -> dict[str, dict[str, float]]:
    """Mean of S policies on N rows, with intervals over `rows` (whole dialogues are drawn) and over `seeds`."""
    value = np.asarray(value_sn, dtype=np.float64)
    where = slice(None) if where_n is None else np.asarray(where_n, dtype=bool)
    return {
        "rows": asdict(draws.mean(value.mean(axis=0), where_n)),
        "seeds": mean_of(value[:, where].mean(axis=1)),
    }


def said(found: dict[str, Any], more_is: str = "better") -> str:
    """What the two intervals of a difference allow to say together: nothing unless both leave out 0."""
    return verdict(*map(Interval.of, (found["rows"], found["seeds"])), more_is=more_is)


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


def summarise(settings: DialogueSettings, done: Done) -> Results:
    """Turn jobs and verdicts into findings."""
    data = read_dialogues(settings.setup)
    reference, trained = done["policies"][0], done["policies"][1:]
    tests = [_test(pairs, reference) for pairs in data.tests]
    prompts = [text for text, _ in prompts_that_fit(settings.setup, settings.judged_prompts)]
    (judged,) = done["verdicts"]
    first = np.asarray(judged["first"])
    preference = first if judged["second"] is None else both_orders(first, np.asarray(judged["second"]))
    return {
        "data": {pairs.name: _account(pairs) for pairs in (data.sft, data.policy, data.judge, *data.tests)},
        "reference": {test.pairs.name: _reference(test) for test in tests},
        "policies": _policies(settings, trained),
        "tests": {test.pairs.name: _findings(settings, test, trained) for test in tests},
        "judge": _judge(settings, judged, preference, data.tests[0], len(prompts)),
        "win_rates": _win_rates(settings, done, preference, len(prompts)),
        "examples": _examples(settings, done, prompts),
        "cpu_seconds": sum(run["cpu_seconds"] for run in done["policies"]),
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


def _policies(settings: DialogueSettings, runs: Sequence[Run]) -> list[Results]:
    """Training and distance from the reference, means over seeds with the sampling error of each beside them."""
    rows = []
    for beta in settings.betas:
        for method in settings.methods:
            here = select_runs(runs, method=method, beta=beta)
            weights = [run["calibration"] for run in here if run["calibration"] is not None]
            rows.append(
                {
                    "method": method,
                    "beta": beta,
                    "kl": mean_of([run["kl"]["kl"] for run in here]),
                    "kl_per_seed": [run["kl"]["kl"] for run in here],
                    "kl_standard_error_per_seed": [run["kl"]["kl_standard_error"] for run in here],
                    "kl_per_token": mean_of([run["kl"]["kl_per_token"] for run in here]),
                    "cut": float(np.mean([run["kl"]["cut"] for run in here])),
                    "train_loss": mean_of([run["train"]["loss"] for run in here]),
                    "steps": here[0]["train"]["steps"],
                    "pairs": [run["train"]["pairs"] for run in here],
                    "weight_std": float(np.mean([c["weight_std"] for c in weights])) if weights else None,
                    "cpu_seconds": float(np.mean([run["cpu_seconds"] for run in here])),
                }
            )
    return rows


def _of(test: _Test, runs: Sequence[Run]) -> dict[str, Floats]:
    """`QUANTITIES` and what the weight gains in log-probability; policies that share method and β, shape (S, N)."""
    import torch

    from mallowspo.objectives import pairwise_loss

    objective, beta = METHODS[runs[0]["method"]].objective, runs[0]["beta"]
    policy_snk = np.asarray([run["tests"][test.pairs.name]["logp_nk"] for run in runs], np.float64)
    ratio_snk = policy_snk - test.logp_nk
    losses = []
    for run, policy_nk in zip(runs, policy_snk, strict=True):
        columns = [torch.from_numpy(np.ascontiguousarray(values)) for values in (*policy_nk.T, *test.logp_nk.T)]
        weight = None
        if run["calibration"] is not None:
            weight = torch.from_numpy(_weights(test, run["calibration"]))
        # The loss of these objectives is −log of the probability that they give to the choice.
        losses.append(pairwise_loss(*columns, objective=objective, beta=beta, weight=weight).double().numpy())
    gap_sn, loss_sn = ratio_snk[..., 0] - ratio_snk[..., 1], np.asarray(losses)
    correct_sn, p_sn = (gap_sn > 0) + 0.5 * (gap_sn == 0), np.exp(-loss_sn)
    return {
        "accuracy": correct_sn,
        "margin": beta * gap_sn,
        "log_loss": loss_sn,
        "overconfidence": np.maximum(p_sn, 1 - p_sn) - correct_sn,
        "gained": np.logaddexp(0.0, -beta * gap_sn) - loss_sn,  # against log σ(β gap), for the very same policy
    }


def _weights(test: _Test, calibration: dict[str, Any]) -> Floats:
    """Weights of the test rows under the calibration that the run fitted on its training rows."""
    found = Calibration.from_dict(calibration)
    assert found.index_map is not None
    raw_n, _ = IndexMap.from_dict(found.index_map).raw(test.index_n)
    return np.asarray(found.weight(raw_n), np.float64)


def _findings(settings: DialogueSettings, test: _Test, runs: Sequence[Run]) -> dict[str, Any]:
    policies = {
        (method, beta): _of(test, select_runs(runs, method=method, beta=beta))
        for method in settings.methods
        for beta in settings.betas
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
        "equal_kl": _equal_kl(settings, policies, runs) if len(settings.betas) > 1 else [],
    }


def _groups(test: _Test) -> dict[str, NDArray[np.bool_] | None]:
    found: dict[str, NDArray[np.bool_] | None] = {"all": None}
    found |= {name: test.third_n == place for place, name in enumerate(THIRDS)}
    if test.pairs.unanimous_n is not None:
        found |= {"unanimous": test.pairs.unanimous_n, "split": ~test.pairs.unanimous_n}
    return found


def _levels(test: _Test, found: dict[str, Floats]) -> dict[str, Any]:
    groups = _groups(test)
    levels = {
        name: {
            group: both_intervals(found[name], test.draws, where)
            | {"count": len(test.pairs) if where is None else int(where.sum())}
            for group, where in groups.items()
        }
        for name in QUANTITIES
    }
    correct_n = found["accuracy"].mean(axis=0)
    agreed, contested = (test.third_n == place for place in (0, len(THIRDS) - 1))
    return levels | {
        "accuracy_agreed_minus_contested": asdict(test.draws.contrast(correct_n, agreed, contested)),
        "log_probability_gained_by_weight": both_intervals(found["gained"], test.draws),
        "reliability": _reliability(found),
    }


def _reliability(found: dict[str, Floats], bins: int = 5) -> list[dict[str, float]]:
    """Confidence against accuracy in bins of equal count, over all seeds' rows."""
    p_n = np.exp(-found["log_loss"]).ravel()
    confidence, correct = np.maximum(p_n, 1 - p_n), found["accuracy"].ravel()
    parts = np.array_split(np.argsort(confidence, kind="stable"), bins)
    return [
        {"confidence": float(confidence[part].mean()), "accuracy": float(correct[part].mean()), "count": len(part)}
        for part in parts
        if len(part)
    ]


def _differences(test: _Test, found: dict[str, Floats], baseline: dict[str, Floats]) -> dict[str, Any]:
    """Method − DPO at the same β, paired by row and seed."""
    rows: dict[str, Any] = {}
    for name, more_is in QUANTITIES.items():
        rows[name] = {}
        for group, where in _groups(test).items():
            both = both_intervals(found[name] - baseline[name], test.draws, where)
            rows[name][group] = both | {"verdict": said(both, more_is=more_is)}
    return rows


def _equal_kl(
    settings: DialogueSettings, policies: dict[tuple[str, float], dict[str, Floats]], runs: Sequence[Run]
) -> list[Results]:
    """Accuracy − DPO's at equal KL, read along each seed's own line over β."""
    measured = [
        run | {"kl": run["kl"]["kl"], "accuracy": policies[run["method"], run["beta"]]["accuracy"][place].mean()}
        for place, seed in enumerate(settings.seeds)
        for run in map(dict, select_runs(runs, seed=seed))
    ]
    quantities = {"accuracy": ("accuracy", "better")}
    return [
        {
            "accuracy": row["difference"],
            "seeds": int(np.isfinite(row["per_seed"]).sum()),
            **{key: row[key] for key in ("method", "kl_low", "kl_high", "verdict")},
        }
        for row in compare_at_equal_kl(settings.grid, measured, quantities)
    ]


def _judge(settings: DialogueSettings, judged: Run, preference: Floats, human: PairSet, prompts: int) -> Results:
    """What the judge is worth: how often it agrees with people, and how much it goes by length."""
    preference_n = preference[-len(human) :]  # for what people chose
    draws = Resamples.of(human.groups, rng=np.random.default_rng(0))
    difference_n = np.asarray([len(row["chosen"].strip()) - len(row["rejected"].strip()) for row in human.rows])
    longer_n = np.where(difference_n >= 0, preference_n, 1.0 - preference_n)
    accuracy = draws.mean(preference_n)
    return {
        "name": settings.judge,
        "human_pairs": len(human),
        "accuracy": asdict(accuracy),
        "shrinkage": 2 * accuracy.mean - 1,
        "prefers_longer": asdict(draws.mean(longer_n, difference_n != 0)),
        "longer_is_chosen": asdict(draws.mean(0.5 + 0.5 * np.sign(difference_n))),
        "pairs": len(preference),
        **{key: judged[key] for key in ("identical", "undecided", "refused", "orders")},
        "prompts": prompts,
    }


def _win_rates(settings: DialogueSettings, done: Done, preference: Floats, prompts: int) -> list[Results]:
    """Every method against every baseline: points above an even match with both intervals; prompts are the rows."""
    texts, compared = texts_of(settings, done), sides(settings)
    shape = (len(compared), len(settings.seeds), prompts)
    preference_csp = preference[: int(np.prod(shape))].reshape(shape)
    rows = []
    for (method, baseline, temperature), preference_sp in zip(compared, preference_csp, strict=True):
        draws = Resamples.of(range(prompts), rng=np.random.default_rng(0))
        found = both_intervals(preference_sp - 0.5, draws)
        length, other = (
            np.asarray([len(text) for seed in settings.seeds for text in texts[who, seed, temperature]], np.float64)
            for who in (method, baseline)
        )
        controlled = length_controlled_win_rate(preference_sp.ravel(), length, other, seed=0)
        rows.append(
            {
                "method": method,
                "baseline": baseline,
                "temperature": temperature,
                "beta": settings.shown_beta,
                "win_rate": float(preference_sp.mean()),
                "above_even": found,
                "verdict": said(found),
                "ties": float(np.mean(preference_sp == 0.5)),
                "length_controlled": controlled.win_rate / 100,
                "characters": float(length.mean()),
                "baseline_characters": float(other.mean()),
            }
        )
    return rows


def _examples(settings: DialogueSettings, done: Done, prompts: Sequence[str]) -> list[Results]:
    """The first prompts with the first seed's answers, so that nobody has picked them."""
    texts, at = texts_of(settings, done), (settings.seeds[0], settings.temperatures[0])
    who = (REFERENCE.method, *settings.methods)
    return [
        {"prompt": prompt.strip(), "answers": {name: texts[name, *at][place] for name in who}}
        for place, prompt in enumerate(prompts[:3])
    ]
