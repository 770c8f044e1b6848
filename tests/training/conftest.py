"""Two models for every equality: a real one where the shared models are, and a random one everywhere."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from datasets import Dataset

# Two conftest.py of one name cannot both be imported as modules with doctests.
collect_ignore = ["conftest.py"]

sys.path.insert(0, str(Path(__file__).parent))

from pairs import real_pairs, saved_llama, small_pairs  # noqa: E402


@dataclass(frozen=True)
class Setting:
    """A saved model and data for it."""

    path: str
    rows: Dataset


@pytest.fixture(scope="session")
def random_setting(tmp_path_factory) -> Setting:
    return Setting(saved_llama(tmp_path_factory.mktemp("random-llama")), small_pairs())


@pytest.fixture(params=["random", pytest.param("stories-260k", marks=pytest.mark.shared)])
def setting(request) -> Setting:
    """Each test that asks for this runs on the random model and on the real one."""
    if request.param == "random":
        return request.getfixturevalue("random_setting")
    shared = request.getfixturevalue("shared")
    return Setting(str(shared / "models/stories-260k"), real_pairs(shared))
