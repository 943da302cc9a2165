"""Converts HTML to plain text, even hostile HTML."""

from resiliparse.extract.html2text import extract_plain_text

from mswitch.pipelines.crawl.html.limits import MAX_COST, bound_parser_cost


class UnreadableError(ValueError):
    """A page that cannot be turned into text; `reason` is counted."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


def html_to_text(html: str, main_content: bool = True) -> str:
    """Return the text a reader sees, one line per block, list item or table row.

    Alternative texts, form fields, link targets and list bullets are left out, since they are not
    running text. With `main_content`, resiliparse's heuristics also leave out navigation, sidebars,
    footers and comments.

    Raises:
        UnreadableError: the parser may need over a second for the HTML (`limits`), or resiliparse
            refuses it.
    """
    cost = bound_parser_cost(html.encode("utf-8", "surrogatepass"))
    if cost.ambiguous:
        raise UnreadableError("nested_too_deeply", "within SVG or frames, tags may be hidden")
    if cost.attributes > MAX_COST:
        raise UnreadableError("too_many_attributes", "comparing attributes would take too long")
    if cost.elements > MAX_COST:
        raise UnreadableError("nested_too_deeply", "building its elements would take too long")
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
