r"""Links: the probability that the chosen response ranks above the rejected one, given a gap.

Shapes: gap and weight (or -log phi) broadcast against each other, elementwise; nothing is reduced.
Legend: s = gap, lam = -log phi >= 0, x = lam * |s|, q = phi = exp(-lam).

The Kendall link (MallowsPO-φ, arXiv 2405.14953) is g(s) = h(s + 1) - h(s) with h(k) = k / (1 - q^k) for s > 0. Its
tail t(s) = 1 - g(s) is the mean of kappa(u) = -d/du [u / (e^u - 1)] over u in [x, x + lam]; kappa falls from 1/2 and
is convex. This form cancels nowhere, and everything here comes from it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mallowspo.errors import InputError
from mallowspo.maths.series import BERNOULLI_OVER_FACTORIAL

__all__ = ["hinge_loss", "kendall_log_prob", "sigmoid_log_prob", "squared_loss"]

# Five-point Gauss-Legendre on [0, 1]: for lam < 1 the nearest pole, 2 pi i, is far enough for an error ~ 1e-14.
_OUTER, _INNER = math.sqrt(5 + 2 * math.sqrt(10 / 7)) / 6, math.sqrt(5 - 2 * math.sqrt(10 / 7)) / 6
_NODES = (0.5 - _OUTER, 0.5 - _INNER, 0.5, 0.5 + _INNER, 0.5 + _OUTER)
_W_OUTER, _W_INNER = (322 - 13 * math.sqrt(70)) / 1800, (322 + 13 * math.sqrt(70)) / 1800
_NODE_WEIGHTS = (_W_OUTER, _W_INNER, 64 / 225, _W_INNER, _W_OUTER)

# Largest λ × half-width of the blend around a gap of 0.
_MAX_BLEND = 5.0


def sigmoid_log_prob(gap: Tensor, weight: Tensor | float) -> Tensor:
    """Log-probability under the logistic link, log σ(w Δ).

    With weight w(x) = -2 log φ(x) it is the choice probability of Spearman's-rho Mallows between neighbours in rank
    (MallowsPO-θ); with weight 1 it is Bradley-Terry, and so DPO.

    Args:
        gap: Implicit reward gap, chosen minus rejected, in nats; any shape.
        weight: Dispersion weight, >= 0, broadcast against the gap. It carries no gradient.

    Returns:
        Log-probabilities in nats, <= 0, in the broadcast shape.

    Source:
        Chen et al., MallowsPO, ICLR 2025 (arXiv 2405.14953), section 3.1.

    Example:
        >>> sigmoid_log_prob(torch.tensor([1.0]), 2.0).exp()
        tensor([0.8808])
    """
    if isinstance(weight, Tensor):
        weight = weight.detach()
    return F.logsigmoid(gap * weight)


def squared_loss(gap: Tensor, target: Tensor | float) -> Tensor:
    """Squared link as a loss, (Δ - target)².

    IPO has target 1/(2τ) and the log-ratio gap without β; MallowsPO-IPO multiplies that gap by w(x) first. The
    authors' second form is the gap βwδ with target 1/2.

    Args:
        gap: Weighted gap, any shape.
        target: The value that the gap is drawn to, in the gap's unit.

    Returns:
        Losses, >= 0, in the broadcast shape.

    Source:
        Azar et al. 2023 (arXiv 2310.12036), equation 17; with the weight, MallowsPO, arXiv 2405.14953.

    Example:
        >>> squared_loss(torch.tensor([3.0]), 0.5)
        tensor([6.2500])
    """
    return (gap - target).square()


def hinge_loss(gap: Tensor) -> Tensor:
    """Hinge link as a loss, max(0, 1 - Δ).

    Args:
        gap: Weighted gap (βwδ), any shape.

    Returns:
        Losses, >= 0, in the gap's shape.

    Source:
        Zhao et al., SLiC-HF, 2023 (arXiv 2305.10425), equation 1, with margin 1.

    Example:
        >>> hinge_loss(torch.tensor([0.25, 2.0]))
        tensor([0.7500, 0.0000])
    """
    return torch.relu(1 - gap)


def kendall_log_prob(gap: Tensor, neg_log_phi: Tensor | float, smoothing: float = 0.5) -> Tensor:
    """Log-probability under the Kendall's-tau link, log g(Δ) (MallowsPO-φ).

    g(s) = [B((s+1)λ) - B(sλ)]/λ for s > 0 with λ = -log φ and B(z) = z/(1 - e^{-z}), and g(-s) = 1 - g(s). It jumps
    at 0, so for |s| < smoothing it is replaced by the odd cubic ½ + a₁s + a₃s³ that meets its value and slope at
    ±smoothing. g is concave on s > 0, hence its rise from ½ to g(ε) is at least ε g'(ε), and the cubic is monotone
    and inside (0, 1) for every λ >= 0 and every ε > 0. Where g(-ε) is next to nothing, however, the logarithm of the
    cubic falls off a cliff just inside -ε (its slope passes 10⁴ at λ = 20, ε = 1): the blend is narrowed to
    ε = 5/λ, which keeps the slope below 4.2 λ for any smoothing >= 0.1. At the default this begins at φ = e^-10.

    With smoothing 0 the function is exact: g(0) = ½ between the two limits, and the gradient reported at exactly 0 is
    that of the line through ½ with the one-sided slope g'(0+). λ = 0 (φ = 1) gives ½ everywhere.

    Half-precision gaps are computed and returned in float32. Inside, float64 is used where the device has it.

    Args:
        gap: Implicit reward gap s, chosen minus rejected, in nats (for rankings: the rank gap); floating, any shape.
        neg_log_phi: λ >= 0, in nats, broadcast against the gap. It carries no gradient.
        smoothing: ε >= 0, in the gap's unit.

    Returns:
        Log-probabilities in nats, <= 0, in the broadcast shape.

    Raises:
        InputError: If the gap is not floating, smoothing is negative, or λ (a number or a tensor on the CPU; elsewhere
            a check would stall the device) is negative.

    Source:
        Chen et al., MallowsPO, ICLR 2025 (arXiv 2405.14953), section 3.2; the marginal is due to Busa-Fekete et
        al., ICML 2014. The blend is this library's.

    Example:
        >>> gap = torch.tensor([1.0, 3.0, -1.0], dtype=torch.float64)
        >>> kendall_log_prob(gap, math.log(2)).exp()
        tensor([0.6667, 0.8381, 0.3333], dtype=torch.float64)
    """
    if not gap.is_floating_point():
        raise InputError(f"gap: got dtype {gap.dtype}, expected a floating tensor; call .float() first")
    if not (math.isfinite(smoothing) and smoothing >= 0):
        raise InputError(f"smoothing: got {smoothing!r}, expected a finite number >= 0; 0 gives the exact link")
    out_dtype = torch.promote_types(gap.dtype, torch.float32)
    work = torch.float32 if gap.device.type == "mps" else torch.float64
    lam = torch.as_tensor(neg_log_phi, dtype=work, device=gap.device).detach()
    if lam.device.type == "cpu" and bool((lam < 0).any()):
        raise InputError(f"neg_log_phi: got {float(lam.min())!r}, expected -log phi >= 0, that is phi in (0, 1]")
    s = gap.to(work)

    # Not abs(): its gradient at 0 is 0, and training starts with every gap at exactly 0.
    size = torch.where(s < 0, -s, s)
    edge = smoothing / (smoothing * lam / _MAX_BLEND).clamp(min=1)
    inside = (size < edge) | (size == 0)
    near = torch.where(inside, size, 0)
    near_tail = _blend_tail(near, lam, edge) if smoothing > 0 else 0.5 - (0.5 - _kappa(lam)) * near
    log_tail = torch.where(inside, near_tail.log(), _log_tail(torch.where(inside, 1.0, size), lam))
    # log g(-s) is the tail itself; 1 - g(s) is never formed by subtraction.
    return torch.where(s < 0, log_tail, torch.log1p(-log_tail.exp())).to(out_dtype)


def _blend_tail(size: Tensor, lam: Tensor, edge: Tensor) -> Tensor:
    """Return 1 - g on 0 <= size < edge: the cubic, written so that nothing cancels where it is tiny."""
    tail = _log_tail(edge, lam).exp()
    rise = edge * (_kappa(edge * lam) - _kappa((edge + 1) * lam))  # ε g'(ε)
    bend = (0.5 - tail - rise).clamp(min=0)  # >= 0 by concavity; the clamp only removes rounding
    rho = size / edge
    rest = 1 - rho
    return tail + rest * (rise + bend * rest * (2 + rho) / 2)


def _log_tail(s: Tensor, lam: Tensor) -> Tensor:
    """Return log(1 - g(s)) for s >= 0: -x plus the logarithm of the mean of kappa(x + v lam) e^x over v in [0, 1]."""
    x = s * lam
    narrow = lam < 1
    # Both branches of a `where` send gradients back, so each gets arguments at which it is finite.
    lam_narrow = torch.where(narrow, lam, 0.5)
    lam_wide = torch.where(narrow, 1.0, lam)
    mean = torch.zeros_like(x)
    for node, node_weight in zip(_NODES, _NODE_WEIGHTS, strict=True):
        shift = node * lam_narrow
        mean = mean + node_weight * torch.exp(-shift) * _scaled_kappa(x + shift)
    # The same integral in closed form; its subtraction is harmless once lam is of order 1.
    closed = (_rate(x) - torch.exp(-lam_wide) * _rate(x + lam_wide)) / lam_wide
    return torch.where(narrow, mean, closed).log() - x


def _kappa(u: Tensor) -> Tensor:
    """Return kappa(u) = -d/du [u / (e^u - 1)] for u >= 0: 1/2 at 0, ~ u e^-u far out."""
    return torch.exp(-u) * _scaled_kappa(u)


def _scaled_kappa(u: Tensor) -> Tensor:
    """Return e^u kappa(u) = (u - 1 + e^-u) / (1 - e^-u)^2 for u >= 0, by series below 1."""
    near = u < 1
    u_near = torch.where(near, u, 0.5)
    u_far = torch.where(near, 1.5, u)
    square = u_near * u_near
    odd = torch.zeros_like(u_near)
    for j in range(len(BERNOULLI_OVER_FACTORIAL), 0, -1):
        odd = odd * square + 2 * j * BERNOULLI_OVER_FACTORIAL[j - 1]
    below = torch.exp(u_near) * (0.5 - u_near * odd)
    above = (u_far - 1 + torch.exp(-u_far)) / torch.expm1(-u_far).square()
    return torch.where(near, below, above)


def _rate(z: Tensor) -> Tensor:
    """Return B(z) = z / (1 - e^-z) for z >= 0, by series below 1."""
    near = z < 1
    z_near = torch.where(near, z, 0.5)
    z_far = torch.where(near, 1.5, z)
    square = z_near * z_near
    even = torch.zeros_like(z_near)
    for coefficient in reversed(BERNOULLI_OVER_FACTORIAL):
        even = (even + coefficient) * square
    return torch.where(near, 1 + z_near / 2 + even, -z_far / torch.expm1(-z_far))
