"""Exit codes: 0 done, 1 findings, 2 bad input or a machine that refuses, 130 interrupted, 141 the reader went away.

What the machine refuses (a full disk, a folder without permission, no memory) is told in one message that names the
file. What is our own mistake keeps its traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mallowspo.cli.faults import after_a_fault, leave_fault
from mallowspo.cli.signals import Terminated, end_children, ends_at_sigterm, is_first_process
from mallowspo.errors import InputError, NonFiniteLossError
from mallowspo.redaction import without_secrets

__all__ = ["exit_code_of", "message_of"]

_BROKEN_PIPE = 128 + 13  # what a shell reports of a program that SIGPIPE has ended
_AGAIN = "then run the same command again"
_SPACE = f"free some space or name another folder, {_AGAIN}"
_RIGHTS = "give yourself the right to it, or name another one"
_NETWORK = f"see whether the address is right and somebody listens there, {_AGAIN}"
_ADVICE = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "this file system or your limits (ulimit -f) allow no file so large; name another folder",
    errno.EROFS: "name a folder that can be written",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.ENOTDIR: "a part of this path is a file; name another one",
    errno.EISDIR: "it is a folder, and a file is wanted; name another path",
    errno.EEXIST: "something of this name is in the way; name another path",
    errno.ENOTEMPTY: "something is in the way; name another path",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "its symbolic links lead in a circle; name another path",
    errno.EINVAL: "this file system cannot do that; name another path",
    errno.EIO: f"the disk reports an error; name another one, {_AGAIN}",
    errno.ESTALE: f"the network disk has lost it; mount it anew, {_AGAIN}",
    errno.ENODEV: "the device is gone; name another path",
    errno.ENXIO: "the device is gone; name another path",
    errno.ETXTBSY: f"it is in use; wait, {_AGAIN}",
    errno.EBUSY: f"it is in use; wait, {_AGAIN}",
    errno.EMFILE: "raise the limit (ulimit -n), or use fewer processes",
    errno.ENFILE: "the machine has too many open files; end other programs, or use fewer processes",
    errno.ENOMEM: "the machine has no memory left; end other programs, or use smaller batches or fewer processes",
    errno.EAGAIN: "the machine allows no further process (ulimit -u); use fewer processes",
    errno.EPIPE: f"the program at the other end has ended; {_AGAIN}",
    errno.ECONNREFUSED: _NETWORK,
    errno.ECONNRESET: _NETWORK,
    errno.ECONNABORTED: _NETWORK,
    errno.ETIMEDOUT: _NETWORK,
    errno.EHOSTUNREACH: _NETWORK,
    errno.ENETUNREACH: _NETWORK,
    errno.EADDRINUSE: "another program has this port; give another one (--main_process_port 0 takes a free one)",
    errno.EADDRNOTAVAIL: "this machine has no such address; give another one",
}
# Numbers that also follow from a mistake of ours: they count as the machine's only with a file that was opened.
_WITH_A_NAME = {errno.EINVAL, errno.EEXIST, errno.ENOTEMPTY}
_NUMBER_IN_TEXT = re.compile(r"(?:\[errno |\(os error )(\d+)", re.IGNORECASE)
_TORCH_WRITER = ("PytorchStreamWriter failed", "inline_container.cc")


def exit_code_of(run: Callable[[], int], arguments: Sequence[str] = ()) -> int:
    """Run a command; a mistake of the user or a refusal of the machine is one message and exit code 2."""
    ends_at_sigterm()
    with _copies_of_the_streams() as streams:
        return _exit_code_of(run, arguments, streams)


def _exit_code_of(run: Callable[[], int], arguments: Sequence[str], streams: Sequence[int]) -> int:
    try:
        code = run()
        sys.stdout.flush()  # a full disk behind standard output shows here, not after the exit code
        return code
    except SystemExit as end:
        # rich ends so, whatever the pipe was
        if isinstance(end.__context__, BrokenPipeError) and end.code == 1:
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
            return _told(end.__context__, arguments, streams) or 1
        try:
            sys.stdout.flush()
        except OSError as error:
            return _told(error, arguments, streams) or 2
        raise end
    except KeyboardInterrupt as stop:
        if is_first_process() and not after_a_fault():  # the others of a launch end for the same reason
            _say("interrupted; what was written before is whole")
        if isinstance(stop, Terminated):
            end_children()
            return 143
        return 130
    except Exception as error:
        code_of_error = _told(error, arguments, streams)
        if code_of_error is None:
            leave_fault(without_secrets("".join(traceback.format_exception(error))), 1)
            raise
        return code_of_error


@contextlib.contextmanager
def _copies_of_the_streams() -> Iterator[list[int]]:
    """Standard output and error under other numbers: where a reader goes away, rich puts /dev/null in its place."""
    copies: list[int] = []
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            copies.append(os.dup(stream.fileno()))
    try:
        yield copies
    finally:
        for copy in copies:
            os.close(copy)


def _told(error: Exception, arguments: Sequence[str], streams: Sequence[int]) -> int | None:
    """Say what was wrong; None where it is our mistake."""
    if isinstance(error, BrokenPipeError) and _reader_is_gone(streams):
        _silence()
        return _BROKEN_PIPE
    text = message_of(error, arguments)
    if text is None:
        return None
    leave_fault(text, 2)
    _say(text)
    _silence()
    return 2


def message_of(error: BaseException, arguments: Sequence[str] = ()) -> str | None:
    """Say what the user or the machine did, without a traceback; None where the error is a mistake of this program."""
    if isinstance(error, InputError | NonFiniteLossError):
        return str(error)
    for one in _chain(error):
        text = _of_the_machine(one, arguments)
        if text is not None:
            return text
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was explicitly raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__


def _of_the_machine(error: BaseException, arguments: Sequence[str]) -> str | None:
    text = str(error).strip()
    if isinstance(error, MemoryError):
        told = f" ({text})" if text else ""
        return f"out of memory{told}; give smaller files, smaller batches or fewer processes"
    if isinstance(error, RecursionError):
        return "something that was read is nested too deeply to be worked on; make it flatter, or leave it out"
    if isinstance(error, UnicodeEncodeError):
        bad = error.object[error.start : error.start + 1]
        return (
            f"a text cannot be written as {error.encoding}: {bad!a} in {error.object[:60]!a} has no place there; take "
            "it out of the data"
        )
    kind = type(error).__name__
    if kind == "BrokenProcessPool":
        return "a process that worked for this one was ended, probably for want of memory; use fewer workers"
    if kind == "OutOfMemoryError" or (isinstance(error, RuntimeError) and "can't allocate memory" in text):
        return f"out of memory ({text.splitlines()[0]}); use smaller batches, shorter rows or a smaller model"
    if isinstance(error, RuntimeError) and any(part in text for part in _TORCH_WRITER) and "writ" in text + kind:
        return f"a file of the model's state could not be written ({text.splitlines()[0]}); {_SPACE}"
    # Rust's libraries raise an error of their own (safetensors) or a bare Exception (tokenizers).
    of_rust = kind == "SafetensorError" or (type(error) is Exception and "(os error " in text)
    if not (isinstance(error, OSError) or of_rust):
        return None
    number = getattr(error, "errno", None)
    if number is None:
        found = _NUMBER_IN_TEXT.search(text)
        number = int(found[1]) if found else None
    if number is None:
        return None
    name = getattr(error, "filename", None)
    if number == errno.ENOENT:
        return _missing(error, name, arguments)
    if number not in _ADVICE or (number in _WITH_A_NAME and name is None):
        return None
    where = _printable(name) if name is not None else _stream() or _rest_of(text, os.strerror(number))
    return f"{where}: {os.strerror(number)}; {_ADVICE[number]}"


def _rest_of(text: str, reason: str) -> str:
    """What the library said beside the system's own words and number, which the message says itself."""
    line = (text.splitlines() or [""])[0].replace(reason, "")
    line = re.sub(r"\[errno \d+\]|\(os error \d+\)|\bDetail:", "", line, flags=re.IGNORECASE)
    return re.sub(r"\s+", " ", line).strip(" .:,;") or "this machine"


