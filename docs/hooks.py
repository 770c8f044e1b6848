"""What the site shows from outside of docs/: pages at the root, and files that a page links to.

A link is written as it works in the repository (`../CONTRIBUTING.md`); here its target is taken into the site under
its own path.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from griffe import Extension, Object
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#:\s]+)((?:#[^)]*)?)\)")


class Examples(Extension):
    """Reads `Example:` in a docstring as the section that griffe calls `Examples:`, so that it is shown as code."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rename the section of one object."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Take in the pages at the root, and every file outside of docs/ that a page links to."""
    for page in PAGES:
        files.append(File.generated(config, page, abs_src_path=str(ROOT / page)))
    for page in list(files.documentation_pages()):
        for _, target, _ in LINK.findall(page.content_string):
            path = _target(page.src_uri, target)
            name = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""
            beside = name and path.is_file() and not path.is_relative_to(ROOT / "docs")
            if beside and not files.get_file_from_path(name):
                files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Write a link to a file in the repository as the way to its place in the site."""

    def rewritten(match: re.Match[str]) -> str:
        path = _target(page.file.src_uri, match[2])
        if (path / "report.html").is_file():
            path = path / "report.html"
        if not path.exists() or not path.is_relative_to(ROOT):
            return match[0]
        if path.is_dir():  # a folder has no page
            return match[1]
        inside = path.relative_to(ROOT / "docs" if path.is_relative_to(ROOT / "docs") else ROOT).as_posix()
        return f"[{match[1]}]({os.path.relpath(inside, os.path.dirname(page.file.src_uri) or '.')}{match[3]})"

    return LINK.sub(rewritten, markdown)


def _target(page: str, link: str) -> Path:
    """The file that a link leads to in the repository."""
    folder = ROOT if page in PAGES else (ROOT / "docs" / page).parent
    return (folder / link).resolve()
