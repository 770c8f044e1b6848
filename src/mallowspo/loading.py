"""Loading models and tokenizers that others saved: whatever is wrong with their files is said in one message."""

from __future__ import annotations

import traceback
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mallowspo.errors import InputError, listed, reason_of
from mallowspo.files import parse_json

__all__ = [
    "adapter_base",
    "broken",
    "check_saved_model",
    "loading",
    "local_folder",
    "refuse_other_kind",
    "refuse_random_weights",
    "saved_config",
    "while_loading",
]

# What the libraries raise where a file is not what its name says, beside OSError and ValueError.
_DAMAGE = ("SafetensorError", "UnpicklingError", "BadZipFile", "EOFError")
_LOADERS = ("from_pretrained", "create_model_from_path")  # of transformers, and of TRL
_MISFIT = ("size mismatch", "ignore_mismatched_sizes")


def broken(path: Path) -> str:
    """What a file's own format says of its damage."""
    try:
        if path.suffix == ".json":
            values = parse_json(path.read_bytes(), halves=True)  # a vocabulary may name any bytes
            if path.name == "trainer_state.json" and not isinstance(values.get("global_step"), int):
                return "it has no global_step"
        elif path.suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "pt"):  # the header, and whether the file is as long as it says
                pass
        elif path.suffix in (".pt", ".pth", ".bin") and path.name != "training_args.bin":
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            return f"damaged at {damaged}" if damaged else ""
    except Exception as error:  # each format has errors of its own, and all of them mean this
        return f"cannot be read ({(str(error) or type(error).__name__).splitlines()[0]})"
    return ""


@contextmanager
def loading(option: str, name: str, *, also_ours: bool = False) -> Iterator[None]:
    """Turn what a library raises while it loads a model into one message that names the damaged file."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        folder = Path(name).expanduser()
        files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
        found = [f"{path.name} {why}" for path in files if (why := broken(path))]
        known = isinstance(error, OSError | ValueError | ImportError) or type(error).__name__ in _DAMAGE
        misfit = any(words in str(error) for words in _MISFIT)
        # Where our code runs in the block too, what it raises is passed on, unless a file is damaged.
        if also_ours and not (found or misfit or (known and while_loading(error))):
            raise
        why = "; ".join(found) or ("its weights do not fit its config.json" if misfit else reason_of(error))
        raise InputError(f"{option}: {name} cannot be loaded ({why})") from error


def local_folder(option: str, name: str) -> Path | None:
    """The folder that a model's name is; None for a hub name; refuses what looks like a folder where none is."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise InputError(f"{option}: there is no folder {name}")
    return None


def adapter_base(folder: Path) -> str | None:
    """The base model that an adapter's folder names; None where it names none or is no adapter's."""
    try:
        described = parse_json((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    base = described.get("base_model_name_or_path") if isinstance(described, dict) else None
    return base if isinstance(base, str) else None


def saved_config(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The configuration of a saved model; None where it cannot be had, which whoever loads the model tells."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError):
        return None


def refuse_other_kind(option: str, config: Any, kind: Any = None) -> None:
    """Refuse what gives no probability of a text's next token, by its configuration and, where known, its class."""
    name = kind.__name__ if kind is not None else f"a model of the kind {config.model_type}"
    if config.is_encoder_decoder:
        raise InputError(f"{option}: {name} has an encoder and a decoder; a causal language model is wanted")
    if not getattr(kind, "can_generate", lambda: True)():
        raise InputError(f"{option}: {name} predicts no next token; a causal language model is wanted")


def refuse_random_weights(option: str, name: str, loading_info: Mapping[str, Any]) -> None:
    """Refuse a model whose files lack weights, which transformers draws at random with a warning."""
    missing = sorted(loading_info["missing_keys"])
    if missing:
        raise InputError(
            f"{option}: {name} has no weights for {listed(missing, 3)}, which would be drawn at random; give a model "
            "that was saved whole, and for this use"
        )


def check_saved_model(
    option: str, name: str, *, revision: str | None = None, trust_remote_code: bool = False, causal: bool = True
) -> Any:
    """Refuse a model for what its configuration tells, before hours of other work: no weights are read."""
    from transformers import AutoConfig
    from transformers.quantizers import AutoHfQuantizer

    folder = Path(name).expanduser()
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        base = adapter_base(folder)
        if base is None:
            return None
        name = base
    with loading(option, name):
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
        quantization = getattr(config, "quantization_config", None)
        if quantization is not None:
            quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=True)
            quantizer.validate_environment(dtype=None, device_map=None, weights_only=True)
    if causal:
        refuse_other_kind(option, config)
    return config


def while_loading(error: BaseException) -> bool:
    """Whether a model or tokenizer was being loaded when this was raised, and not being set up or trained."""
    return any(frame.f_code.co_name in _LOADERS for frame, _ in traceback.walk_tb(error.__traceback__))
