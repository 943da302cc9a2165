"""Finds meta tags in a page, at any place and in any form."""

import re
from collections.abc import Iterator

#: A tag ends at the next ">" outside quotes, or at the next "<" even within quotes.
_META = re.compile(
    r"""<[mM][eE][tT][aA](?![\w-])((?:[^<>"']++|"[^"<]{0,2000}+"|'[^'<]{0,2000}+'|["'])*+)"""
)


def find_metas(html: str, words: tuple[str, ...]) -> Iterator[str]:
    """Yield the attributes of each meta tag that contains any of `words`, ignoring case.

    Tags in a comment, a script or the value of an attribute count too.

    Args:
        html: the page.
        words: words in lower case; most tags contain none (descriptions, character sets).
    """
    for match in _META.finditer(html):
        attributes = match[1].lower()
        if any(word in attributes for word in words):
            yield match[1]
