"""What the site needs beyond Markdown: formulas, and links to files beside the pages.

The pages read in the repository as they lie there. For the site, formulas become MathML when it
is built, so that pages need no script to show them, and links to sources lead to ``repo_url`` or,
where there is none, to the checkout. Whatever cannot be resolved fails the build.
"""

from __future__ import annotations

import html
import os
import posixpath
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parents[1]

# Links out of docs/.

_OUTSIDE = re.compile(r"(?<=\]\()(?:\.\./)+[^)#]+")
_MARKED = re.compile(r'href="beside:([^"]+)"')


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Marks links that leave docs/, which MkDocs takes for broken."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def marked(match: re.Match) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[0]))
        if path.startswith("docs/"):
            return match[0]
        if path.startswith("..") or not (ROOT / path).exists():
            raise PluginError(f"{page.file.src_uri}: there is no {match[0]}")
        return f"beside:{path}"

    return _OUTSIDE.sub(marked, markdown)


def beside(content: str, page: Any, config: Any) -> str:
    """Resolves those links."""
    here = os.path.dirname(page.file.abs_dest_path)
    base = config.repo_url or os.path.relpath(ROOT, here)
    return _MARKED.sub(lambda match: f'href="{posixpath.join(base, match[1])}"', content)


# Parts with scripts, which forges do not show: there stands a sentence in their place.

_PART = re.compile(r'<div data-part="([^"]+)">.*?</div>', re.DOTALL)


def _part(match: re.Match) -> str:
    return (ROOT / "docs" / match[1]).read_text(encoding="utf-8")


# Formulas. The Markdown extension arithmatex marks them; it knows what is code.

_FORMULA = re.compile(
    r'<(?P<tag>div|span) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Turns formulas into MathML, and resolves links."""
    where = page.file.src_uri
    content = _PART.sub(_part, beside(content, page, config))
    made = _FORMULA.sub(lambda match: mathml(match["latex"], match["tag"] == "div", where), content)
    if "arithmatex" in made:
        raise PluginError(f"{where}: a formula is left as it was")
    prose = _Prose.of(made)
    at = prose.find("$")
    if at >= 0:  # Markdown has not seen a formula there
        near = prose[max(at - 40, 0) : at + 40]
        raise PluginError(f"{where}: a dollar sign is left: {near!r}")
    return made


def mathml(escaped: str, block: bool, where: str = "") -> str:
    """A formula, escaped for HTML, as MathML; PluginError if it is not understood."""
    latex = html.unescape(escaped).strip()
    if block:  # equations side by side stand below each other where the page is narrow
        parts = "".join(_mathml(part.strip(), block, where) for part in latex.split(r"\qquad"))
        return f'<div class="formula">{parts}</div>'
    return _mathml(latex, block, where)


def _mathml(latex: str, block: bool, where: str) -> str:
    try:
        made = convert(latex, display="block" if block else "inline")
        texts = "".join(ElementTree.fromstring(html_entities(made)).itertext())
    except Exception as error:  # the converter has errors of many kinds
        raise PluginError(f"{where}: formula not understood: {latex!r}: {error!r}") from error
    if "\\" in texts or not texts.strip():  # commands that it does not know are left as they are
        raise PluginError(f"{where}: formula not understood: {latex!r} gives {texts!r}")
    return made


def html_entities(text: str) -> str:
    """MathML for an XML parser, which knows numbers of characters but no names."""
    return re.sub(r"&(?!#|amp;|lt;|gt;|quot;|apos;)(\w+);", lambda m: html.unescape(m[0]), text)


class _Prose(HTMLParser):
    """The text of a page that is neither code nor formula."""

    def __init__(self):
        super().__init__()
        self.inside, self.texts = 0, []

    @classmethod
    def of(cls, page: str) -> str:
        parser = cls()
        parser.feed(page)
        return "".join(parser.texts)

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.inside += tag in ("code", "pre", "math")

    def handle_endtag(self, tag: str) -> None:
        self.inside -= tag in ("code", "pre", "math")

    def handle_data(self, data: str) -> None:
        if not self.inside:
            self.texts.append(data)


# Nothing is loaded from elsewhere.

_LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//[^>]*>|"
    r"<link\b(?=[^>]*\brel=\"?(?:stylesheet|preconnect|icon|preload))"
    r"[^>]*\bhref=\"?(?:https?:)?//[^>]*>"
)


def on_post_build(config: Any) -> None:
    """Checks that no page needs the network."""
    for path in sorted(Path(config.site_dir).rglob("*.html")):
        found = _LOADED.search(path.read_text(encoding="utf-8"))
        if found:
            raise PluginError(f"{path.name} loads something from elsewhere: {found.group(0)}")
