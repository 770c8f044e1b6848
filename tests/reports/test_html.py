from __future__ import annotations

import base64
import importlib.metadata
import re
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_study import MAKERS, build_report

from mallowspo.errors import InputError
from mallowspo.reports.blocks import (
    BulletList,
    Callout,
    CodeBlock,
    Definitions,
    Example,
    Examples,
    Figure,
    Meta,
    Paragraph,
    Report,
    Section,
    Table,
    literal,
)
from mallowspo.reports.html import current_meta, render_report, write_report
from mallowspo.reports.palette import DARK_SCHEME, HOUSE_MARK, INK, PAPER

VOID = {"meta", "img", "br", "link", "input"}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Page(HTMLParser):
    """The parts of a page that the tests ask for; fails where tags do not close in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []  # (path of open tags, text)
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute of <{tag}> is given twice"
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open and self._open[-1] == tag, f"</{tag}> closes {self._open}"
        self._open.pop()

    def handle_data(self, data):
        self.texts.append(("/".join(self._open), data))

    def all(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag in tags]

    def text_in(self, tag: str) -> str:
        return "".join(text for path, text in self.texts if tag in path.split("/"))

    def visible(self) -> str:
        return "".join(text for path, text in self.texts if "/style" not in path)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return build_report(tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="module")
def text(report):
    return render_report(report)


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def one_block(*blocks) -> str:
    return render_report(Report("Title", "", [Section("Heading", blocks)]))


def svg_of(page: Page) -> list[bytes]:
    sources = [image["src"] for image in page.all("img")]
    return [base64.b64decode(s.split(",", 1)[1]) for s in sources if s.startswith("data:image/svg+xml;")]


# Structure


def test_the_page_asks_for_nothing_from_elsewhere(text, page):
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert not page.all("script", "link", "iframe", "object", "embed", "base")
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert attributes.get("src", "data:").startswith("data:")
        assert attributes.get("href", "#").startswith("#")


def test_the_page_is_a_document_for_readers_of_every_kind(text, page):
    assert text.startswith("<!doctype html>")
    assert page.all("html")[0]["lang"] == "en"
    assert any(m.get("name") == "viewport" for m in page.all("meta"))
    assert any(m.get("charset") == "utf-8" for m in page.all("meta"))
    assert page.text_in("title") == "Does knowing dispersion help?"
    assert len(page.all("main")) == len(page.all("header")) == len(page.all("footer")) == 1
    assert all(image["alt"].strip() for image in page.all("img"))
    assert len(page.all("img")) == len(MAKERS)


def test_headings_nest_without_gaps(page):
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and 3 in levels
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_ids_are_unique_and_every_reference_has_its_target(page):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        assert attributes.get("aria-labelledby", ids[0]) in ids
        assert attributes.get("href", f"#{ids[0]}").removeprefix("#") in ids


def test_contents_are_listed_from_three_sections_on():
    def links(count):
        sections = [Section(f"Part `{index}`") for index in range(count)]
        return [a["href"] for a in Page(render_report(Report("T", "", sections))).all("a")]

    assert links(2) == []
    assert links(3) == ["#part-0", "#part-1", "#part-2"]


def test_headings_of_the_same_words_and_of_no_letters_have_their_own_anchors():
    headings = ["Loss", "loss", "Run", "φ & θ", "***"]
    sections = Page(render_report(Report("T", "", [Section(h) for h in headings]))).all("h2")
    assert [s["id"] for s in sections] == ["loss", "loss-2", "run-2", "φ-θ", "section"]


def test_tables_name_their_rows_and_columns(page):
    scopes = [attributes.get("scope") for attributes in page.all("th")]
    assert scopes.count("col") == 4 and scopes.count("row") == 4


def test_figures_of_the_house_follow_the_dark_scheme_and_stay_well_formed(page):
    pictures = svg_of(page)
    assert len(pictures) == len(MAKERS)
    for picture in pictures:
        root = ElementTree.fromstring(picture)
        style = root[0]
        assert style.tag.endswith("style") and "prefers-color-scheme:dark" in (style.text or "")
        body = picture.decode()
        for light in (INK, PAPER):
            assert f"fill: {light}" in body, "the rules of the dark scheme would find nothing"
            assert f'[style*="fill: {light}"]{{fill:{DARK_SCHEME[light]}!important}}' in body


def test_the_page_and_its_figures_share_ink_and_paper(text):
    light, dark = text.split("@media screen and (prefers-color-scheme: dark)")[:2]
    assert f"--ink: {INK}" in light and f"--paper: {PAPER}" in light
    assert f"--ink: {DARK_SCHEME[INK]}" in dark and f"--paper: {DARK_SCHEME[PAPER]}" in dark


def test_the_foot_tells_how_to_repeat_the_study(page):
    foot = page.text_in("footer")
    for fact in (
        "mallowspo quickstart --output_dir out --name '<b>'",
        "mallowspo 0.1.0",
        "trl 1.16.0",
        "2026-01-31 12:00 UTC",
        "0, 1, 2",
        "3 min 12 s",
        "2 CPU cores",
    ):
        assert fact in foot


def test_a_report_without_meta_has_no_foot():
    assert not Page(render_report(Report("T", "S", []))).all("footer")
    assert "0.0 s" in Page(render_report(Report("T", "S", [], Meta(run_time=0.0)))).text_in("footer")


def test_the_same_report_gives_the_same_page(report, text):
    assert render_report(report) == text


# Text

NASTY = """<script>alert("1")</script> & <img src=x onerror='y'> </style></title> {{ 7 * 7 }} {% raw %}"""


@pytest.mark.parametrize(
    "block",
    [
        Paragraph(NASTY),
        BulletList([NASTY]),
        Definitions([(NASTY, NASTY)]),
        Callout("note", NASTY),
        CodeBlock(NASTY, NASTY),
        Examples([Example(NASTY, [(NASTY, NASTY)], NASTY)], NASTY),
        Table([NASTY, "b"], [[NASTY, NASTY]], NASTY),
        Figure(PNG, NASTY, NASTY),
    ],
    ids=lambda block: type(block).__name__,
)
def test_text_of_every_block_is_escaped(block):
    page = Page(one_block(block))
    assert not page.all("script")
    assert NASTY in page.visible()
    assert not [a for a in page.all("img") if "onerror" in a]
    if isinstance(block, Figure):
        assert page.all("img")[0]["alt"] == NASTY


def test_text_around_the_blocks_is_escaped():
    meta = Meta(command=NASTY, versions={NASTY: NASTY}, date=NASTY, extra={NASTY: NASTY})
    sections = [Section(NASTY, [], [Section(NASTY)]) for _ in range(3)]
    page = Page(render_report(Report(NASTY, NASTY, sections, meta)))
    assert not page.all("script", "img")
    assert page.text_in("title") == page.text_in("h1") == NASTY
    assert page.text_in("footer").count(NASTY) == 6


@pytest.mark.parametrize(
    ("written", "html"),
    [
        ("`a<b`", "<code>a&lt;b</code>"),
        ("an *index* here", "an <em>index</em> here"),
        ("*a `b` c*", "<em>a <code>b</code> c</em>"),
        ("*(so)*, *x*.", "<em>(so)</em>, <em>x</em>."),
        ("2 * 3 * 4", "2 * 3 * 4"),
        ("a*b*c", "a*b*c"),
        ("**bold**", "**bold**"),
        ("`*not*`", "<code>*not*</code>"),
        (r"\*not\* \`not\`", "*not* `not`"),
        ("one ` alone", "one ` alone"),
    ],
)
def test_marks(written, html):
    assert f"<p>{html}</p>" in one_block(Paragraph(written))


PRINTABLE = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1)


@given(PRINTABLE)
def test_literal_text_shows_as_it_is(text):
    shown = Page(one_block(BulletList([literal(text)]))).text_in("li")
    assert shown == text


@given(PRINTABLE)
def test_no_author_can_break_the_page(text):
    Page(one_block(Paragraph(text), BulletList([text]), Table([text], [[text]], text)))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_code_shows_every_character_and_makes_control_characters_visible(text):
    shown = Page(one_block(CodeBlock(text))).text_in("pre")
    assert shown == "".join(chr(0x2400 + ord(c)) if ord(c) < 32 and c not in "\t\n\r" else c for c in text).replace(
        "\x7f", "␡"
    )


def test_half_a_character_from_a_tokenizer_does_not_stop_the_page(tmp_path):
    write_report(tmp_path / "r.html", Report("T", "", [Section("S", [CodeBlock("a\ud83db")])]))
    assert Page((tmp_path / "r.html").read_text(encoding="utf-8")).text_in("pre") == "a?b"


def test_an_empty_line_starts_a_paragraph():
    assert len(Page(one_block(Paragraph("a\nb\n \n\nc\n"))).all("p")) == 2
    assert len(Page(one_block(Callout("note", "a\n\nb"))).all("p")) == 3


# Pictures


def test_a_picture_of_any_kind_is_carried_whole(tmp_path):
    foreign = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><rect style="fill: #ffffff"/></svg>'
    (tmp_path / "a.svg").write_bytes(foreign)
    sources = [PNG, tmp_path / "a.svg", b"\xff\xd8\xff\xe0rest", foreign]
    images = Page(one_block(*[Figure(source, "alt") for source in sources])).all("img")
    kinds = [image["src"].split(";")[0] for image in images]
    assert kinds == ["data:image/png", "data:image/svg+xml", "data:image/jpeg", "data:image/svg+xml"]
    contents = [base64.b64decode(image["src"].split(",")[1]) for image in images]
    assert contents == [PNG, foreign, b"\xff\xd8\xff\xe0rest", foreign]
    assert {image["class"] for image in images} == {"foreign"}, "not ours to recolour"


def test_only_the_mark_of_the_house_allows_recolouring():
    ours = f'<svg xmlns="http://www.w3.org/2000/svg" width="1"><desc>{HOUSE_MARK}</desc></svg>'.encode()
    page = Page(one_block(Figure(ours, "a")))
    assert page.all("img")[0]["class"] == "house"
    (picture,) = svg_of(page)
    assert picture.startswith(b'<svg xmlns="http://www.w3.org/2000/svg" width="1"><style>')
    assert re.sub(rb"<style>.*</style>", b"", picture) == ours


@pytest.mark.parametrize(
    ("source", "says"),
    [("absent.svg", "there is no file 'absent.svg'"), (b"GIF89a", "6 bytes is neither SVG, PNG nor JPEG")],
)
def test_a_picture_that_is_none_is_refused_and_the_old_page_stays(tmp_path, monkeypatch, source, says):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "report.html"
    write_report(path, Report("Old", "", []))
    before = path.read_bytes()
    with pytest.raises(InputError, match=says):
        write_report(path, Report("New", "", [Section("S", [Figure(source, "alt")])]))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_page_that_cannot_be_moved_into_place_leaves_nothing_behind(tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OSError):
        write_report(tmp_path / "report.html", Report("T", "", []))
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_writing_makes_the_folder_and_one_file(tmp_path, report, text):
    write_report(tmp_path / "new" / "report.html", report)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["report.html"]
    assert (tmp_path / "new" / "report.html").read_text(encoding="utf-8") == text


# Meta


def test_current_meta_describes_this_process(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/mallowspo", "quickstart", "--name", "two words"])
    meta = current_meta(seeds=range(2), run_time=3.0, extra={"Machine": "m"})
    assert meta.command == "mallowspo quickstart --name 'two words'"
    assert meta.versions["torch"] == importlib.metadata.version("torch")
    assert meta.versions["Python"] == "{}.{}.{}".format(*sys.version_info[:3])
    assert meta.seeds == (0, 1) and meta.run_time == 3.0 and meta.extra == {"Machine": "m"}
    datetime.strptime(meta.date, "%Y-%m-%d %H:%M UTC")
    assert "3.0 s" in render_report(Report("T", "", [], replace(meta)))


def test_a_page_without_figures_needs_no_drawing_library():
    code = (
        "import sys; from mallowspo.reports.blocks import Report; from mallowspo.reports.html import render_report;"
        "render_report(Report('T', 'S', []));"
        "sys.exit(any(m in sys.modules for m in ('matplotlib', 'torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
