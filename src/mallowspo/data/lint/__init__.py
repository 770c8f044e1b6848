"""`mallowspo check`: what a tokenizer, a template and a trainer will make of preference data.

`check_preferences` streams the rows once, in chunks, and keeps some sixty bytes of each; `write_cleaned` streams
them again without those that were found unusable.
"""

from __future__ import annotations

from mallowspo.data.lint.cleaning import Cleaned, write_cleaned
from mallowspo.data.lint.findings import KINDS, Example, Finding, Kind
from mallowspo.data.lint.run import CheckReport, CheckSettings, check_preferences

__all__ = [
    "KINDS",
    "CheckReport",
    "CheckSettings",
    "Cleaned",
    "Example",
    "Finding",
    "Kind",
    "check_preferences",
    "write_cleaned",
]
