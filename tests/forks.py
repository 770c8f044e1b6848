"""Forked children that tests kill at any moment, without paying for their imports."""

import os
import threading

from tqdm import tqdm


def own_locks(bar=tqdm):
    """Part from the parent's lock on progress bars: killed inside one, the child would keep it from the parent."""
    bar.set_lock(threading.RLock())
    for kind in bar.__subclasses__():
        own_locks(kind)


def in_child(work):
    """Run in a forked child; returns its process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            own_locks()
            work()
            code = 0
        finally:
            os._exit(code)
    return child
