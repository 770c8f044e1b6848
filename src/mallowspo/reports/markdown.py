"""The same page as Markdown, for the documentation: what stands on the page of a run stands there too."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mallowspo.reports.blocks import (
    Block,
    BulletList,
    Callout,
    CodeBlock,
    Definitions,
    Examples,
    Figure,
    Paragraph,
    Report,
    Section,
    Table,
)

__all__ = ["render_markdown"]


def render_markdown(report: Report, *, figures: str, level: int = 2, details: bool = True) -> str:
    """A page without its title and foot as Markdown; `figures` is where the PNG files lie, seen from the document."""
    parts = [report.summary, *([_figure(report.figure, figures)] if report.figure else [])]
    parts += [_table(report.verdicts)] if report.verdicts else []
    for section in report.sections:
        parts += _section(section, figures, level, details)
    return "\n\n".join(part for part in parts if part)


def _section(section: Section, figures: str, level: int, details: bool) -> list[str]:
    parts = [f"{'#' * level} {section.heading}"]
    for block in section.body:
        parts.append(_figure(block, figures) if isinstance(block, Figure) else _RENDER[type(block)](block))
    for inner in section.subsections if details else ():
        parts += _section(inner, figures, level + 1, details)
    return parts


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _table(block: Table) -> str:
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in (block.header, *block.rows)]
    lines.insert(1, "|" + "---|" * len(block.header))
    return "\n".join([*([block.caption, ""] if block.caption else []), *lines])


def _figure(block: Figure, figures: str) -> str:
    if isinstance(block.source, bytes):
        return f"*{block.alt}*"
    name = Path(os.fspath(block.source)).with_suffix(".png").name
    return f"![{block.alt}]({figures}/{name})" + (f"\n\n{block.caption}" if block.caption else "")


def _examples(block: Examples) -> str:
    lines = [block.caption] if block.caption else []
    for example in block.items:
        # A text with blank lines would end its item, and a quotation would join one that stands above it.
        said = [f"- *{who}*: {' '.join(what.split())}" for who, what in example.answers]
        lines.append("\n".join([f"**Prompt.** {' '.join(example.prompt.split())}", "", *said]))
    return "\n\n".join(lines)


_RENDER: dict[type[Block], Callable[[Any], str]] = {
    Paragraph: lambda block: block.text,
    BulletList: lambda block: "\n".join(f"- {item}" for item in block.items),
    Definitions: lambda block: "\n".join(f"- **{term}**: {meaning}" for term, meaning in block.items),
    Callout: lambda block: f"> **{block.label}.** {block.text}",
    CodeBlock: lambda block: f"```bash\n{block.text}\n```",
    Examples: _examples,
    Table: _table,
}
