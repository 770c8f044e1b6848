"""MallowsPO: preference fine-tuning that respects how much people agree on each prompt.

`MallowsPOTrainer` and `MallowsPOConfig` are loaded on first use, so that `import mallowspo` stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mallowspo.versions import __version__

if TYPE_CHECKING:
    from mallowspo.training import MallowsPOConfig, MallowsPOTrainer

__all__ = ["MallowsPOConfig", "MallowsPOTrainer", "__version__"]


def __getattr__(name: str) -> Any:
    if name in {"MallowsPOConfig", "MallowsPOTrainer"}:
        from mallowspo import training

        return getattr(training, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
