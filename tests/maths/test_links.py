"""Links against mpmath (the textbook formula at enough digits), the Mallows model, and their own properties."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from mallowspo.errors import InputError
from mallowspo.maths import MallowsModel
from mallowspo.maths.links import hinge_loss, kendall_log_prob, sigmoid_log_prob, squared_loss

LAMBDAS = [1e-6, 1e-5, 1e-3, 0.05, 0.7, 0.9999, 1.0, 1.0001, 3.0, 8.0, 20.0]
SIZES = [1e-4, 0.03, 0.5, 1.0, 1.7, 4.0, 25.0, 130.0, 500.0]
lambdas = st.one_of(st.floats(1e-6, 20.0), st.floats(-6, 1.301).map(lambda x: 10**x))


def textbook(gap: float, neg_log_phi: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    """log g and its derivative from g(s) = h(s+1) - h(s), h(k) = k/(1 - φ^k), with digits to spare for its tails."""
    size = abs(gap)
    with mpmath.workdps(70 + int(1.1 * (size + 1) * neg_log_phi / math.log(10))):
        q = mpmath.exp(-mpmath.mpf(neg_log_phi))

        def g(s: mpmath.mpf) -> mpmath.mpf:
            return (s + 1) / (1 - q ** (s + 1)) - s / (1 - q**s)

        value, slope = g(mpmath.mpf(size)), mpmath.diff(g, mpmath.mpf(size))
        if gap < 0:
            value = 1 - value  # and the slope of 1 - g(-s) is g'(|s|)
        return mpmath.log(value), slope / value


def blended(gap: float, neg_log_phi: float, smoothing: float) -> float:
    """Log of the cubic through 1/2 with textbook value and slope at ±smoothing, from the interpolation conditions."""
    log_value, log_slope = textbook(smoothing, neg_log_phi)
    with mpmath.workdps(60):
        value = mpmath.exp(log_value)
        eps = mpmath.mpf(smoothing)
        rows = mpmath.matrix([[eps, eps**3], [1, 3 * eps**2]])
        first, third = mpmath.lu_solve(rows, mpmath.matrix([value - mpmath.mpf(1) / 2, log_slope * value]))
        return float(mpmath.log(mpmath.mpf(1) / 2 + first * gap + third * mpmath.mpf(gap) ** 3))


def value_and_slope(
    gap: float, neg_log_phi: float, smoothing: float, dtype: torch.dtype = torch.float64
) -> tuple[float, float]:
    s = torch.tensor(gap, dtype=dtype, requires_grad=True)
    value = kendall_log_prob(s, neg_log_phi, smoothing)
    (slope,) = torch.autograd.grad(value, s)
    return value.item(), slope.item()


@pytest.mark.parametrize("neg_log_phi", LAMBDAS)
def test_kendall_value_and_gradient_against_mpmath(neg_log_phi):
    for size in SIZES:
        for gap in (size, -size):
            value, slope = value_and_slope(gap, neg_log_phi, 0.0)
            exact, exact_slope = (float(x) for x in textbook(gap, neg_log_phi))
            assert value == pytest.approx(exact, rel=1e-10, abs=1e-300), (gap, neg_log_phi)
            assert slope == pytest.approx(exact_slope, rel=1e-10, abs=1e-300), (gap, neg_log_phi)
            # Outside the blend smoothing changes nothing.
            if size >= 0.5:
                assert value_and_slope(gap, neg_log_phi, 0.5) == (value, slope)


@settings(max_examples=60)
@given(st.floats(-500, 500).filter(lambda s: abs(s) > 1e-9), lambdas)
def test_kendall_anywhere_against_mpmath(gap, neg_log_phi):
    value, slope = value_and_slope(gap, neg_log_phi, 0.0)
    exact, exact_slope = (float(x) for x in textbook(gap, neg_log_phi))
    assert value == pytest.approx(exact, rel=1e-9, abs=1e-300)
    assert slope == pytest.approx(exact_slope, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize("neg_log_phi", [1e-6, 0.01, 0.7, 5.0, 20.0])
@pytest.mark.parametrize("smoothing", [0.01, 0.5, 2.0])
def test_the_blend_against_its_interpolation_conditions(neg_log_phi, smoothing):
    smoothing = min(smoothing, 5 / neg_log_phi)  # where the documented cut takes over
    for share in (-0.9999, -0.6, -1e-3, 0.0, 0.2, 0.99):
        value, slope = value_and_slope(share * smoothing, neg_log_phi, smoothing)
        assert value == pytest.approx(blended(share * smoothing, neg_log_phi, smoothing), rel=1e-9)
        step = 1e-4 * smoothing
        ends = [blended(share * smoothing + sign * step, neg_log_phi, smoothing) for sign in (1, -1)]
        if abs(share) < 0.999:
            assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=2e-4)


@pytest.mark.parametrize(
    ("gap", "phi", "expected"),
    [
        (1, 0.5, 0.666667),
        (3, 0.5, 0.838095),
        (0.5, 0.5, 0.613270),
        (3, 0.05, 0.999650),
        (3, 0.95, 0.529888),
        (1e-9, 0.05, 0.718823),
        (1e-9, 0.3, 0.597988),
        (1e-9, 0.5, 0.557305),
        (1e-9, 0.8, 0.518580),
        (1e-9, 0.95, 0.504274),
    ],
)
def test_published_values(gap, phi, expected):
    value, _ = value_and_slope(gap, -math.log(phi), 0.0)
    assert math.exp(value) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize("phi", [0.1, 0.6, 0.99])
def test_at_whole_gaps_it_is_the_marginal_of_the_mallows_model(phi):
    marginal = MallowsModel(range(1, 7), phi).pairwise_matrix()[0, 1:]
    gap = torch.arange(1, 6, dtype=torch.float64)
    assert kendall_log_prob(gap, -math.log(phi)).exp().numpy() == pytest.approx(marginal, rel=1e-12)
    assert kendall_log_prob(-gap, -math.log(phi)).exp().numpy() == pytest.approx(1 - marginal, rel=1e-9)


def test_at_gap_one_it_is_one_over_one_plus_phi():
    lam = torch.tensor([0.0, 1e-6, 0.5, 3.0, 20.0], dtype=torch.float64)
    found = kendall_log_prob(torch.ones(5, dtype=torch.float64), lam)
    assert torch.allclose(found, -torch.log1p(torch.exp(-lam)), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("smoothing", [0.0, 1e-3, 0.1, 0.5, 1.0, 2.0])
def test_it_is_a_distribution_function(smoothing):
    """g(s) + g(-s) = 1, strictly inside (0, 1) and rising, for every λ and across both edges of the blend."""
    lam = torch.logspace(-6, math.log10(20), 60, dtype=torch.float64)[:, None]
    s = torch.cat([torch.linspace(0, 4, 401), torch.linspace(4.4, 30, 60)]).to(torch.float64)
    up, down = kendall_log_prob(s, lam, smoothing), kendall_log_prob(-s, lam, smoothing)
    # At 0 there is one value, 1/2: the sum holds trivially.
    assert torch.allclose(up.exp() + down.exp(), torch.ones(()).double(), rtol=0, atol=1e-14)
    assert (up <= 0).all() and (down <= 0).all() and torch.isfinite(down).all()
    # On the falling side the logarithm resolves every step; above, g is its mirror image.
    assert (torch.diff(down, dim=1) < 0).all()
    gap = (-s).clone().requires_grad_()
    (slope,) = torch.autograd.grad(kendall_log_prob(gap, lam, smoothing).sum(), gap)
    assert (slope > 0).all()


@pytest.mark.parametrize("smoothing", [1e-3, 0.5, 2.0])
@pytest.mark.parametrize("neg_log_phi", [1e-6, 0.3, 4.0, 20.0])
def test_the_blend_is_continuously_differentiable(smoothing, neg_log_phi):
    cut = min(smoothing, 5 / neg_log_phi)
    for edge in (smoothing, -smoothing, cut, -cut):
        inside = value_and_slope(edge * (1 - 1e-12), neg_log_phi, smoothing)
        outside = value_and_slope(edge * (1 + 1e-12), neg_log_phi, smoothing)
        assert inside == pytest.approx(outside, rel=1e-8)
    # Through 0, from both sides.
    left, right = (value_and_slope(s, neg_log_phi, smoothing) for s in (-1e-13, 1e-13))
    middle = value_and_slope(0.0, neg_log_phi, smoothing)
    assert middle[0] == pytest.approx(math.log(0.5), rel=1e-12)
    assert left == pytest.approx(middle, rel=1e-8)
    assert right == pytest.approx(middle, rel=1e-8)


@pytest.mark.parametrize("smoothing", [0.1, 0.5, 1.0, 2.0, 10.0])
def test_the_blend_has_no_cliff(smoothing):
    lam = torch.logspace(-3, math.log10(20), 40, dtype=torch.float64)[:, None]
    share = torch.linspace(-1.2, 1.2, 4001, dtype=torch.float64)
    gap = (smoothing * share / (smoothing * lam / 5).clamp(min=1)).requires_grad_()
    (slope,) = torch.autograd.grad(kendall_log_prob(gap, lam, smoothing).sum(), gap)
    assert (slope / lam).max() < 4.2  # the tail of the exact link has slope λ


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_the_gradient_at_a_gap_of_zero_pushes(smoothing):
    """Training begins with every gap at exactly 0: a zero gradient there (that of abs) would stop it for good."""
    value, slope = value_and_slope(0.0, 1.0, smoothing)
    assert value == pytest.approx(math.log(0.5), rel=1e-14)
    assert slope > 0.1
    if smoothing == 0:
        right_value, right_slope = (float(x) for x in textbook(1e-20, 1.0))
        assert slope == pytest.approx(2 * right_slope * math.exp(right_value), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("smoothing", [0.0, 0.5])
def test_finite_far_out(dtype, smoothing):
    sizes = torch.tensor([0.0, 1e-30, 1e-7, 0.5, 3.0, 500.0, 1e4], dtype=dtype)
    s = torch.cat([sizes, -sizes])[:, None].clone().requires_grad_()
    lam = torch.tensor([0.0, 1e-30, 1e-6, 0.1, 1.0, 20.0], dtype=dtype)
    value = kendall_log_prob(s, lam, smoothing)
    (slope,) = torch.autograd.grad(value.sum(), s)
    assert value.dtype == dtype
    assert torch.isfinite(value).all() and torch.isfinite(slope).all()
    # The loss of a pair that is far on the wrong side grows linearly, with slope λ.
    assert value[-1, -1].item() == pytest.approx(-2e5, rel=1e-3)
    assert value_and_slope(-1e4, 20.0, smoothing, dtype)[1] == pytest.approx(20, rel=1e-4)


def test_phi_one_knows_nothing():
    s = torch.linspace(-50, 50, 21, dtype=torch.float64, requires_grad=True)
    for smoothing in (0.0, 0.5):
        value = kendall_log_prob(s, 0.0, smoothing)
        (slope,) = torch.autograd.grad(value.sum(), s)
        assert torch.allclose(value, torch.full_like(value, math.log(0.5)), rtol=1e-14, atol=0)
        assert slope.abs().max() < 1e-15


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 2.0])
def test_gradcheck(smoothing):
    s = torch.tensor([-40.0, -3.0, -0.7, -0.3, -0.01, 0.02, 0.4, 1.0, 6.0], dtype=torch.float64, requires_grad=True)
    lam = torch.tensor([1e-3, 0.4, 0.99, 1.01, 6.0], dtype=torch.float64)[:, None]
    assert torch.autograd.gradcheck(lambda gap: kendall_log_prob(gap, lam, smoothing), (s,))
    assert torch.autograd.gradcheck(lambda gap: sigmoid_log_prob(gap, lam), (s,))


def test_no_gradient_reaches_the_dispersion():
    s, lam = torch.tensor([0.2, -1.0], requires_grad=True), torch.tensor([0.5, 2.0], requires_grad=True)
    (kendall_log_prob(s, lam) + sigmoid_log_prob(s, lam)).sum().backward()
    assert lam.grad is None
    assert (s.grad > 0).all()


@given(st.floats(-1e4, 1e4), st.floats(0, 40))
def test_sigmoid_link(gap, weight):
    s = torch.tensor(gap, dtype=torch.float64)
    peer = -binary_cross_entropy_with_logits(weight * s, torch.ones((), dtype=torch.float64))
    assert sigmoid_log_prob(s, weight).item() == pytest.approx(peer.item(), rel=1e-12, abs=1e-15)
    total = sigmoid_log_prob(s, weight).exp() + sigmoid_log_prob(-s, weight).exp()
    assert total.item() == pytest.approx(1, abs=1e-12)


def test_squared_and_hinge_by_hand():
    gap = torch.tensor([2.0, -1.0, 0.0], requires_grad=True)
    # w δ = 2 against 1/(2τ) = 5 for τ = 0.1: (2 - 5)² = 9, slope 2 (2 - 5) = -6.
    assert squared_loss(gap, 5.0).tolist() == [9.0, 36.0, 25.0]
    assert torch.autograd.grad(squared_loss(gap, 5.0).sum(), gap)[0].tolist() == [-6.0, -12.0, -10.0]
    assert hinge_loss(gap).tolist() == [0.0, 2.0, 1.0]
    assert torch.autograd.grad(hinge_loss(gap).sum(), gap)[0].tolist() == [0.0, -1.0, -1.0]


def test_shapes_and_dtypes():
    gap = torch.randn(4, 1, generator=torch.Generator().manual_seed(0))
    lam = torch.tensor([0.1, 1.0, 7.0])
    together = kendall_log_prob(gap, lam)
    assert together.shape == (4, 3)
    assert torch.equal(together[2, 1], kendall_log_prob(gap[2, 0], lam[1]))
    assert torch.equal(kendall_log_prob(gap, 1.0), kendall_log_prob(gap, torch.tensor(1.0)))
    half = kendall_log_prob(gap.to(torch.bfloat16), lam)
    assert half.dtype == torch.float32
    assert torch.equal(half, kendall_log_prob(gap.to(torch.bfloat16).float(), lam))
    assert kendall_log_prob(torch.empty(0), 1.0).shape == (0,)


def test_nan_stays_visible():
    nan = torch.tensor([float("nan"), 1.0])
    for smoothing in (0.0, 0.5):
        found = kendall_log_prob(nan, 1.0, smoothing)
        assert found.isnan().tolist() == [True, False]
    assert kendall_log_prob(torch.tensor([0.1, 1.0]), torch.tensor([float("nan"), 1.0])).isnan().tolist() == [
        True,
        False,
    ]


def test_bad_input_is_refused():
    gap = torch.zeros(2)
    with pytest.raises(InputError, match="neg_log_phi: got -1"):
        kendall_log_prob(gap, torch.tensor([1.0, -1.0]))
    for smoothing in (-0.5, float("inf"), float("nan")):
        with pytest.raises(InputError, match="smoothing"):
            kendall_log_prob(gap, 1.0, smoothing)
    with pytest.raises(InputError, match="floating"):
        kendall_log_prob(torch.zeros(2, dtype=torch.int64), 1.0)


@pytest.mark.gpu
def test_the_gpu_agrees():
    s, lam = torch.linspace(-30, 30, 121).double(), torch.logspace(-5, 1, 30).double()[:, None]
    assert torch.allclose(kendall_log_prob(s.cuda(), lam.cuda()).cpu(), kendall_log_prob(s, lam), rtol=1e-10)
