"""Fuzz every reader for a given time: `make fuzz SECONDS=600`. Exit code 1 where anything was raised but a refusal."""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

SLOW_SECONDS = 1.0


@dataclass
class Outcome:
    """What came of some inputs."""

    inputs: int = 0
    slowest: float = 0.0  # processor seconds of one input
    # Where and what was raised, with the smallest input that did it; an input that is too slow is one too.
    faults: dict[str, bytes] = field(default_factory=dict)

    def note(self, what: str, data: bytes) -> None:
        """Keep the smallest input of each fault."""
        if what not in self.faults or len(data) < len(self.faults[what]):
            self.faults[what] = data

    def add(self, other: Outcome) -> None:
        """Count another's inputs too."""
        self.inputs += other.inputs
        self.slowest = max(self.slowest, other.slowest)
        for what, data in other.faults.items():
            self.note(what, data)


def fuzz(name: str, examples: int, seed: int) -> Outcome:
    """Give one target so many inputs; the same seed gives the same ones."""
    import datasets
    import hypothesis
    from hypothesis import HealthCheck, Phase, given, settings

    from fuzz.targets import targets
    from mallowspo.errors import InputError

    datasets.disable_progress_bars()
    logging.disable(logging.WARNING)
    target = next(target for target in targets() if target.name == name)
    outcome = Outcome()
    root = Path(tempfile.mkdtemp(prefix="fuzz"))

    @hypothesis.seed(seed)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs)
    def one(data: bytes) -> None:
        folder = root / str(outcome.inputs)
        folder.mkdir()
        outcome.inputs += 1
        start = time.process_time()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                target.read(data, folder)
        except InputError:
            pass
        except Exception as error:
            outcome.note(f"{name}: {type(error).__name__} at {_place(error)}", data)
        seconds = time.process_time() - start
        outcome.slowest = max(outcome.slowest, seconds)
        if seconds > SLOW_SECONDS:
            outcome.note(f"{name}: took over {SLOW_SECONDS:.0f} s", data)
        shutil.rmtree(folder, ignore_errors=True)

    try:
        one()
    finally:
        shutil.rmtree(root, ignore_errors=True)
        logging.disable(logging.NOTSET)
    return outcome


def _place(error: Exception) -> str:
    """The last line of ours that the error passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if f"{os.sep}mallowspo{os.sep}" in frame.filename] or frames
    return f"{ours[-1].filename.split('mallowspo' + os.sep)[-1]}:{ours[-1].lineno}"


def _work(seed: int, examples: dict[str, int]) -> Iterator[tuple[str, int, int]]:
    """Rounds over all targets, without end; every call has a seed of its own."""
    draw = random.Random(seed)
    while True:
        for name, count in examples.items():
            yield name, count, draw.getrandbits(32)


def main() -> int:
    """Fuzz, print a line a target, and keep the input of each fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--examples", type=int, default=250, help="inputs of one target at a time")
    parser.add_argument("--targets", default="", help="only those whose name contains this")
    parser.add_argument("--faults", type=Path, default=Path("output/fuzz"), help="folder for the inputs of faults")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

    from fuzz.targets import targets

    chosen = [target for target in targets() if options.targets in target.name]
    totals = {target.name: Outcome() for target in chosen}
    end = time.monotonic() + options.seconds
    work = _work(options.seed, {t.name: max(1, round(t.share * options.examples)) for t in chosen})
    with ProcessPoolExecutor(options.processes) as pool:
        running = {}
        while running or time.monotonic() < end:
            while len(running) < options.processes and time.monotonic() < end:
                call = next(work)
                running[pool.submit(fuzz, *call)] = call[0]
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                totals[running.pop(future)].add(future.result())
    return _report(totals, options.faults)


def _report(totals: dict[str, Outcome], folder: Path) -> int:
    for name, outcome in totals.items():
        print(f"{name:28} {outcome.inputs:8,} inputs, slowest {outcome.slowest:5.2f} s, {len(outcome.faults)} faults")
    whole = functools.reduce(lambda a, b: (a.add(b), a)[1], totals.values(), Outcome())
    print(f"{'all':28} {whole.inputs:8,} inputs, slowest {whole.slowest:5.2f} s, {len(whole.faults)} faults")
    if whole.faults:
        folder.mkdir(parents=True, exist_ok=True)
        for i, (what, data) in enumerate(sorted(whole.faults.items())):
            (folder / f"fault-{i}.bin").write_bytes(data)
            print(f"  {folder}/fault-{i}.bin ({len(data)} bytes): {json.dumps(what)}")
    return 1 if whole.faults else 0


if __name__ == "__main__":
    sys.exit(main())
