from collections.abc import Iterable

import pytest

from pipelines.corpus.rules.length_and_paragraphs import ParagraphsByScript
from pipelines.crawl.html_text import html_to_text
from pipelines.crawl.html_tokens import Markup
from pipelines.crawl.text_lines import normalize_lines
from pipelines.records import Page

RULE = ParagraphsByScript(min_lines=3, min_long_line_characters=200)


def of(lines: Iterable[str], tag: str = "p") -> str:
    return f"<html><body><div>{''.join(f'<{tag}>{line}</{tag}>' for line in lines)}</div></body>"


PAGES = {
    "paragraphs": of(["x" * 200] * 3),
    "two": of(["x" * 200] * 2 + ["x" * 199] * 50),
    "Chinese": of(["汉" * 70] * 3),
    "short Chinese": of(["汉" * 69] * 3),
    "Arabic": of(["ب" * 170] * 3),
    "short Arabic": of(["ب" * 169] * 3),
    "Korean": of(["한" * 110] * 3),
    "short Korean": of(["한" * 109] * 3),
    "Japanese": of(["日本語の" * 27 + "のに"] * 3),
    "short Japanese": of(["かな日本" * 27 + "の"] * 3),
    "Han and kana": of(["日本語の" * 18] * 3),
    "Cyrillic": of(["ж" * 199] * 3),
    "Chinese links": of(["x" * 199] * 3 + ["汉"] * 49),
    "preformatted": of(["\n".join(["x" * 200] * 3)], "pre"),
    "short preformatted": of(["\n".join(["x" * 20] * 25)], "pre"),
    "one line": of(["x" * 1000]),
    "nothing": "",
}


def without(page: str, rule: ParagraphsByScript = RULE) -> str | None:
    return rule.html_reason(Markup(page.encode()))


def reason(text: str, rule: ParagraphsByScript = RULE) -> str | None:
    return rule.reason(Page("", text.encode(), "", 0, "", ""))


def test_html_that_cannot_have_paragraphs_is_named():
    reasons = [without(page) for page in PAGES.values()]
    named = {name for name, reason in zip(PAGES, reasons, strict=True) if reason}
    assert named == {
        *("two", "short Chinese", "short Arabic", "Cyrillic", "Chinese links"),
        *("short Korean", "short Japanese", "short preformatted"),
        *("one line", "nothing"),
    }
    assert set(reasons) == {None, "short_blocks"}


#: What pages have before their text.
BEFORE = (
    "<script>a()</script\r\n>",
    "<script>a()</script\t>",
    "<style\r\ntype='text/css'><!-- p{} </style>",
    "<script\r\nsrc=x>'<!--'</script>",
    "<title>What does the <script> tag do?</title>",
    "<title>A <!-- comment</title>",
    "<textarea><!-- counter </textarea>",
    "<iframe src=x><!-- no frames</iframe>",
    "<noframes><!-- </noframes>",
    "<xmp><!-- <script></xmp>",
    "<svg><defs><style /></defs></svg>",
    "<svg><script href='a'/></svg>",
    "<!-- menu --!>",
    "</!-- end of menu>",
    "<!-->",
    "<!--[if !IE]><!-->",
    "<meta content='<p><!--[if gte mso 9]><xml> '>",
    '<a title="<b>use</b> <!-- here">z</a>',
    '<input value="<b>x</b><script src=a>">',
    "<!DOCTYPE html>\ufeff\0",
    "<?php echo '<script>' ?>",
)


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("after", ["", "<script>b()</script><style>p{}</style><!-- end -->"])
def test_what_comes_before_its_text_does_not_hide_a_page(before: str, after: str):
    page = f"{before}{of(['lorem ipsum ' * 20] * 5)}{after}"
    text = normalize_lines(html_to_text(page).encode()).decode()
    assert reason(text) is None
    assert without(page) is None


@pytest.mark.parametrize("limit", [40, 100, 140])
def test_short_paragraphs_of_dense_scripts_are_seen(limit: int):
    rule = ParagraphsByScript(min_lines=1, min_long_line_characters=limit)
    assert without(of(["漢" * round(0.35 * limit)]), rule) is None


@pytest.mark.parametrize("min_lines", [1, 2, 3, 5])
@pytest.mark.parametrize("limit", [0, 1, 100, 200])
def test_no_page_that_has_paragraphs_is_named(min_lines: int, limit: int):
    rule = ParagraphsByScript(min_lines, limit)
    reasons = [without(page, rule) for page in PAGES.values()]
    for page, named in zip(PAGES.values(), reasons, strict=True):
        text = normalize_lines(html_to_text(page).encode()).decode()
        if text and reason(text, rule) is None:
            assert named is None
