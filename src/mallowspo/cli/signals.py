"""SIGTERM ends a command as Ctrl-C does: one line, and nothing left running."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["Terminated", "end_children", "ends_at_sigterm", "is_first_process"]


class Terminated(KeyboardInterrupt):
    """The process was asked to end."""


def ends_at_sigterm() -> None:
    """Let SIGTERM raise `Terminated` from now on, so that locks and files are let go of in order."""
    import psutil

    def terminate(number: int, frame: FrameType | None) -> None:
        # Schedulers and make send it more than once; the second must not cut off what the first one began.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _terminate(psutil.Process().children(recursive=True))  # else a pool would wait for what they are at
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)


def is_first_process() -> bool:
    """Whether this process of a launch is the one that speaks; read from the launcher's environment."""
    return os.environ.get("RANK", "0") == "0"


def end_children(patience: float = 30.0) -> None:
    """End the processes that this one started, and wait until they are gone."""
    import psutil

    children = psutil.Process().children(recursive=True)
    _terminate(children)
    for child in psutil.wait_procs(children, timeout=patience)[1]:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


def _terminate(children: list[Any]) -> None:
    import psutil

    for child in children:
        try:
            child.terminate()
        except psutil.NoSuchProcess:
            continue
