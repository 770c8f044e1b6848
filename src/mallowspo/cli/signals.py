"""SIGTERM ends a command as Ctrl-C does: one line, and nothing left running."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

__all__ = ["Terminated", "end_children", "ends_at_sigterm", "is_first_process"]


class Terminated(KeyboardInterrupt):
    """The process was asked to end."""


def ends_at_sigterm() -> None:
    """Let SIGTERM raise `Terminated` from now on, so that locks and files are let go of in order."""

    def terminate(number: int, frame: FrameType | None) -> None:
        # Schedulers and make send it more than once; the second must not cut off what the first one began.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _terminate(_children())  # else a pool would wait for what they are at
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)


def is_first_process() -> bool:
    """Whether this process of a launch is the one that speaks; read from the launcher's environment."""
    return os.environ.get("RANK", "0") == "0"


def end_children(patience: float = 30.0) -> None:
    """End the processes that this one started, and wait until they are gone."""
    import psutil

    until = time.monotonic() + patience
    children = _children()
    _terminate(children)
    # multiprocessing must be the one that sees its own end: a pool would wait forever for those that another has seen.
    for own in multiprocessing.active_children():
        own.join(max(0.0, until - time.monotonic()))
        if own.is_alive():
            own.kill()
            own.join()
    for child in psutil.wait_procs(children, timeout=max(0.0, until - time.monotonic()))[1]:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


def _children() -> list[Any]:
    """The processes that this one has started, but for multiprocessing's own, which ends last and by itself."""
    import psutil

    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            tracker = "multiprocessing.resource_tracker" in " ".join(child.cmdline())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            tracker = False
        if not tracker:
            found.append(child)
    return found


def _terminate(children: list[Any]) -> None:
    import psutil

    for child in children:
        try:
            child.terminate()
        except psutil.NoSuchProcess:
            continue
