r"""The best that any policy can reach: the reference tilted by the reward.

Among all policies with a given mean KL from the reference, the mean reward is largest for
$\pi_\eta(y \mid x) \propto \pi_{\mathrm{ref}}(y \mid x)\, e^{\eta r(x, y)}$, with one $\eta$ for all prompts. With n
responses of the reference per prompt, both its reward and its KL are weighted means over these, so that nothing needs
to be trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mallowspo.errors import InputError

__all__ = ["TiltedReference", "tilted_reference"]

Floats = NDArray[np.float64]

FEWEST = 10.0  # responses, effective number: below it the estimate leans on a handful of lucky draws


@dataclass(frozen=True)
class TiltedReference:
    """The trade-off, one entry per tilt."""

    kl: Floats  # mean KL over prompts, nats, ascending; the first is 0
    reward: Floats  # mean reward there


def tilted_reference(reward_ps: ArrayLike, *, points: int = 60) -> TiltedReference:
    """Estimate the trade-off from rewards of the reference's responses."""
    reward = np.asarray(reward_ps, dtype=np.float64)
    if reward.ndim != 2 or reward.shape[1] < 2 or not np.isfinite(reward).all():
        raise InputError(f"tilted_reference: got shape {reward.shape}, expected (P, S) finite rewards with S >= 2")
    samples = reward.shape[1]
    spread = float(reward.std()) or 1.0
    fewest = min(FEWEST, samples / 2)
    kl, mean = [], []
    for tilt in np.concatenate([[0.0], np.geomspace(0.03, 30.0, points - 1) / spread]):
        weight_ps = np.exp(tilt * (reward - reward.max(axis=1, keepdims=True)))
        weight_ps /= weight_ps.sum(axis=1, keepdims=True)
        if float((1.0 / (weight_ps**2).sum(axis=1)).mean()) < fewest:
            break
        logs = np.log(np.where(weight_ps > 0, weight_ps, 1.0) * samples)
        kl.append(float((weight_ps * logs).sum(axis=1).mean()))
        mean.append(float((weight_ps * reward).sum(axis=1).mean()))
    return TiltedReference(np.asarray(kl), np.asarray(mean))
