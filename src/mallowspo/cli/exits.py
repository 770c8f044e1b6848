"""Exit codes: 0 done, 1 findings, 2 bad input, 130 interrupted."""

from __future__ import annotations

import sys
from collections.abc import Callable

from mallowspo.cli.signals import Terminated, ends_at_sigterm, is_first_process
from mallowspo.errors import InputError, NonFiniteLossError

__all__ = ["exit_code_of"]


def exit_code_of(run: Callable[[], int]) -> int:
    """Run a command and turn a user's mistake into one message and exit code 2.

    Args:
        run: The command; returns its exit code, or raises `SystemExit` with it.

    Returns:
        The exit code. An error that is ours, not the user's, passes through with its traceback.

    Example:
        >>> exit_code_of(lambda: 0)
        0
    """
    ends_at_sigterm()
    try:
        return run()
    except (InputError, NonFiniteLossError) as error:
        sys.stderr.write(f"mallowspo: {error}\n")
        return 2
    except KeyboardInterrupt as stop:
        if is_first_process():  # the others of a launch end for the same reason
            sys.stderr.write("mallowspo: interrupted; what was written before is whole\n")
        return 143 if isinstance(stop, Terminated) else 130
