import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from resiliparse.parse.encoding import bytes_to_str

from pipelines.crawl.archives import Record
from pipelines.crawl.charsets import decode
from pipelines.crawl.extract import record_to_page
from pipelines.crawl.html.text import decode_html
from pipelines.records import Page, Rejected

#: Articles 1 and 2 of the Universal Declaration of Human Rights, in part.
RUSSIAN = (
    "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и "
    "совестью и должны поступать в отношении друг друга в духе братства."
)
UKRAINIAN = "Всі люди народжуються вільними і рівними у своїй гідності та правах, і їх є багато."
GREEK = "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα."
JAPANESE = "すべての人間は、生れながらにして自由であり、かつ、尊厳と権利とについて平等である。"
KOREAN = "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 똠방각하."
CHINESE = "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。"
POLISH = (
    "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw. Są oni źli."
)
FRENCH = (
    "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de "
    "raison et de conscience et doivent agir les uns envers les autres dans un esprit de fraternité"
)
ENGLISH = "All human beings are born free and equal in dignity and rights. It\x92s so."


def page(text: bytes, meta: str = "") -> bytes:
    head = f'<meta http-equiv="Content-Type" content="text/html; charset={meta}">' if meta else ""
    return f"<html><head>{head}</head><body><p>".encode() + text + b"</p></body></html>"


@pytest.mark.parametrize(
    ("html", "charset", "expected"),
    [
        ("Grüße".encode(), "utf-8", "Grüße"),
        ("Привет".encode("cp1251"), "windows-1251", "Привет"),
        ("<meta charset=koi8-r>Привет".encode("koi8-r"), "", "<meta charset=koi8-r>Привет"),
        ("日本語".encode("shift_jis"), "Shift_JIS", "日本語"),
        (b"plain", "unicode_escape", "plain"),
        (rb"\x41", "unicode_escape", r"\x41"),
        (b"plain", "../../etc", "plain"),
        ("café".encode("cp1252"), "iso-8859-1", "café"),
        # Russian, were it in KOI8-R: a declaration that proves true stays.
        ("Ðòé÷åô".encode("cp1252"), "windows-1252", "Ðòé÷åô"),
        (b"<meta charset=utf-16>even length.", "", "<meta charset=utf-16>even length."),
        (b"", "utf-8", ""),
        (b"", "", ""),
    ],
)
def test_what_is_declared_and_true(html, charset, expected):
    assert decode_html(html, charset) == expected


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *((RUSSIAN, name) for name in ("cp1251", "koi8-r", "iso8859-5")),
        *((UKRAINIAN, name) for name in ("cp1251", "koi8-u")),
        *((GREEK, "iso8859-7"), (POLISH, "cp1250"), (POLISH, "iso8859-2"), (FRENCH, "cp1252")),
        *((JAPANESE, name) for name in ("shift_jis", "euc_jp")),
        *((CHINESE, "gbk"), (KOREAN, "cp949")),
    ],
)
@pytest.mark.parametrize(
    ("header", "meta"), [("utf-8", ""), ("", "utf-8"), ("utf-8", "utf-8"), ("iso-8859-1", "utf-8")]
)
def test_what_is_not_in_the_declared_encoding_is_detected(text, encoding, header, meta):
    html = page(text.encode(encoding), meta)
    if header == "iso-8859-1" and text in (POLISH, FRENCH):
        # In the Latin alphabet such a header may be right: nothing says otherwise.
        text = text.encode(encoding).decode("cp1252")
    assert text in decode_html(html, header)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(RUSSIAN, "windows-1251"), (GREEK, "iso-8859-7"), (JAPANESE, "shift_jis"), (POLISH, "utf-8")],
)
@pytest.mark.parametrize("header", ["iso-8859-1", "utf-8"])
def test_the_meta_tag_wins_over_a_header_that_is_a_default_or_wrong(text, encoding, header):
    html = page(text.encode(encoding), encoding)
    assert text in decode_html(html, header)


