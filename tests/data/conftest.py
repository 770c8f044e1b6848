"""Make the rows of this folder importable, and check rows in one call."""

import sys
from pathlib import Path

import pytest

# Two conftest.py of one name cannot both be imported as modules with doctests.
collect_ignore = ["conftest.py"]

sys.path.insert(0, str(Path(__file__).parent))

from data_rows import write  # noqa: E402

from mallowspo.data.lint import CheckSettings, check_preferences  # noqa: E402
from tiny import tiny_tokenizer  # noqa: E402


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def linted(tmp_path, tokenizer):
    """Write rows to a file, check them, give the report."""

    def run(rows, *, with_tokenizer=None, end_ids=None, eval_rows=None, **settings):
        path = write(tmp_path / "rows.jsonl", rows)
        evaluation = None if eval_rows is None else write(tmp_path / "eval.jsonl", eval_rows)
        chosen = tokenizer if with_tokenizer is None else with_tokenizer
        return check_preferences(path, chosen, CheckSettings(**settings), eval_source=evaluation, end_ids=end_ids)

    return run
