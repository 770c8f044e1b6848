"""A model and pairs for the tests of the commands, which no test changes."""

import json

import pytest

from cli.commands import PAIRS, save_tiny


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A tiny model with its tokenizer."""
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """Twelve pairs with people's votes, in a file."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row | {"votes": [3, 1]}) + "\n" for row in PAIRS))
    return path
