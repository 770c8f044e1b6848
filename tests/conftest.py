"""Set the tests' environment before any heavy import, and hand out what many tests need."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

# Read when the libraries are imported, so they must be set before the first test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# accelerate warns, and warnings are errors here, where the ranks of a test find it unset.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test reads what another one left behind, nor writes into the user's cache.
os.environ["MALLOWSPO_CACHE"] = ""

# Another folder's conftest of the same name may have been imported before this one is looked through for doctests.
collect_ignore = ["conftest.py"]

TESTS = Path(__file__).resolve().parent
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

# A busy machine is no fault of what is tested.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
# Tiny models gain nothing from threads, and several test runs may share one machine.
torch.set_num_threads(1)


modules_frozen = 0


def pytest_runtest_setup():
    """Spare the collector all that was imported: every run of a trainer asks it to go through everything."""
    global modules_frozen  # noqa: PLW0603
    if len(sys.modules) > modules_frozen + 300:
        gc.collect()
        gc.freeze()
        modules_frozen = len(sys.modules)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and data; a test that asks for it skips where the folder is absent."""
    path = Path(os.environ.get("MALLOWSPO_SHARED") or TESTS.parent.parent / "shared")
    if not (path / "models").is_dir():
        pytest.skip("../shared is absent: set MALLOWSPO_SHARED to the folder of real models and data")
    return path


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed, fresh for each test."""
    return np.random.default_rng(20250314)
