"""What a page says of itself in meta tags, wherever they stand and however they are written."""

import re
from collections.abc import Iterator

#: A tag goes to the next ">" that is in no quotes, or to the next "<", whatever quote is open.
_META = re.compile(
    r"""<[mM][eE][tT][aA](?![\w-])((?:[^<>"']++|"[^"<]{0,2000}+"|'[^'<]{0,2000}+'|["'])*+)"""
)


def find_metas(html: str, words: tuple[str, ...]) -> Iterator[str]:
    """Yield the attributes of each meta tag that has any of some words in them, in any case.

    Tags in a comment, a script or the value of an attribute count too.

    Args:
        html: the page.
        words: in lower case; most tags have none of them (descriptions, character sets).
    """
    for match in _META.finditer(html):
        attributes = match[1].lower()
        if any(word in attributes for word in words):
            yield match[1]
