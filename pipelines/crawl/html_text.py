"""HTML to plain text, whoever wrote the HTML."""

from resiliparse.extract.html2text import extract_plain_text

from pipelines.crawl.charsets import decode
from pipelines.crawl.html_nesting import Nesting, may_exceed, nesting
from pipelines.crawl.html_tokens import Markup

#: At these limits parsing takes half a second, at 50 times them minutes: its time is quadratic in
#: nesting depth (browsers stop at 512), elements that are made again take 4 us and 400 bytes each,
#: and those that are passed 2 ns.
MOST_NESTING = Nesting(depth=5_000, made_again=200_000, passed=200_000_000)
#: Parsing takes time quadratic in attributes per tag, here 0.1 s.
MAX_ATTRIBUTES = 5_000


class UnreadableError(ValueError):
    """A page that cannot be turned into text; `reason` is counted."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


def decode_html(html: bytes, http_charset: str = "") -> str:
    """Decode HTML; see `decode_markup`."""
    return decode_markup(html, http_charset)[0]


def decode_markup(html: bytes, http_charset: str = "") -> tuple[str, Markup]:
    """Decode HTML by `charsets.decode`; return it as text and as markup.

    Raises:
        UnreadableError: nobody can tell which encoding it is in.
    """
    text = decode(html, http_charset)
    if text is None:
        raise UnreadableError("bad_charset", "its bytes are in no encoding that can be told")
    return text, Markup(text.encode())


def html_to_text(html: str, main_content: bool = True, markup: Markup | None = None) -> str:
    """Return the text a reader sees, one line per block, list item or table row.

    Alternative texts, form fields, link targets and list bullets are left out: they are no
    running text. With `main_content`, resiliparse's heuristics also leave out navigation,
    sidebars, footers and comments. `markup` is the same HTML, where it is at hand.

    Raises:
        UnreadableError: the HTML is nested too deeply, has a tag with too many attributes
            (both would take minutes to parse), or resiliparse refuses it.
    """
    _check_cost(markup or Markup(html.encode("utf-8", "surrogatepass")))
    try:
        return extract_plain_text(
            html,
            preserve_formatting=True,
            main_content=main_content,
            list_bullets=False,
            alt_texts=False,
            links=False,
            form_fields=False,
            noscript=False,
            comments=False,
        )
    except Exception as error:
        raise UnreadableError("unreadable_html", str(error)) from error


def _check_cost(html: Markup) -> None:
    attributes = html.tokens.most_attributes
    if attributes > MAX_ATTRIBUTES:
        raise UnreadableError("too_many_attributes", f"a tag of {attributes} attributes")
    if not may_exceed(html, MOST_NESTING):
        return
    found = nesting(html, MOST_NESTING)
    if found.exceeds(MOST_NESTING):
        detail = f"{found.depth} deep, {found.made_again} made again, {found.passed} passed"
        raise UnreadableError("nested_too_deeply", detail)
