"""Weights that an engine has spread over processes, and each of them whole for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["is_spread", "whole"]


def is_spread(value: torch.Tensor) -> bool:
    """Whether this process holds only a part of a weight: FSDP2 or tensor parallelism, or DeepSpeed ZeRO-3."""
    return hasattr(value, "full_tensor") or hasattr(value, "ds_id")


@contextmanager
def whole(value: torch.Tensor) -> Iterator[Any]:
    """All of a weight; one that is spread is gathered, which every process must ask for, in the same order."""
    from mallowspo.compat import gathered_parameters

    with torch.no_grad(), gathered_parameters(*([value] if hasattr(value, "ds_id") else [])):
        yield value.full_tensor() if hasattr(value, "full_tensor") else value
