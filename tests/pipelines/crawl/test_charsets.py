import charsets
import langid_texts
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from resiliparse.parse.encoding import bytes_to_str

from mswitch.pipelines.crawl.charsets import decode
from mswitch.pipelines.crawl.extract import record_to_page
from mswitch.pipelines.crawl.fields import Reading
from mswitch.pipelines.crawl.warc import Record

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


def read(html: bytes, http_charset: str = "") -> str:
    return decode(html, http_charset).text


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
        ("«Ðüä» ÷ «ÿ»".encode("cp1252"), "windows-1252", "«Ðüä» ÷ «ÿ»"),
        (b"<meta charset=utf-16>even length.", "", "<meta charset=utf-16>even length."),
        (b"", "utf-8", ""),
        (b"", "", ""),
    ],
)
def test_what_is_declared_and_true(html, charset, expected):
    assert read(html, charset) == expected


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
    ("header", "meta"),
    [
        ("utf-8", ""),
        ("", "utf-8"),
        ("utf-8", "utf-8"),
        ("iso-8859-1", "utf-8"),
        ("iso-8859-1", ""),
        ("", "windows-1252"),
    ],
)
def test_what_is_not_in_the_declared_encoding_is_detected(text, encoding, header, meta):
    assert text in read(page(text.encode(encoding), meta), header)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(RUSSIAN, "windows-1251"), (GREEK, "iso-8859-7"), (JAPANESE, "shift_jis"), (POLISH, "utf-8")],
)
@pytest.mark.parametrize("header", ["iso-8859-1", "utf-8"])
def test_the_meta_tag_wins_over_a_header_that_is_a_default_or_wrong(text, encoding, header):
    html = page(text.encode(encoding), encoding)
    assert text in read(html, header)


@pytest.mark.parametrize("header", ["iso-8859-1", ""])
def test_utf8_is_utf8_where_only_a_default_says_otherwise(header):
    assert FRENCH in read(page(FRENCH.encode(), "iso-8859-1"), header)
    assert FRENCH in read(page(FRENCH.encode()), header)
    # One letter that could be the first half of another one proves nothing.
    assert read("caf\u00e9".encode("cp1252"), "iso-8859-1") == "café"


@pytest.mark.parametrize("header", ["utf-8", ""])
@pytest.mark.parametrize("text", [RUSSIAN, FRENCH, JAPANESE])
def test_utf8_with_broken_characters_is_utf8(text, header):
    whole = page(text.encode(), "utf-8")
    cut = whole[: whole.rindex(text[-1].encode()) + len(text[-1].encode()) - 1]
    assert read(cut, header).endswith(text[-2] if text[-1].isascii() else text[-2:-1])
    assert "\ufffd" not in read(cut, header)
    for damage in (b"\xff", b"\xe9", b"\xd0"):
        start = whole.index(b"<p>") + 3
        broken = whole[:start] + damage + b" " + whole[start:]
        assert f"<p>\ufffd {text}" in read(broken, header)


@pytest.fixture(scope="module")
def right_pages() -> dict[tuple[str, str, str], tuple[int, int]]:
    """The benchmark's counts on gflanguages' excerpts."""
    pages = charsets.made_pages(langid_texts.read_gflanguages())
    return charsets.right_pages(pages, charsets.read)


@pytest.mark.parametrize("kind", charsets.SIZES)
@pytest.mark.parametrize("group", charsets.GROUPS)
def test_made_pages_in_many_encodings(right_pages, group, kind):
    true, *others = (right_pages[group, kind, declared] for declared in charsets.DECLARED)
    assert true[0] == true[1] >= 8
    # What few pages are in is told apart where it is declared.
    least = {"Western": 1.0, "rare": 0.0}.get(group, 0.98)
    assert all(right >= least * pages for right, pages in others)


@pytest.mark.parametrize("meta", ["x-mac-cyrillic", "IBM855"])
def test_a_meta_tag_may_name_what_the_standard_lacks(meta):
    assert RUSSIAN in read(page(RUSSIAN.encode(meta.removeprefix("x-")), meta))


@pytest.mark.parametrize("declared", ["windows-1251", "koi8-r", "iso-8859-2", "windows-1252"])
@pytest.mark.parametrize("text", [RUSSIAN, FRENCH, JAPANESE])
def test_utf8_wins_over_any_encoding_of_single_bytes(text, declared):
    for header, meta in ((declared, ""), ("", declared)):
        assert text in read(page(text.encode(), meta), header)


@pytest.mark.parametrize("charset", ["gbk", "euc-kr", "tis-620"])
def test_a_few_characters_may_be_utf8_by_chance(charset):
    few, many = (f"<p>{'Ž' * count}".encode() for count in (7, 8))
    assert read(few, charset) == few.decode(charset)
    assert read(many, charset) == many.decode()
    assert read(few, "windows-1251") == few.decode()


@pytest.mark.parametrize(
    ("text", "charset", "declared"),
    [
        (RUSSIAN * 3, "koi8-r", "windows-1251"),
        (RUSSIAN * 3, "windows-1251", "iso-8859-2"),
        (GREEK * 5, "windows-1253", "windows-1251"),
        (JAPANESE * 8, "euc-jp", "windows-1254"),
    ],
)
def test_another_declaration_yields_to_what_can_be_read(text, charset, declared):
    assert text in read(page(text.encode(charset)), declared)
    # Of less text, less is known: the declaration stays.
    little = page(text[:20].encode(charset))
    assert read(little, declared) == little.decode(declared)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("declared", ["", "utf-8", "iso-8859-1", "utf-16"])
