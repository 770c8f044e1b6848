"""Put a study's numbers between the marks of its page; used by the scripts beside this file."""

from __future__ import annotations

import re

__all__ = ["page_with"]


def page_with(content: str, mark: str, text: str) -> str:
    """Put a text between `<!-- mark -->` and `<!-- end -->`, which must stand in a page's content once.

    Args:
        content: The page.
        mark: What its opening comment says.
        text: Markdown.

    Returns:
        The page with the text in place of what stood there.
    """
    pattern = rf"(<!-- {re.escape(mark)} -->\n).*?(<!-- end -->)"
    found, count = re.subn(pattern, lambda match: match[1] + text + "\n" + match[2], content, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"the page has {count} places for {mark!r}, expected one")
    return found
