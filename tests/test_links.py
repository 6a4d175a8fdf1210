"""Links and anchors of all Markdown, as a reader of the repository follows them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parent.parent
PAGES = [
    page
    for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("[!.]*/**/*.md")])
    if "node_modules" not in page.parts and "site" not in page.relative_to(ROOT).parts
]
MARKDOWN = MarkdownIt("commonmark").enable("table")


def tokens(page: Path) -> list[Token]:
    return MARKDOWN.parse(page.read_text())


def links(page: Path) -> Iterator[str]:
    """Targets of links and pictures; what stands in code is none."""
    for token in tokens(page):
        for child in token.children or ():
            target = child.attrs.get("href") or child.attrs.get("src")
            if target:
                yield str(target)


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them: letters, digits, `_` and `-`, hyphens for blanks."""
    found: list[str] = []
    parsed = tokens(page)
    for opening, inline in itertools.pairwise(parsed):
        if opening.type == "heading_open":
            text = "".join(child.content for child in inline.children or ())
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return set(found)


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    missing = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_broken_link_and_a_broken_anchor_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A `--flag`, and _more_ (1.5)\n\n# Twice\n\n# Twice\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n\n[ok](#here) [ok](other.md#a---flag-and-more-15) [ok](other.md#twice-1)\n"
        "[out](https://example.org/#x) `[code](nowhere.md)`\n\n| a |\n|---|\n| [cell](gone.md) |\n\n"
        "[no](#there) [no](other.md#twice-2) ![no](gone.png)\n"
    )
    assert broken(page) == ["gone.md", "#there", "other.md#twice-2", "gone.png"]


def test_the_site_has_every_page() -> None:
    """Everything that mkdocs.yml names is there, and of docs/ it leaves out nothing."""
    text = (ROOT / "mkdocs.yml").read_text()
    nav = yaml.safe_load(text[text.index("\nnav:") :])["nav"]
    named = set(pages_of(nav))
    assert {page for page in named if not (ROOT / page).is_file()} == set()
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= named


def pages_of(nav: object) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, dict):
        for part in nav.values():
            yield from pages_of(part)
    elif isinstance(nav, list):
        for part in nav:
            yield from pages_of(part)
