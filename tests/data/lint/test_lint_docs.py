"""docs/check.md names every kind of finding, with the sentences of the catalogue."""

from pathlib import Path

from mallowspo.data.lint import KINDS

PAGE = Path(__file__).resolve().parents[3] / "docs" / "check.md"


def test_the_page_explains_every_kind():
    text = PAGE.read_text(encoding="utf-8").replace("`", "")
    missing = [name for name, kind in KINDS.items() if f"| {name} |" not in text or kind.why not in text]
    assert not missing
    assert not [name for name, kind in KINDS.items() if kind.todo not in text]
