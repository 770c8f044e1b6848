"""Every fenced block of the pages, and what the tests do with it.

The language of a block says what it is, and so what is done with it; nothing has to be marked, and a block without a
language fails:

    python    is run, word for word, in a folder with stand-ins for what it names
    diff      both scripts are run, TRL's before and ours after
    yaml      is read as a file of `mallowspo train`
    bash      every command is read by the real parser of its program, with every option
    text      is no example: what a program printed, a drawing, the contents of a file

A marker on the line before changes that, and holds what a page has to say about it:

    <!-- test: run -->           a bash block whose commands are run, after those before it on the page
    <!-- test: yaml NAME -->     a file of that name for the commands that follow on the page
    <!-- not run: the reason --> nothing is done
    <!-- recipe: ... -->         `test_contributing.py` follows it
    <!-- test: chain -->         parsed here, and run by `tests/recipes`

`python tests/doc_examples.py` lists every block with what is done with it.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from string import Template

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BY_LANGUAGE = {"python": "run", "diff": "run", "yaml": "parsed", "bash": "parsed", "text": "no example"}
BLOCK = re.compile(r"(?:^ *<!-- ([^\n]*?) -->\n+)?^( *)```([^\n`]*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
# What a page may ask the reader's shell for beside programs of ours.
SHELL = {"cd", "git", "head", "hf", "python3", "source"}


@dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, what it is, what it holds, what is done with it."""

    page: str
    line: int
    language: str
    text: str
    treated: str
    note: str = ""  # why it is not run; the name of its file

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> list[Block]:
    """Every block of every page, in order."""
    found = []
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        fences = len(re.findall(r"^ *```", page, re.MULTILINE))
        here = [_block(path, page, match) for match in BLOCK.finditer(page)]
        assert fences == 2 * len(here), f"{path}: {fences} fences, of which {2 * len(here)} are understood"
        found += here
    return found


def _block(path: Path, page: str, match: re.Match[str]) -> Block:
    marker, indent, language, text = match.groups()
    kind, _, rest = (marker or "").partition(": ")
    treated, note = BY_LANGUAGE.get(language, "unknown"), ""
    if kind == "test":
        how, _, note = rest.partition(" ")
        treated = {"run": "run", "python": "run", "yaml": "parsed", "chain": "parsed"}.get(how, "unknown")
    elif kind == "not run":
        treated, note = ("not run" if rest.strip() else "unknown"), rest
    elif kind == "recipe":
        treated = "followed"
    line = page.count("\n", 0, match.start(3)) + 1
    text = re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)
    return Block(path.relative_to(ROOT).as_posix(), line, language, text, treated, note)


def commands(text: str) -> list[list[str]]:
    """The words of every command of a bash block, without variables set before it; of a loop the first turn."""
    found, values = [], {}
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        loop = re.fullmatch(r"\s*for (\w+) in (\S+) .*; do|\s*done", line)
        if loop:
            values |= {loop[1]: loop[2]} if loop[1] else {}
            continue
        command = Template(line).safe_substitute(values)
        for part in re.split(r" && ", command):
            words = shlex.split(re.sub(r"(^|\s)#.*", "", part))
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                found.append(words)
    return found


def main() -> None:
    """Print the list."""
    listed = blocks()
    for block in listed:
        print(f"{block!s:40} {block.language:7} {block.treated:11} {block.note}".rstrip())
    print(", ".join(f"{count} {treated}" for treated, count in Counter(b.treated for b in listed).most_common()))


if __name__ == "__main__":
    main()
