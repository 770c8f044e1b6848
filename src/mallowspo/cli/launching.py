"""Start this program again in several processes, under accelerate's launcher."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from mallowspo.cli.faults import FAULTS, tell_fault
from mallowspo.cli.signals import end_children
from mallowspo.errors import InputError

__all__ = ["SEVERAL_ON_THIS_MACHINE", "launched", "read_launch", "several_without_accelerators"]

SEVERAL_ON_THIS_MACHINE = ("--multi_gpu", "--main_process_port", "0")
"""Start as many processes as asked for, with or without accelerators, at a port that is free."""


def read_launch(arguments: list[str]) -> Any:
    """Read options of `accelerate launch` and what it starts; a wrong value is refused without its page of usage."""
    from accelerate.commands.launch import launch_command_parser

    parser: Any = launch_command_parser()
    parser.error = _refuse
    known = parser.parse_args(arguments)
    for name in ("num_processes", "num_machines"):
        count = getattr(known, name)
        if count is not None and count < 1:
            raise InputError(f"{name}: got {count}, expected a whole number >= 1")
    return known


def _refuse(message: str) -> None:
    names, colon, rest = message.removeprefix("argument ").partition(": ")
    raise InputError(f"{names.partition('/')[0].lstrip('-')}: {rest}" if colon else message)


def several_without_accelerators(arguments: list[str]) -> list[str]:
    """Make `--num_processes N` mean N processes on a machine without accelerators too.

    There, accelerate starts one process whatever it is asked, unless it is told to take torch's launcher.
    """
    import torch

    known = read_launch([*arguments, "--module", "x"])
    several = (known.num_processes or 1) > 1 and (known.num_machines or 1) == 1
    other = known.config_file or known.multi_gpu or known.tpu or known.use_deepspeed or known.use_fsdp
    if not several or other or torch.accelerator.is_available():
        return arguments
    return [*(argument for argument in arguments if argument != "--cpu"), *SEVERAL_ON_THIS_MACHINE]


def launched(arguments: list[str]) -> int:
    """Run `accelerate launch` in this process, leave none behind and say why it failed; gives the exit code."""
    with tempfile.TemporaryDirectory(prefix="mallowspo-") as folder:
        os.environ[FAULTS] = folder
        failed: dict[int, int] = {}
        try:
            code = _launched(arguments, failed)
        finally:
            os.environ.pop(FAULTS, None)
        told = tell_fault(Path(folder), failed) if code else None
        return code if told is None else told


def _launched(arguments: list[str], failed: dict[int, int]) -> int:
    """Run the launcher; gives the highest exit code, and in `failed` those of the processes that failed."""
    import subprocess

    from accelerate.commands.launch import launch_command
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        launch_command(read_launch(arguments))
    except subprocess.CalledProcessError as error:
        return error.returncode if error.returncode >= 0 else 128 - error.returncode
    except ChildFailedError as error:
        failed |= {rank: failure.exitcode for rank, failure in error.failures.items()}
        return max(code if code >= 0 else 128 - code for code in failed.values())
    except SignalException as stop:
        return 128 + int(stop.sigval)
    finally:
        end_children()
    return 0
