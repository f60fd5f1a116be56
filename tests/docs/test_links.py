"""Every Markdown file reads where it lies: links lead somewhere, and nothing is filled in."""

import functools
import re
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOT_OURS = ("build", "dist", "demo-output", "node_modules")
FILES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(p.startswith(".") or p in NOT_OURS for p in path.relative_to(ROOT).parts)
)
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
# ](target), ](<target>) and ](target "title"); HTML's attributes; [name]: target.
LINK = re.compile(
    r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)|(?:href|src)=\"([^\"]+)\"|^\[[^\]]+\]: (\S+)", re.M
)


def prose(text):
    """Markdown without what is code."""
    text = re.sub(r"^( *)(```|~~~).*?^\1\2", "", text, flags=re.M | re.S)
    return re.sub(r"(`+)[^`]*?\1", "", text)


@functools.cache
def text_of(path):
    return path.read_text(encoding="utf-8")


@functools.cache
def anchors(path):
    """What links may name: headings as forges *and* MkDocs call them, and HTML's ids."""
    text = re.sub(r"^( *)(```|~~~).*?^\1\2", "", text_of(path), flags=re.M | re.S)
    found = set(re.findall(r"<\w+ [^>]*\b(?:id|name)=\"([^\"]+)\"", text))
    headings = re.findall(r"^#+ (.+?)(?: #+)?$", text, re.M)
    for heading in headings:
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", heading)
        forge = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        site = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
        site = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", site).strip().lower())
        if forge == site and headings.count(heading) == 1:
            found.add(site)
    return found


def test_files():
    assert {"README.md", "docs/index.md", "docs/layers.md", "benchmarks/RESULTS.md"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_links(name):
    """All in one test a file: fewer would be chosen of a table of links."""
    path, wrong = ROOT / name, []
    for groups in LINK.findall(prose(text_of(path))):
        target = next(filter(None, groups))
        if re.match(r"[a-z]+:", target):
            assert target.startswith(("https://", "http://", "mailto:")), target
            continue
        where, _, anchor = target.partition("#")
        file = (path.parent / where).resolve() if where else path
        if not file.is_relative_to(ROOT) or not file.exists():
            wrong.append(target)
        elif file.relative_to(ROOT).parts[:1] in [(each,) for each in NOT_OURS]:
            wrong.append(f"{target}, which no checkout has")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            wrong.append(target)
    assert not wrong, f"{name} links to what is not there"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_filled_in(name):
    """What only MkDocs understands would stand on a forge as it is written."""
    text = prose(text_of(ROOT / name))
    markup = (r"\{\{", r"\{ ?[#:.]\w", r"^!!! ", r"^::: ", r"^=== \"", r"\[TOC\]")
    for what in (*markup, "<script", "<style"):
        found = re.search(what, text, re.M)
        assert not found, f"{name}: {text[found.start() : found.start() + 60]!r}"
