"""Where reference scores are kept that nobody asked to keep: one store for each key, below the cache folder."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["CACHE_VARIABLE", "cache_folder"]

CACHE_VARIABLE = "MALLOWSPO_CACHE"


def cache_folder() -> Path | None:
    """The folder of cached stores, which need not exist; None where MALLOWSPO_CACHE is empty: no cache."""
    named = os.environ.get(CACHE_VARIABLE)
    if named is not None:
        return Path(named).expanduser() / "reference" if named.strip() else None
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME).expanduser() / "mallowspo" / "reference"