@pytest.mark.parametrize("header", ["iso-8859-1", ""])
def test_utf8_is_utf8_where_only_a_default_says_otherwise(header):
    assert FRENCH in decode_html(page(FRENCH.encode(), "iso-8859-1"), header)
    assert FRENCH in decode_html(page(FRENCH.encode()), header)
    # One letter that could be the first half of another one proves nothing.
    assert decode_html("caf\u00e9".encode("cp1252"), "iso-8859-1") == "café"


@pytest.mark.parametrize("header", ["utf-8", ""])
@pytest.mark.parametrize("text", [RUSSIAN, FRENCH, JAPANESE])
def test_utf8_with_broken_characters_is_utf8(text, header):
    whole = page(text.encode(), "utf-8")
    cut = whole[: whole.rindex(text[-1].encode()) + len(text[-1].encode()) - 1]
    assert decode_html(cut, header).endswith(text[-2] if text[-1].isascii() else text[-2:-1])
    assert "\ufffd" not in decode_html(cut, header)
    for damage in (b"\xff", b"\xe9", b"\xd0"):
        start = whole.index(b"<p>") + 3
        broken = whole[:start] + damage + b" " + whole[start:]
        assert f"<p>\ufffd {text}" in decode_html(broken, header)


def test_how_much_may_be_broken():
    """Up to a fifth is damage; up to half it is two encodings in one page; then it is another."""

    def mixed(utf8: int, other: int) -> str | None:
        sentence = " и ".encode() * utf8 + " é ".encode("cp1252") * other
        return decode(page(sentence), "utf-8")

    assert (mixed(80, 20) or "").count("и") == 80
    assert mixed(70, 30) is mixed(55, 45) is None
    assert (mixed(0, 50) or "").count("é") == 50


def test_declared_encodings_may_be_damaged_too():
    html = page(JAPANESE.encode("shift_jis") + b"\x81 " + "①㈱".encode("cp932"), "shift_jis")
    text = decode_html(html)
    assert f"{JAPANESE}\ufffd ①㈱" in text


def test_a_few_quotation_marks_of_windows_are_read():
    assert "It’s" in decode_html(page(ENGLISH.encode("latin-1")), "utf-8")


@pytest.mark.parametrize("header", ["utf-8", "", "iso-8859-1"])
def test_what_nobody_can_tell_is_a_counted_drop(header):
    # Bytes beyond ASCII in long rows that are in no encoding.
    body = page(bytes([0xFF, 0x81, 0xFE, 0x8D, 0x90] * 60), "utf-8")
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset={header}\r\n\r\n".encode()
    record = Record(7, "http", b"http://a/", b"2024-01-01T00:00:00Z", b"<id>", head + body)
    dropped = record_to_page(record, "f.gz")
    assert isinstance(dropped, Rejected)
    assert (dropped.reason, dropped.source, dropped.stage) == ("bad_charset", "f.gz@7", "read")


def test_a_page_of_mojibake_becomes_russian():
    """The case that a user met: header UTF-8, bytes windows-1251; it passed as Vietnamese."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=UTF-8\r\n\r\n"
    body = head + page(RUSSIAN.encode("cp1251"))
    found = record_to_page(Record(0, "http", b"u", b"2024-01-01", b"", body), "f")
    assert isinstance(found, Page)
    assert found.text == RUSSIAN


@given(st.text(max_size=20).map(str.encode))
@example("\ufeff\ufeffa\x00b".encode())
def test_utf8_is_decoded_as_resiliparse_does(html):
    assert decode_html(html, "utf-8") == bytes_to_str(html, "utf-8", errors="replace")


@given(st.text(max_size=20), st.sampled_from(["windows-1251", "gbk", "euc-kr", "iso-8859-2"]))
def test_what_is_valid_is_decoded_as_declared(text, charset):
    html = text.encode(charset, "ignore")
    assert decode_html(html, charset) == html.decode(charset)


CHARSETS = ["", "utf-8", "iso-8859-1", "gbk", "koi8-r", "utf-16", "utf-16be", "iso-2022-jp", "x"]


@given(st.binary(max_size=60), st.sampled_from(CHARSETS))
@example(b"a\xd8", "utf-16")
def test_any_bytes_are_text_or_nothing(html, charset):
    text = decode(html, charset)
    assert text is None or text.encode().decode() == text
