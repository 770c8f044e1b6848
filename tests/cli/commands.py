"""What the tests of the commands share: the program in this process, a tiny model, rows."""

import contextlib
import io

import pytest

from mallowspo.cli.main import main
from tiny import tiny_llama, tiny_tokenizer

PAIRS = [
    {"prompt": f"Question {i}: how are you?", "chosen": f" fine, {i}", "rejected": f" no {i} no"} for i in range(12)
]


def save_tiny(folder):
    tokenizer = tiny_tokenizer()
    tiny_llama(vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def call(*arguments):
    """Run the program's own entry point: its exit code, and what it wrote to stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code, out.getvalue(), err.getvalue()


def refused(*arguments):
    """The one message of a command that ends with exit code 2."""
    code, _, err = call(*arguments)
    messages = [line for line in err.splitlines() if line.startswith("mallowspo: ")]
    assert code == 2 and "Traceback" not in err and "usage:" not in err and len(messages) == 1, err
    return messages[0]
