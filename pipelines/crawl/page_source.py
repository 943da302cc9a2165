"""Detects text that is the source of a page, which is dropped as `page_source`."""

#: Text is the source of a page if it has at least `_MIN_SIGNS` signs of markup and script, which
#: make up `_MARKUP_SHARE` of its bytes. `_SCRIPT_SHARE` is enough if half of the text is in lines
#: that end like lines of a script.
_MIN_SIGNS, _MARKUP_SHARE, _SCRIPT_SHARE = 20, 0.05, 0.02
_SIGNS, _SCRIPT_ENDS = b"<>{};=", (b";", b"{", b"}", b">")


def is_source(utf8: bytes) -> bool:
    """Return whether text is HTML or script instead of the prose it should show."""
    least, count = max(_MIN_SIGNS, _SCRIPT_SHARE * len(utf8)), utf8.count
    if len(utf8) - len(utf8.translate(None, _SIGNS)) < least:  # nearly every text ends here
        return False
    # Count "<" and ">" in pairs, since quoted mail has single ">". Ignore repeated "=", which
    # underlines headings.
    signs = 2 * min(count(b"<"), count(b">")) + count(b"{") + count(b"}") + count(b";")
    signs += count(b"=") - 2 * count(b"==")
    if signs < least:
        return False
    if signs >= _MARKUP_SHARE * len(utf8):
        return True
    # Also require a brace, because Greek questions end in a semicolon, like statements of a script.
    script = sum(len(line) for line in utf8.split(b"\n") if line.endswith(_SCRIPT_ENDS))
    return b"{" in utf8 and 2 * script >= len(utf8)