def test_utf16_is_known_by_its_zeros(encoding, mark, declared):
    for text in (RUSSIAN, JAPANESE, FRENCH):
        html = page(b"").decode().replace("<p>", f"<p>{text}")
        found = decode((mark + html).encode(encoding), declared)
        assert (found.text, found.charset) == (html, encoding)


def test_what_is_declared_as_utf16_has_to_be_that():
    html = b"<p>An even number of plain letters."
    assert read(html, "utf-16") == html.decode()
    # Zeros alone make no UTF-16.
    zeros = b"<p>" + b"\0" * 60
    assert read(zeros) == zeros.decode()


@pytest.mark.parametrize(
    ("header", "meta", "declared"),
    [
        ("ISO-8859-1", "koi8-r", "cp1252"),
        ("x-unknown", "koi8-r", "koi8-r"),
        ("koi8-r", "", "koi8-r"),
        ("", "", ""),
    ],
)
def test_what_is_declared_is_told(header, meta, declared):
    charset = "koi8-r" if "koi8-r" in (header, meta) else "koi8-u"
    text = page(RUSSIAN.encode("koi8-r"), meta).decode("koi8-r")
    assert decode(text.encode("koi8-r"), header) == (text, charset, declared)


def test_how_much_may_be_broken():
    """Up to a fifth is damage; up to half it is two encodings in one page; then it is another."""

    def mixed(utf8: int, other: int) -> str | None:
        sentence = " и ".encode() * utf8 + " é ".encode("cp1252") * other
        found = decode(page(sentence), "utf-8")
        return found.text if found else None

    assert (mixed(80, 20) or "").count("и") == 80
    assert mixed(70, 30) is mixed(55, 45) is None
    assert (mixed(0, 50) or "").count("é") == 50


def test_declared_encodings_may_be_damaged_too():
    html = page(JAPANESE.encode("shift_jis") + b"\x81 " + "①㈱".encode("cp932"), "shift_jis")
    text = read(html)
    assert f"{JAPANESE}\ufffd ①㈱" in text


def test_a_few_quotation_marks_of_windows_are_read():
    assert "It’s" in read(page(ENGLISH.encode("latin-1")), "utf-8")


@pytest.mark.parametrize("header", ["utf-8", "", "iso-8859-1"])
def test_what_nobody_can_tell_is_a_counted_drop(header):
    # Bytes beyond ASCII in long rows that are in no encoding.
    body = page(bytes([0xFF, 0x81, 0xFE, 0x8D, 0x90] * 60), "utf-8")
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset={header}\r\n\r\n".encode()
    record = Record(7, "http", b"http://a/", b"2024-01-01T00:00:00Z", b"<id>", head + body)
    dropped = record_to_page(record, "f.gz", Reading())
    assert (dropped.reason, dropped.source, dropped.stage) == ("bad_charset", "f.gz@7", "read")


def test_a_page_of_mojibake_becomes_russian():
    """The case that a user met: header UTF-8, bytes windows-1251; it passed as Vietnamese."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=UTF-8\r\n\r\n"
    body = head + page(RUSSIAN.encode("cp1251"))
    found = record_to_page(Record(0, "http", b"u", b"2024-01-01", b"", body), "f", Reading())
    assert found.text == RUSSIAN


@given(st.text(max_size=20).map(str.encode))
@example("\ufeff\ufeffa\x00b".encode())
def test_utf8_is_decoded_as_resiliparse_does(html):
    assert read(html, "utf-8") == bytes_to_str(html, "utf-8", errors="replace")


@given(st.text(max_size=20), st.sampled_from(["windows-1251", "gbk", "euc-kr", "iso-8859-2"]))
def test_what_is_valid_is_decoded_as_declared(text, charset):
    html = text.encode(charset, "ignore")
    assume("\ufffd" in html.decode("utf-8", "replace") or html.isascii())
    assert read(html, charset) == html.decode(charset)


CHARSETS = [
    *("", "utf-8", "iso-8859-1", "gbk", "koi8-r", "utf-16", "utf-16be", "iso-2022-jp", "x"),
    *("iso-2022-kr", "hz-gb-2312", "utf-7", "johab", "ibm850", "big5", "iso-8859-2"),
]


@given(st.binary(max_size=60), st.sampled_from(CHARSETS))
@example(b"a\xd8", "utf-16")
@example(b"+2AA-", "utf-7")
@example(b"\x1b$" * 30, "iso-2022-kr")
def test_any_bytes_are_text_or_nothing(html, charset):
    found = decode(html, charset)
    assert found is None or found.text.encode().decode() == found.text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("declared", ["utf-16", "utf-16le", "UTF-16BE"])
@pytest.mark.parametrize(
    "html",
    ["<p>Hi</p>", "<!doctype html><p>日本語の文章がここにあります。" * 9, "一" * 3000 + "<br>二"],
)
def test_utf16_without_a_mark_that_the_header_declares(encoding, declared, html):
    found = decode(html.encode(encoding), declared)
    assert found is not None
    assert found.text == html


@pytest.mark.parametrize("html", ["<p>Grüße aus Köln</p>", "<p>plain</p>", "<p>日本語の文章</p>"])
def test_utf16_that_is_declared_falsely(html):
    found = decode(html.encode(), "utf-16")
    assert found is not None
    assert found.text == html
