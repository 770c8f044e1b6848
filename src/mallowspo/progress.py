"""Progress of long work: bars on a terminal, a line now and then where there is none.

A log of a batch job shows a line when a command and each of its stages begins, at most one in half a minute while they
last, and one at their end.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Progress", "ProgressLines", "current_lines", "on_a_terminal", "lines_for_a_log", "progress_bar", "silent"]

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all); 0 in all where that is not known."""

EVERY_SECONDS = 30.0

# The public switches of tqdm, datasets, huggingface_hub and (through the latter) transformers, read at their import.
_BARS_OFF = ("TQDM_DISABLE", "HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS")


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


def on_a_terminal() -> bool:
    """Whether somebody watches the standard error stream; bars are for them."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


@contextlib.contextmanager
def lines_for_a_log() -> Iterator[None]:
    """Keep the libraries' own bars out of a log: without a terminal their carriage returns make one endless line.

    For the whole of a command, from before the libraries are imported; processes that it starts inherit the switches.
    What the user has set stays.
    """
    ours = [] if on_a_terminal() else [name for name in _BARS_OFF if name not in os.environ]
    os.environ.update(dict.fromkeys(ours, "1"))
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@dataclass
class _Stage:
    begun: float
    said: float
    done: int = 0
    total: int = 0
    note: str = ""
    ends: int = 0

    @property
    def ended(self) -> bool:
        return 0 < self.total <= self.done


class ProgressLines:
    """Progress as lines on the standard error stream: when a stage begins, every half minute, at its end.

    A thread speaks while the work itself says nothing, so that a long step does not look like a dead one. What cannot
    be written is passed over: no work ends for want of a log.
    """

    def __init__(self, title: str, *, every: float = EVERY_SECONDS) -> None:
        self._title, self._every = title, every
        self._stages: dict[str, _Stage] = {}
        self._begun = self._said = time.monotonic()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._speak, name="progress", daemon=True)

    def __enter__(self) -> ProgressLines:
        _CURRENT.append(self)
        self._say(f"{self._title}: begun")
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        _CURRENT.remove(self)
        if kind is None:
            self._say(f"{self._title}: done, {time.monotonic() - self._begun:,.0f} s")

    def show(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Take note of how far a stage has come, and say it where it is time."""
        now = time.monotonic()
        with self._lock:
            fresh = stage not in self._stages
            one = self._stages.setdefault(stage, _Stage(now, now))
            ended = one.ended
            one.done, one.total, one.note = done, total, note
            one.ends += one.ended and not ended
            # A stage that a study goes through once a run begins again and again: its first end is news.
            first_end = one.ended and not ended and one.ends == 1
            if fresh or now - one.said >= self._every or first_end:
                self._tell(stage, one, now)

    def _speak(self) -> None:
        while not self._stop.wait(min(1.0, self._every / 4)):
            now = time.monotonic()
            with self._lock:
                if now - self._said < self._every:
                    continue
                # The stage that began last and has not ended is the one at work.
                at_work = next((name for name, one in reversed(self._stages.items()) if not one.ended), None)
                if at_work is None:
                    self._say(f"{self._title}: at work, {now - self._begun:,.0f} s")
                else:
                    self._tell(at_work, self._stages[at_work], now)

    def _tell(self, name: str, stage: _Stage, now: float) -> None:
        stage.said = now
        counted = f"{stage.done:,} of {stage.total:,}" if stage.total else f"{stage.done:,}"
        end = f", {stage.note}" if stage.note else ""
        self._say(f"{name}: {counted}, {now - stage.begun:,.0f} s{end}")

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


_CURRENT: list[ProgressLines] = []


def current_lines() -> ProgressLines | None:
    """The lines that the running command prints in place of bars; None on a terminal and in Python code.

    A loop deep in the work that would show a bar of its own reports here instead.
    """
    return _CURRENT[-1] if _CURRENT else None


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Callable[..., None]]:
    """Show progress on the standard error stream; gives a `Progress` that also takes a note to show beside it."""
    if not on_a_terminal():
        with ProgressLines(title) as lines:
            yield lines.show
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    tasks: dict[str, Any] = {}
    with Bars(*columns, console=Console(stderr=True)) as bars:

        def update(stage: str, done: int, total: int, note: str = "") -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total or None, note=note)
            bars.update(tasks[stage], completed=done, total=total or None, note=note)

        yield update
