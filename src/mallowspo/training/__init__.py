"""MallowsPOTrainer and MallowsPOConfig: TRL's DPO trainer with the dispersion index in its objective.

Both are loaded on first use: what else is in this package must not cost the import of TRL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mallowspo.training.config import MallowsPOConfig
    from mallowspo.training.trainer import MallowsPOTrainer

__all__ = ["MallowsPOConfig", "MallowsPOTrainer"]


def __getattr__(name: str) -> Any:
    if name == "MallowsPOConfig":
        from mallowspo.training.config import MallowsPOConfig

        return MallowsPOConfig
    if name == "MallowsPOTrainer":
        from mallowspo.training.trainer import MallowsPOTrainer

        return MallowsPOTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
