"""One self-contained HTML page for one study.

The page needs nothing but itself: no script, no style sheet, font or picture from elsewhere, and a content
security policy that forbids the browser to ask. It reads in light and dark schemes, on paper and on a phone.

    report = Report(
        title="Quick start",
        summary="MallowsPO-θ follows people's agreement more closely than DPO.",
        sections=[Section("Agreement", [Table(["method", "agreement"], [["DPO", "0.52 [0.49, 0.55]"]])])],
        meta=current_meta(seeds=[0, 1, 2], run_time=192.0),
    )
    write_report("report.html", report)
"""

from __future__ import annotations

import base64
import functools
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from mallowspo.errors import InputError
from mallowspo.files import write_text
from mallowspo.redaction import own_command
from mallowspo.reports.blocks import Figure, Meta, Report, Section
from mallowspo.reports.palette import DARK_SCHEME, HOUSE_MARK
from mallowspo.reports.text import format_duration
from mallowspo.versions import library_versions

__all__ = ["current_meta", "render_report", "write_report"]


def current_meta(
    *, seeds: Iterable[int] = (), run_time: float | None = None, extra: Mapping[str, str] | None = None
) -> Meta:
    """Describe the running process, with its command and versions, for the foot of a page."""
    known = library_versions()
    versions = {"Python": known["python"]}
    versions |= {package: known[package] for package in ("mallowspo", "trl", "transformers", "torch")}
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Meta(own_command(), versions, date, tuple(seeds), run_time, dict(extra or {}))


_MARKS = re.compile(
    r"\\(?P<plain>[\\`*])"
    r"|`(?P<code>[^`\n]+)`"
    # A star opens only before a character and closes only after one, so that "2 * 3 * 4" stays as it is.
    r"|(?<![\w*])\*(?P<emphasis>[^\s*](?:[^*\n]*[^\s*\\])?)\*(?![\w*])"
)


def _inline(text: str) -> Markup:
    """Escape `text`, then read its marks: `code` and *emphasis*, and nothing else."""
    parts: list[Markup] = []
    end = 0
    for match in _MARKS.finditer(text):
        parts.append(escape(text[end : match.start()]))
        if match["code"] is not None:
            parts.append(Markup("<code>{}</code>").format(match["code"]))
        elif match["emphasis"] is not None:
            parts.append(Markup("<em>{}</em>").format(_inline(match["emphasis"])))
        else:
            parts.append(escape(match["plain"]))
        end = match.end()
    parts.append(escape(text[end:]))
    return Markup("").join(parts)


def _unmarked(text: str) -> str:
    """Give `text` without its marks, for places that hold no markup, such as the title bar."""
    return _inline(text).striptags()


def _whole_intervals(cell: object) -> object:
    """Keep the two ends of an interval on one line where a cell of a wide table is broken."""
    if type(cell) is not str:
        return cell
    return re.sub(r"\[[^\[\]]{1,24}\]", lambda found: found[0].replace(" ", "\u00a0"), cell)


def _paragraphs(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


_SIGNATURES = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"))


def _for_dark_pages(svg: bytes) -> bytes:
    """Let an SVG of the house follow the scheme of the page; any other stays as it is."""
    if HOUSE_MARK.encode() not in svg:
        return svg
    rules = "".join(
        f'[style*="{name}: {light}"]{{{name}:{dark}!important}}'
        for light, dark in DARK_SCHEME.items()
        for name in ("fill", "stroke")
    )
    style = f"<style>@media screen and (prefers-color-scheme:dark){{{rules}}}</style>"
    return re.sub(rb"<svg\b[^>]*>", lambda match: match[0] + style.encode(), svg, count=1)


class _Picture(NamedTuple):
    uri: str
    follows_scheme: bool


def _picture(figure: Figure, folder: Path) -> _Picture:
    """Turn a figure into a data URI; a relative path starts at the page's folder."""
    # An SVG too goes in as an image, not as markup: scripts in it stay dead, and the ids that each file uses for its
    # own parts cannot meet those of another.
    if isinstance(figure.source, bytes):
        content, name = figure.source, f"{len(figure.source)} bytes"
    else:
        path = folder / figure.source
        if not path.is_file():
            raise InputError(
                f"Figure: there is no file {os.fspath(figure.source)!r}; save the figure before writing the page"
            )
        content, name = path.read_bytes(), repr(str(path))
    kind = next((kind for signature, kind in _SIGNATURES if content.startswith(signature)), None)
    if kind is None and b"<svg" in content[:4096]:
        kind, content = "image/svg+xml", _for_dark_pages(content)
    if kind is None:
        raise InputError(f"Figure: {name} is neither SVG, PNG nor JPEG; save it as one of these")
    uri = f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
    return _Picture(uri=uri, follows_scheme=kind == "image/svg+xml" and HOUSE_MARK.encode() in content)


class _Part(NamedTuple):
    """A section with the name that the table of contents points to."""

    anchor: str
    section: Section
    parts: list[_Part]


def _anchor(heading: str, taken: set[str]) -> str:
    words = unicodedata.normalize("NFKC", _unmarked(heading)).lower()
    base = re.sub(r"[^\w]+", "-", words).strip("-") or "section"
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}-{count}"
    taken.add(name)
    return name


def _parts(sections: Iterable[Section], taken: set[str]) -> list[_Part]:
    return [_Part(_anchor(s.heading, taken), s, _parts(s.subsections, taken)) for s in sections]


# What a browser does not show, or may not hold, becomes its visible symbol, so that a prompt with a stray
# escape character is seen for what it is.
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {127: 0x2421}


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("mallowspo.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        inline=_inline,
        unmarked=_unmarked,
        paragraphs=_paragraphs,
        whole_intervals=_whole_intervals,
        duration=format_duration,
    )
    return environment


def render_report(report: Report, folder: str | os.PathLike[str] = ".") -> str:
    """Turn a report into one HTML page."""
    context: dict[str, Any] = {
        "report": report,
        "parts": _parts(report.sections, {"top", "contents", "run"}),
        "picture_of": functools.partial(_picture, folder=Path(folder)),
    }
    page = _environment().get_template("report.html.j2").render(context).lstrip()
    # A lone surrogate, as a broken tokenizer may emit, cannot be written in UTF-8.
    return page.translate(_CONTROLS).encode("utf-8", "replace").decode("utf-8")


def write_report(path: str | os.PathLike[str], report: Report) -> None:
    """Write a report as one self-contained HTML file, whole or not at all."""
    write_text(path, render_report(report, Path(path).parent))
