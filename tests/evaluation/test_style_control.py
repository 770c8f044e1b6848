"""The style-controlled win rate against simulated judges of known taste, scipy's fit, and counts made by hand."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from mallowspo.errors import InputError
from mallowspo.evaluation.length_control import L1_STRENGTH
from mallowspo.evaluation.style_control import FEATURES, StyleCounts, style_controlled_win_rate

WORTH = 0.4  # log-odds that the model wins where the style is the same
TRUTH = 100 * expit(WORTH)  # 59.9%


def answers(rng, n, style):
    """Answers of random length with so much Markdown on average."""
    texts = []
    for _ in range(n):
        lines = ["word " * rng.integers(3, 20) for _ in range(rng.integers(2, 12))]
        lines += [f"## head {i}" for i in range(rng.poisson(style))]
        lines += [f"- item {i}" for i in range(rng.poisson(2 * style))] + [
            f"{i}. item" for i in range(rng.poisson(style))
        ]
        lines += ["so **bold** it is"] * rng.poisson(2 * style)
        texts.append("\n".join(lines))
    return texts


def features(ours, theirs):
    """Arena-Hard-Auto's features, one pair after the other."""
    rows = []
    for a, b in zip(ours, theirs, strict=True):
        one, other = StyleCounts.of(a).values, StyleCounts.of(b).values
        row = [(one[0] - other[0]) / (one[0] + other[0])]
        for k in (1, 2, 3):
            p, q = one[k] / one[0], other[k] / other[0]
            row.append((p - q) / (p + q + 1))
        rows.append(row)
    z = np.array(rows)
    return z / z.std(axis=0, ddof=1)


def judged(rng, z, taste):
    return (rng.random(len(z)) < expit(WORTH + z @ np.asarray(taste))).astype(float)


def test_what_a_judge_likes_in_style_is_found_and_taken_out(rng):
    ours, theirs = answers(rng, 3000, 2.0), answers(rng, 3000, 1.0)
    z, taste = features(ours, theirs), [0.8, 0.0, 0.6, 0.9]
    found = style_controlled_win_rate(judged(rng, z, taste), ours, theirs, resamples=30)
    raw = 100 * expit(WORTH + z @ np.asarray(taste)).mean()
    assert raw - TRUTH > 5 * found.standard_error  # there is something to take out
    assert found.win_rate == pytest.approx(TRUTH, abs=3 * found.standard_error)
    # The standard error of a coefficient is about 2/√n = 0.04 in a logistic fit of features of variance 1.
    assert [found.coefficients[name] for name in FEATURES] == pytest.approx(taste, abs=0.25)
    assert found.model["bold"] > found.baseline["bold"] and found.model["headers"] > found.baseline["headers"]


def test_style_drawn_by_lot_leaves_the_raw_win_rate(rng):
    """A judge who does not look at style: over 40 data sets neither rate is off."""
    errors = []
    for _ in range(40):
        ours, theirs = answers(rng, 200, 1.0), answers(rng, 200, 1.0)
        y = judged(rng, np.zeros((200, 4)), np.zeros(4))
        errors.append(style_controlled_win_rate(y, ours, theirs, resamples=0).win_rate - TRUTH)
    # One win rate of 200 prompts has a standard error of 3.5 points, the mean of 40 one of 0.55.
    assert abs(np.mean(errors)) < 4 * 0.55 and np.std(errors) == pytest.approx(3.5, abs=1.5)


def test_the_minimum_is_scipys(rng):
    ours, theirs = answers(rng, 300, 2.0), answers(rng, 300, 1.0)
    x = np.column_stack([features(ours, theirs), np.ones(300)])
    y = judged(rng, x[:, :4], [0.5, 0.3, 0.0, -0.4])

    def loss(w):  # split in positive and negative parts: smooth where |w| is not
        score = x @ (w[:5] - w[5:])
        return np.sum(np.logaddexp(0, score) - y * score) + w.sum() / L1_STRENGTH

    best = minimize(loss, np.zeros(10), bounds=[(0, None)] * 10, options={"ftol": 1e-15, "gtol": 1e-9}).x
    found = style_controlled_win_rate(y, ours, theirs, resamples=0)
    assert list(found.coefficients.values()) == pytest.approx(best[:5] - best[5:], abs=1e-3)


def test_markdown_is_counted_outside_code():
    text = "# A\n### B\n#no header\n1. x\n 22. y\n* z\n+ z\n- z\n**b** __b__ *i*\n```\n# C\n- c **c**\n```\n"
    found = StyleCounts.of(text)
    assert found == StyleCounts(len(text), (1, 0, 1, 0, 0, 0), ordered=2, unordered=3, stars=1, underscores=1)
    assert found.values == (len(text), 2, 5, 2)
    assert StyleCounts.of("```\n# never closed").headers[0] == 0


def test_equal_styles_leave_the_shrunken_raw_rate():
    found = style_controlled_win_rate([1.0] * 30 + [0.0] * 10, ["same"] * 40, ["size"] * 40, resamples=0)
    # One constant c under the penalty: n(σ(c) − ȳ) + 1/C = 0.
    assert found.win_rate == pytest.approx(100 * (0.75 - 1 / L1_STRENGTH / 40), abs=1e-8)
    assert list(found.coefficients) == ["constant"]
    assert 0 < style_controlled_win_rate([1.0, 0.0], ["", "**b**"], ["", ""], resamples=0).win_rate < 100


@pytest.mark.parametrize(
    ("y", "ours"), [([1.0], ["a"]), ([1.0, 2.0], ["a", "b"]), ([1.0, 0.0], ["a"])], ids=["few", "range", "shape"]
)
def test_what_cannot_be_fitted_is_refused(y, ours):
    with pytest.raises(InputError, match="style_controlled_win_rate"):
        style_controlled_win_rate(y, ours, ["c"] * len(ours))