def _printable(name: object) -> str:
    return (
        os.fsdecode(name).encode("utf-8", "backslashreplace").decode() if isinstance(name, str | bytes) else str(name)
    )


def _missing(error: BaseException, name: object, arguments: Sequence[str]) -> str | None:
    """A missing file is the user's where the command line names it, its folder or something in it."""
    if not isinstance(name, str | bytes | os.PathLike):
        return f"{error}; set TMPDIR to a folder that can be written" if "temporary directory" in str(error) else None
    missing = Path(os.fsdecode(name)).absolute()
    for part in arguments:
        for text in {part, part.partition("=")[2]}:
            if not text or text.startswith("--") or "\0" in text:
                continue
            given = Path(text).expanduser().absolute()
            if given == missing or missing.is_relative_to(given) or (given.is_relative_to(missing)):
                return f"{_printable(name)}: there is nothing of this name; give a path that exists"
    return None


def _stream() -> str | None:
    """The standard stream that cannot be written, if one is the cause."""
    for stream, name in ((sys.stdout, "standard output"), (sys.stderr, "standard error")):
        try:
            stream.write("\n")  # what failed is no longer in its buffer; the command has failed anyway
            stream.flush()
        except (OSError, ValueError):
            return name
    return None


def _reader_is_gone(streams: Sequence[int]) -> bool:
    """Whether nobody reads what is written to standard output or error; other pipes are not the shell's."""
    for stream in streams:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            poll = select.poll()
            poll.register(stream, select.POLLOUT)
            if any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)):
                return True
    return False


def _say(text: str) -> None:
    try:
        sys.stderr.write(f"mallowspo: {text}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # nobody can be told; the exit code says it


def _silence() -> None:
    """Let go of what a dead standard stream still holds: the interpreter would try to write it at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            try:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
            except (OSError, ValueError):
                pass
