"""TRL's fused head, as `mallowspo.compat` calls it, against plain logits; as a program, under Triton's interpreter."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from packing import TRANSFORMS, assert_as_good_as, plain_head

from mallowspo import compat
from mallowspo.scoring.response_head import LogitTransform

CASES = list(itertools.product(TRANSFORMS, (True, False)))


def hold(transform: LogitTransform, bias: bool, device: str, dtype: torch.dtype = torch.float32) -> None:
    """Hold values and gradients against float64, next to plain logits in the same precision.

    Every third target is the first choice. In bfloat16 the first choice may be another where two round to one logit,
    so it is not compared there. TRL rounds product and bias one after the other: with a bias its error is larger.
    """
    generator = torch.Generator().manual_seed(1)
    shapes = [(9, 16), (2500, 16), (2500,)]  # the vocabulary is no multiple of the kernel's block of 1024
    # Logits of about one: under a softcap large ones would be equal in float32, and not in float64.
    draws = [torch.randn(shape, generator=generator, dtype=torch.float64).div(2).to(dtype) for shape in shapes]
    target = torch.randint(2500, (9,), generator=generator)
    z = draws[0].double() @ draws[1].double().T + (draws[2].double() if bias else 0)
    target[::3] = z.argmax(-1)[::3]
    target = target.to(device)
    pull = torch.linspace(-1, 2, 9, dtype=torch.float64, device=device)

    def run(kind: torch.dtype, function: Any) -> tuple[list[torch.Tensor], tuple[torch.Tensor, ...]]:
        leaves = [draw.to(device, kind).requires_grad_() for draw in draws]
        values = function((*leaves[:2], leaves[2] if bias else None))
        used = leaves if bias else leaves[:2]
        return list(values), torch.autograd.grad((values[0].double() * pull).sum(), used)

    truth, truth_grads = run(torch.float64, lambda leaves: plain_head(leaves, target, transform))
    same, same_grads = run(dtype, lambda leaves: plain_head(leaves, target, transform))
    ours, grads = run(
        dtype,
        lambda leaves: compat.triton_response_head(*leaves, target, scale=transform.scale, softcap=transform.softcap),
    )
    assert ours[0].requires_grad and not any(value.requires_grad for value in ours[1:])
    assert all(value.dtype == torch.float32 for value in ours[:3]) and ours[3].dtype == torch.bool
    if dtype == torch.float32:
        assert torch.equal(ours[3], truth[3]) and ours[3].any() and not ours[3].all()
    names = ("log-probability", "entropy", "mean logit", "hidden", "weight", "bias")
    for name, mine, theirs, exact in zip(
        names[: 3 + len(grads)], (*ours[:3], *grads), (*same[:3], *same_grads), (*truth[:3], *truth_grads), strict=True
    ):
        if dtype == torch.float32:
            assert_as_good_as(mine, theirs, exact, name)
        else:  # rounded at other places: half as much again is their spread
            errors = [(value.double() - exact).square().mean().sqrt() for value in (mine, theirs)]
            assert errors[0] <= 1.5 * errors[1] + 1e-5 * exact.abs().max(), name


if __name__ == "__main__":
    from trl.kernels import chunked_logprob

    assert compat.triton_response_head is not None and chunked_logprob._TRITON_AVAILABLE
    assert type(chunked_logprob._forward_kernel).__name__ == "InterpretedFunction"
    chunked_logprob._use_triton = lambda device: True  # it asks for CUDA; the interpreter needs none
    compat._VOCABULARY_TILE = 1500  # two tiles
    for transform, bias in CASES:  # not bfloat16: the interpreter cuts off where the hardware rounds
        hold(transform, bias, "cpu")
    print(f"{len(CASES)} cases held")
