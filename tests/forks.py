"""Forked children that tests kill at any moment, and processes of the program, without paying for their imports."""

import logging
import os
import runpy
import socket
import sys
import threading
import traceback
from pathlib import Path
from subprocess import CompletedProcess

from tqdm import tqdm


def own_locks(bar=tqdm):
    """Part from the parent's lock on progress bars: killed inside one, the child would keep it from the parent."""
    bar.set_lock(threading.RLock())
    for kind in bar.__subclasses__():
        own_locks(kind)


def in_child(work, *, environment=None):
    """Run in a forked child, with an environment as a new process; returns its process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            own_locks()
            if environment is not None:
                _as_a_new_process(environment)
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def program(arguments, log, **how):
    """`mallowspo` in a forked child; see `_started`."""

    def work():
        from mallowspo.cli.main import main

        main([str(argument) for argument in arguments])

    return _started(work, log, **how)


def run_program(arguments, log, **how):
    """Run `mallowspo` in a forked child, to its end."""
    return finish(program(arguments, log, **how), log)


def run_script(script, *arguments, log):
    """Run a script in a forked child as `python script` would, to its end."""

    def work():
        sys.argv = [str(script), *arguments]
        sys.path.insert(0, str(Path(script).parent))
        runpy.run_path(str(script), run_name="__main__")

    return finish(_started(work, log), log)


def _started(work, log, *, cwd=None, environment=None):
    """Start work in a child; its stdout and stderr go to `log` with these endings. Returns its process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            own_locks()
            _become_a_program(log, cwd, environment or {})
            try:
                work()
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
                if isinstance(end.code, str):
                    print(end.code, file=sys.stderr)
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
    return child


def _as_a_new_process(environment):
    """Put off what accelerate knows of the processes of the parent."""
    from accelerate.state import AcceleratorState, GradientState

    os.environ.update(environment)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def _become_a_program(log, cwd, environment):
    """Put off what a child has of the tests around it: their output, log, folder and environment."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        handle = os.open(f"{log}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, number)
        setattr(sys, name, os.fdopen(number, "w", buffering=1))
    # What the tests catch of the log is theirs; what the libraries' handlers say goes to the new stderr.
    logging.root.handlers.clear()
    for logger in list(logging.root.manager.loggerDict.values()):
        for handler in getattr(logger, "handlers", ()):
            # Not `setStream`, which flushes the old one: that may be of a test that has ended, and closed.
            if isinstance(handler, logging.StreamHandler) and handler.stream is not sys.stderr:
                handler.stream = sys.stderr
    os.chdir(cwd or os.getcwd())
    _as_a_new_process(environment)


def finish(child, log):
    """Wait for a program; returns what `subprocess.run` would."""
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return CompletedProcess([], code, *(Path(f"{log}.{name}").read_text() for name in ("stdout", "stderr")))


def ranks(count):
    """The environments of `count` processes that train together, as torch's launcher sets them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    return [
        common | {"LOCAL_WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)
    ]
