"""Reads documents in packages: HTML, GNOME's Mallard pages, MediaWiki's message catalogues."""

import html
import json
import re
from collections.abc import Collection, Iterator
from xml.etree import ElementTree

MIN_MESSAGE_CHARACTERS = 40
MESSAGES_PER_PAGE = 40

_CODE = r"[a-z]{2,3}(?:[-_@][A-Za-z]{2,8})*"
_LANGUAGE_IN_PATH = (
    re.compile(rf"/help/({_CODE})/"),
    re.compile(rf"/i18n/(?:.*/)?({_CODE})\.json$"),
    re.compile(rf"/man/({_CODE})(?:\.[A-Za-z0-9-]+)?/man\d/"),
    re.compile(rf"\.({_CODE})\.html?$"),
    re.compile(rf"/doc/[^/]+/(?:html/)?({_CODE})/[^/]+\.html$"),
)
_LANGUAGE_IN_PACKAGE = re.compile(r"-([a-z]{2}(?:-[a-z]{2})?)$")
_HIDDEN = re.compile(rb"<(script|style)\b.*?</\1\s*>|<!--.*?-->|<[^>]*>", re.DOTALL | re.IGNORECASE)
_SPACE = re.compile(rb"\s+")
_TAGS = rb"h[1-6]|p|li|dt|dd|td|th"
_BLOCK = re.compile(
    rb"<(%b)\b[^>]*>((?:(?!<(?:%b)\b).)*?)</\1\s*>" % (_TAGS, _TAGS), re.DOTALL | re.IGNORECASE
)
_MARKUP = (
    (re.compile(r"<[^<>]*>"), ""),
    (re.compile(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|]*)\]\]"), r"\1"),
    (re.compile(r"\[(?:https?:|mailto:|\$|\{)\S* ([^\]]*)\]"), r"\1"),
    (re.compile(r"\{\{[^{}|]*\|(?:[^{}|]*\|)*([^{}|]*)\}\}"), r"\1"),
    (re.compile(r"'''?"), ""),
)
_MALLARD_SKIP = {"info", "media", "code", "screen", "comment"}


def detect_language(path: str, package: str) -> str:
    """Return the language in a file's path, else in its package's name, else `und`."""
    for pattern in _LANGUAGE_IN_PATH:
        match = pattern.search(f"/{path}")
        if match:
            return match[1].replace("_", "-")
    match = _LANGUAGE_IN_PACKAGE.search(package)
    return match[1] if match else "und"


def count_html_text(document: bytes) -> int:
    """Estimate the bytes of text that an HTML document shows."""
    return len(_SPACE.sub(b" ", _HIDDEN.sub(b" ", document)))


def list_html_blocks(document: bytes) -> Iterator[bytes]:
    """Return the texts of an HTML document's blocks, in the form that `remove_blocks` compares."""
    return (_strip_markup(block[2]) for block in _BLOCK.finditer(document))


def remove_blocks(document: bytes, original: Collection[bytes]) -> bytes:
    """Remove untranslated blocks from an HTML document: blocks that are also in `original`."""
    return _BLOCK.sub(
        lambda block: b"" if _strip_markup(block[2]) in original else block[0], document
    )


def _strip_markup(markup: bytes) -> bytes:
    return b" ".join(_HIDDEN.sub(b" ", markup).split())


def read_mallard(document: bytes) -> list[tuple[str, str]]:
    """Return titles and paragraphs of a Mallard page as (HTML tag, text).

    Return nothing for documents with a DTD, so that no entity is ever expanded.
    """
    if b"<!DOCTYPE" in document or b"<!ENTITY" in document:
        return []
    try:
        root = ElementTree.fromstring(document)  # noqa: S314 (no DTD: checked above)
    except ElementTree.ParseError:
        return []
    blocks: list[tuple[str, str]] = []

    def visit(element: ElementTree.Element) -> None:
        for child in element:
            name = str(child.tag).rpartition("}")[2]
            if name in ("title", "p"):
                title = "h2" if any(tag == "h1" for tag, _ in blocks) else "h1"
                tag = title if name == "title" else "p"
                blocks.append((tag, " ".join("".join(child.itertext()).split())))
            elif name not in _MALLARD_SKIP:
                visit(child)

    visit(root)
    return blocks


def render_mallard(
    document: bytes, lang: str, original: Collection[bytes] = frozenset()
) -> bytes | None:
    """Turn a Mallard page into HTML; return None if it has no paragraphs.

    Leave out untranslated blocks: blocks whose text is also in `original`, texts of English pages.
    """
    all_blocks = read_mallard(document)
    kept = [(tag, text) for tag, text in all_blocks if text and text.encode() not in original]
    if all(tag != "p" for tag, _ in kept):
        return None
    title = next((text for tag, text in all_blocks if tag == "h1"), "")
    blocks = [f"<{tag}>{html.escape(text)}</{tag}>" for tag, text in kept]
    head = f"<title>{html.escape(title)}</title>"
    page = (
        f'<!DOCTYPE html>\n<html lang="{html.escape(lang)}">\n<head><meta charset="utf-8">{head}'
        "</head>\n<body>\n" + "\n".join(blocks) + "\n</body></html>\n"
    )
    return page.encode()


def plain_message(message: str) -> str:
    """Return a wiki message without markup; keep the last alternative of links and plurals."""
    for pattern, replacement in _MARKUP:
        message = pattern.sub(replacement, message)
    return " ".join(html.unescape(message).split())


def make_message_pages(document: bytes) -> Iterator[bytes]:
    """Yield the prose of a JSON message catalogue as pages of `MESSAGES_PER_PAGE` lines."""
    try:
        catalogue = json.loads(document)
    except ValueError:
        return
    lines = []
    for key, message in catalogue.items() if isinstance(catalogue, dict) else ():
        is_prose = isinstance(message, str) and not key.startswith("@")
        line = plain_message(message) if is_prose else ""
        if len(line) >= MIN_MESSAGE_CHARACTERS and not re.search(r"[{}\[\]|=]", line):
            lines.append(line)
    for start in range(0, len(lines), MESSAGES_PER_PAGE):
        page = "\n".join(lines[start : start + MESSAGES_PER_PAGE])
        yield page.encode("utf-8", "replace")
