"""Text that is the source of a page, which is dropped as `page_source`."""

#: A text is the source of a page if it has so many signs of markup and script, by themselves and
#: of its bytes; or fewer, where half of it is lines that end as those of a script do.
_MIN_SIGNS, _MARKUP_SHARE, _SCRIPT_SHARE = 20, 0.05, 0.02
_SIGNS, _SCRIPT_ENDS = b"<>{};=", (b";", b"{", b"}", b">")


def is_source(utf8: bytes) -> bool:
    """Tell whether text is HTML or script that somebody should have read, and is no prose."""
    least, count = max(_MIN_SIGNS, _SCRIPT_SHARE * len(utf8)), utf8.count
    if len(utf8) - len(utf8.translate(None, _SIGNS)) < least:  # one look at nearly every text
        return False
    # What quotes a mail has no other end, and a rule under a heading is one sign many times.
    signs = 2 * min(count(b"<"), count(b">")) + count(b"{") + count(b"}") + count(b";")
    signs += count(b"=") - 2 * count(b"==")
    if signs < least:
        return False
    if signs >= _MARKUP_SHARE * len(utf8):
        return True
    # In Greek, a question ends as a statement of a script does.
    script = sum(len(line) for line in utf8.split(b"\n") if line.endswith(_SCRIPT_ENDS))
    return b"{" in utf8 and 2 * script >= len(utf8)
