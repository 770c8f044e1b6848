"""Options that TRL and transformers have removed or renamed, each with what stands in its place."""

from __future__ import annotations

__all__ = ["REMOVED_OPTIONS"]

REMOVED_OPTIONS: dict[str, str] = {
    "rpo_alpha": "set sft_weight",
    "max_prompt_length": "set max_length, which counts prompt and response together, and truncation_mode",
    "evaluation_strategy": "it is called eval_strategy now",
}
