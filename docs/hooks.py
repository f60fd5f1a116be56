"""What the site needs beyond Markdown: parts of the README, formulas, and made files.

- ``{{ README: Heading }}`` on a line of its own stands for that section of the README, and
  ``{{ README }}`` for what comes before its first section.
- Formulas become MathML when the site is built, so pages need no script to show them.
- ``reference.md`` is made from the docstrings; pictures are taken from build/pictures.

Whatever cannot be resolved fails the build.
"""

from __future__ import annotations

import html
import importlib.util
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PICTURES = ROOT / "build" / "pictures"


def on_files(files: Any, config: Any) -> Any:
    """Adds the pictures and the reference."""
    pictures = sorted(PICTURES.glob("*.svg"))
    if not pictures:
        raise PluginError(f"there are no pictures in {PICTURES}: `make docs` draws them")
    for path in pictures:
        source = str(path)
        files.append(File.generated(config, f"pictures/{path.name}", abs_src_path=source))
    files.append(File.generated(config, "reference.md", content=_reference()))
    return files


def _reference() -> str:
    spec = importlib.util.spec_from_file_location("_tfconv_reference", DOCS / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.reference()


# Parts of the README.

_PART = re.compile(r"^\{\{ README(?:: (.+?))? \}\}$", re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Puts parts of the README in their places."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return _PART.sub(lambda match: readme_part(readme, match.group(1)), markdown)


def readme_part(readme: str, heading: str | None) -> str:
    """A section's text without its heading; for None, what follows the title."""
    first, *sections = re.split(r"^## (.+)\n", readme, flags=re.MULTILINE)
    found = dict(zip(sections[::2], sections[1::2]))
    found[None] = first.partition("\n")[2]  # without the title
    if heading not in found:
        raise PluginError(f"the README has no section {heading!r}")
    return found[heading].strip()


# Formulas. The Markdown extension arithmatex marks them; it knows what is code.

_FORMULA = re.compile(
    r'<(?P<tag>div|span) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)


def on_page_content(content: str, page: Any, config: Any, files: Any) -> str:
    """Turns formulas into MathML."""
    where = page.file.src_uri
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
