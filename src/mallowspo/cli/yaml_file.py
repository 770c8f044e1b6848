"""The one reader of YAML that a user gives: what could grow without end, or mean two things, is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mallowspo.errors import InputError

__all__ = ["plain", "read_yaml", "text_of"]

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_NODES = 20_000
_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "map", "seq", "merge"))


class _Whole(int):
    """A whole number that remembers how it was written."""

    written: str


class _Real(float):
    """A number that remembers how it was written."""

    written: str


def text_of(value: Any) -> str:
    """The text of a value: a number as it was written, since YAML makes 7 of 007 and 1.1 of 1.10."""
    return getattr(value, "written", None) or str(value)


def plain(value: Any) -> Any:
    """A value of a file without the memory of how its numbers were written."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return int(value) if isinstance(value, _Whole) else float(value) if isinstance(value, _Real) else value


def read_yaml(path: str | Path, option: str = "config") -> dict[str, Any]:
    """Read a file that holds a mapping of option to value; `text_of` tells how a number of it was written."""
    import yaml

    where = f"{option}: {path}"
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError(f"{option}: there is no file {path}") from error
    except IsADirectoryError as error:
        raise InputError(f"{where} is a folder; give a YAML file") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{where} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(content) > MAX_BYTES:
        raise InputError(f"{where} is larger than {MAX_BYTES:,} bytes, the limit for a file of options")
    try:
        text = content.decode("utf-8-sig")
        _check_events(text, where)
        node = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        if not isinstance(node, yaml.MappingNode):
            raise InputError(f"{where} must hold a mapping of option to value")
        _check_node(node, where)
        loader: Any = yaml.SafeLoader("")
        loader.yaml_constructors = loader.yaml_constructors | {
            _TAGS[2]: partial(_number, _Whole, yaml.SafeLoader.construct_yaml_int),
            _TAGS[3]: partial(_number, _Real, yaml.SafeLoader.construct_yaml_float),
        }
        values: dict[str, Any] = loader.construct_document(node)
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{where} is not YAML: {reason}") from error
    return values


def _number(kind: Any, construct: Callable[[Any, Any], Any], loader: Any, node: Any) -> Any:
    number = kind(construct(loader, node))
    number.written = node.value
    return number


def _check_events(text: str, where: str) -> None:
    """Look at nesting before anything follows it, and at the number of documents."""
    import yaml

    depth = nodes = documents = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        documents += isinstance(event, yaml.DocumentStartEvent)
        nodes += isinstance(event, yaml.NodeEvent)
        if depth > MAX_DEPTH:
            raise InputError(f"{where} is nested more than {MAX_DEPTH} levels deep, the limit for a file of options")
        if nodes > MAX_NODES:
            raise InputError(f"{where} has more than {MAX_NODES:,} values, the limit for a file of options")
    if documents > 1:
        raise InputError(f"{where} holds {documents} documents (parted by ---); give one")


def _check_node(root: Any, where: str) -> None:
    """Check keys and tags, and how many values there are once every alias is followed."""
    import yaml

    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: Any, level: int) -> int:
        known = sizes.get(id(node))
        if known is not None:
            return known
        line = node.start_mark.line + 1
        if id(node) in open_nodes:
            raise InputError(f"{where}: the alias of line {line} holds itself")
        if level > MAX_DEPTH:
            raise InputError(f"{where} is nested more than {MAX_DEPTH} levels deep once its aliases are followed")
        if node.tag == "tag:yaml.org,2002:timestamp":
            node.tag = "tag:yaml.org,2002:str"  # a date is a name here, such as that of a run
        if node.tag not in _TAGS:
            raise InputError(f"{where}: line {line} has the tag {node.tag}; give text, a number, a list or a mapping")
        open_nodes.add(id(node))
        total = 1
        if isinstance(node, yaml.SequenceNode):
            total += sum(size(item, level + 1) for item in node.value)
        elif isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, value in node.value:
                at = key.start_mark.line + 1
                if key.tag not in (_TAGS[4], _TAGS[7], "tag:yaml.org,2002:timestamp"):
                    raise InputError(f"{where}: the key of line {at} is no text; put it in quotes")
                if key.value in seen:
                    raise InputError(f"{where}: {key.value} is there twice, in lines {seen[key.value]} and {at}")
                seen[key.value] = at
                total += size(key, level + 1) + size(value, level + 1)
        if total > MAX_NODES:
            raise InputError(
                f"{where} has more than {MAX_NODES:,} values once its aliases are followed, the limit for a file of "
                "options"
            )
        open_nodes.discard(id(node))
        sizes[id(node)] = total
        return total

    size(root, 1)
