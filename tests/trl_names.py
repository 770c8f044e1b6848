"""The names of TRL, transformers and accelerate that `mallowspo/compat.py` stands on, read off its source.

python tests/trl_names.py      prints every one that is not where it was, and where it may be now; exit code 1
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mallowspo.errors import listed

COMPAT = Path(__file__).resolve().parent.parent / "src" / "mallowspo" / "compat.py"
LIBRARIES = ("trl", "transformers", "accelerate")


def imported_names(source: str) -> list[tuple[str, str]]:
    """Every (module, name) that is imported from one of the libraries, wherever in the file."""
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    return [
        (node.module, alias.name)
        for node in found
        if node.module and node.module.split(".")[0] in LIBRARIES
        for alias in node.names
    ]


def inherited_names(source: str) -> list[str]:
    """Every attribute that a subclass of `DPOTrainer` reads off itself or `super()` and does not define."""
    found: dict[str, None] = {}
    for part in ast.walk(ast.parse(source)):
        if not (isinstance(part, ast.ClassDef) and any(getattr(b, "id", "") == "DPOTrainer" for b in part.bases)):
            continue
        own = {item.name for item in part.body if isinstance(item, ast.FunctionDef)}
        assigned = [item for item in part.body if isinstance(item, ast.Assign | ast.AnnAssign)]
        own |= {node.id for item in assigned for node in ast.walk(item) if isinstance(node, ast.Name)}
        for node in ast.walk(part):
            if not isinstance(node, ast.Attribute):
                continue
            of_self = isinstance(node.value, ast.Name) and node.value.id == "self"
            of_super = isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "super"
            if of_super or (of_self and node.attr not in own):
                found[node.attr] = None
    return list(found)


def is_set(kind: Any, name: str) -> bool:
    """Whether a class or one of its bases has an attribute or sets it on an instance."""
    if hasattr(kind, name):
        return True
    assigned = re.compile(rf"\bself\.{name}\b[^=\n]*(?<![=!<>])=(?!=)")
    sources = (inspect.getsource(base) for base in kind.__mro__ if base.__module__.split(".")[0] in LIBRARIES)
    return any(assigned.search(source) for source in sources)


def candidates(library: str, name: str) -> list[str]:
    """Modules of a library that define a name now."""
    root = Path(str(importlib.import_module(library).__file__)).parent
    defined = re.compile(rf"^(?:def|class) {re.escape(name)}\b|^{re.escape(name)}\s*[:=]", re.MULTILINE)
    return [
        ".".join((library, *path.relative_to(root).with_suffix("").parts))
        for path in sorted(root.rglob("*.py"))
        if defined.search(path.read_text(encoding="utf-8", errors="replace"))
    ]


def moved_names(source: str) -> Iterator[str]:
    """One line for each name that is not where `compat.py` looks for it."""
    for module, name in imported_names(source):
        try:
            gone = None if hasattr(importlib.import_module(module), name) else "gone"
        except ImportError as error:
            gone = f"cannot be imported ({error})"
        if gone:
            now = candidates(module.split(".", maxsplit=1)[0], name)
            yield f"{module}.{name}: {gone}{f'; defined in {listed(now)}' if now else ''}"
    try:
        from trl import DPOTrainer
    except ImportError:
        yield "trl.DPOTrainer: cannot be imported"
        return
    for name in inherited_names(source):
        if not is_set(DPOTrainer, name):
            yield f"DPOTrainer.{name}: neither an attribute nor set by its constructor or bases"


if __name__ == "__main__":
    lines = list(moved_names(COMPAT.read_text(encoding="utf-8")))
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.exit(1 if lines else 0)
