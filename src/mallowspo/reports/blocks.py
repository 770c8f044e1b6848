"""What a page is made of: plain values, checked when they are built, that know nothing of HTML.

Text that an author writes (titles, paragraphs, captions, terms, callouts) may hold two marks: `code` between
backticks and *emphasis* between stars; a backslash takes the meaning from either. Text that comes from data
(table cells, examples, code blocks, alt texts, meta) is shown as it is, mark for mark.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

from mallowspo.errors import InputError, not_one_of

__all__ = [
    "Block",
    "BulletList",
    "Callout",
    "CodeBlock",
    "Definitions",
    "Example",
    "Examples",
    "Figure",
    "Meta",
    "Paragraph",
    "Report",
    "Section",
    "Table",
    "literal",
]

CALLOUT_KINDS: dict[str, str] = {
    "note": "Note",
    "result": "Result",
    "warning": "Caution",
    "problem": "Problem",
}


def literal(text: str) -> str:
    r"""Take the meaning from backticks, stars and backslashes, to place someone's own words in a paragraph."""
    return re.sub(r"([\\`*])", r"\\\1", text)


@dataclass(frozen=True)
class Paragraph:
    """Running text; an empty line starts a new paragraph."""

    text: str
    template: ClassVar[str] = "paragraph"


@dataclass(frozen=True)
class BulletList:
    """Short points, one line each."""

    items: Sequence[str]
    template: ClassVar[str] = "bullets"


@dataclass(frozen=True)
class Definitions:
    """Terms and what they mean, for the words that the page uses: (term, meaning) pairs."""

    items: Sequence[tuple[str, str]]
    template: ClassVar[str] = "definitions"


@dataclass(frozen=True)
class Callout:
    """One boxed statement that nobody should miss; `kind` is note, result, warning or problem."""

    kind: str
    text: str
    template: ClassVar[str] = "callout"

    def __post_init__(self) -> None:
        if self.kind not in CALLOUT_KINDS:
            raise not_one_of("kind", self.kind, CALLOUT_KINDS)

    @property
    def label(self) -> str:
        """The word that says the kind to those who do not see its colour."""
        return CALLOUT_KINDS[self.kind]


@dataclass(frozen=True)
class CodeBlock:
    """A command, a configuration or a log, shown as it is in a fixed-width face."""

    text: str
    caption: str = ""
    template: ClassVar[str] = "code"


@dataclass(frozen=True)
class Example:
    """A prompt and what was answered to it."""

    prompt: str  # shown as it is
    answers: Sequence[tuple[str, str]]  # (who, what) pairs, shown as they are
    note: str = ""  # what to notice; marks are read here


@dataclass(frozen=True)
class Examples:
    """Prompts with answers side by side, to read for oneself."""

    items: Sequence[Example]
    caption: str = ""
    template: ClassVar[str] = "examples"


_NUMBER_CELL = re.compile(r"^[<>≈±+−\-]?\s*[\d.,]*\d\s*(%|s|ms|×|\[.*\])?$|^[–—-]?$")


@dataclass(frozen=True)
class Table:
    """A table; its first column names the rows."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | float]]  # format numbers first, cells are shown as they are
    caption: str = ""  # what the table says, in a sentence
    align: str = ""  # one letter a column, `l`, `c` or `r`; empty to set columns of numbers right, the rest left
    template: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        width = len(self.header)
        if width == 0:
            raise InputError("Table: the header is empty; give one title a column")
        for index, row in enumerate(self.rows):
            if isinstance(row, str) or len(row) != width:
                raise InputError(f"Table: row {index} is {row!r}, expected {width} cells as in {self.header!r}")
        if self.align and (len(self.align) != width or set(self.align) - set("lcr")):
            raise InputError(f"Table: align is {self.align!r}, expected {width} letters of 'l', 'c', 'r', or ''")

    @property
    def alignment(self) -> str:
        """One letter a column, found from the cells where `align` is empty."""
        if self.align:
            return self.align
        columns = [[str(row[index]).strip() for row in self.rows] for index in range(len(self.header))]
        return "".join("r" if cells and all(map(_NUMBER_CELL.match, cells)) else "l" for cells in columns)


@dataclass(frozen=True)
class Figure:
    """A picture, copied into the page."""

    source: str | os.PathLike[str] | bytes  # SVG, PNG or JPEG; a relative path starts at the page's folder
    alt: str  # what the picture shows, for those who do not see it; never empty
    caption: str = ""  # what to read from it; marks are read here
    template: ClassVar[str] = "picture"

    def __post_init__(self) -> None:
        if not self.alt.strip():
            raise InputError("Figure: alt is empty; say in a sentence what the picture shows")


Block: TypeAlias = Paragraph | BulletList | Definitions | Callout | CodeBlock | Examples | Table | Figure


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    heading: str  # marks are read here
    body: Sequence[Block] = ()
    subsections: Sequence[Section] = ()  # one level deep

    def __post_init__(self) -> None:
        if not self.heading.strip():
            raise InputError("Section: the heading is empty; name what the section shows")
        for part in self.subsections:
            if part.subsections:
                raise InputError(f"Section: {part.heading!r} is nested more than two deep; make it a section")


@dataclass(frozen=True)
class Meta:
    """How the page came to be, for its foot; what is empty is left out."""

    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)  # package -> version
    date: str = ""  # when, in ISO 8601
    seeds: Sequence[int] = ()
    run_time: float | None = None  # wall-clock seconds; None where unknown
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """A page."""

    title: str  # marks are read here
    summary: str  # the answer, before anything else; an empty line starts a new paragraph
    sections: Sequence[Section]
    meta: Meta = field(default_factory=Meta)
    figure: Figure | None = None  # what the summary says, as a picture; stands right behind it
    verdicts: Table | None = None  # stands before everything else
