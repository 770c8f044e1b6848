"""What a judge's name means: an address, a reward model, or a Python function."""

from __future__ import annotations

from pathlib import Path

from mallowspo.errors import InputError
from mallowspo.evaluation.endpoint import EndpointAddress

__all__ = ["check_model_folder", "judge_kind"]


def check_model_folder(name: str, option: str) -> None:
    """Raise `InputError` where a name looks like a folder on this machine and no saved model is there.

    Args:
        name: A folder or a hub name.
        option: The option that named it, for the message.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        if not any((path / needed).is_file() for needed in ("config.json", "adapter_config.json")):
            raise InputError(f"{option}: {name} has no config.json; it is not a saved model")
    elif path.exists():
        raise InputError(
            f"{option}: {name} is a file; expected a folder, a hub name, an address or a .json of answers"
        )
    elif path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise InputError(f"{option}: there is no folder {name}")


def judge_kind(judge: str) -> str:
    """Tell what kind of judge a name means.

    Args:
        judge: As the user wrote it.

    Returns:
        `endpoint`, `reward` or `callable`.

    Raises:
        InputError: It is none of them.

    Example:
        >>> judge_kind("reward:my/model"), judge_kind("my_judges:longer")
        ('reward', 'callable')
    """
    if judge.startswith(("http://", "https://")):
        EndpointAddress.parse(judge, "judge")
        return "endpoint"
    if judge.startswith("reward:"):
        check_model_folder(judge.removeprefix("reward:"), "judge")
        return "reward"
    module, colon, function = judge.partition(":")
    if colon and function.isidentifier() and all(part.isidentifier() for part in module.split(".")):
        return "callable"
    raise InputError(
        f"judge: got {judge!r}, expected an address such as http://localhost:8000/v1#model-name, "
        "reward:MODEL for a reward model, or module:function for a Python function"
    )
