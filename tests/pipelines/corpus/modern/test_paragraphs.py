from collections.abc import Iterable

import pytest

from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.modern.paragraphs import html_without_paragraphs, paragraph_reason
from pipelines.crawl.extract import normalize_lines
from pipelines.crawl.html_text import html_to_text

CONFIG = CorpusConfig(profile="modern", min_lines=3, min_long_line_characters=200)


def of(lines: Iterable[str], tag: str = "p") -> str:
    return f"<html><body><div>{''.join(f'<{tag}>{line}</{tag}>' for line in lines)}</div></body>"


PAGES = {
    "paragraphs": of(["x" * 200] * 3),
    "two": of(["x" * 200] * 2 + ["x" * 199] * 50),
    "Chinese": of(["汉" * 70] * 3),
    "short Chinese": of(["汉" * 69] * 3),
    "Arabic": of(["ب" * 170] * 3),
    "short Arabic": of(["ب" * 169] * 3),
    "Cyrillic": of(["ж" * 199] * 3),
    "Chinese links": of(["x" * 199] * 3 + ["汉"] * 49),
    "preformatted": of(["\n".join(["x" * 200] * 3)], "pre"),
    "short preformatted": of(["\n".join(["x" * 20] * 25)], "pre"),
    "one line": of(["x" * 1000]),
    "nothing": "",
}


def test_html_that_cannot_have_paragraphs_is_named():
    reasons = html_without_paragraphs([page.encode() for page in PAGES.values()], CONFIG)
    named = {name for name, reason in zip(PAGES, reasons, strict=True) if reason}
    assert named == {
        *("two", "short Chinese", "Cyrillic", "Chinese links", "short preformatted"),
        *("one line", "nothing"),
    }
    assert set(reasons) == {None, "short_blocks"}


@pytest.mark.parametrize("min_lines", [1, 2, 3, 5])
@pytest.mark.parametrize("limit", [0, 1, 100, 200])
def test_no_page_that_has_paragraphs_is_named(min_lines: int, limit: int):
    config = CorpusConfig(
        profile="modern", min_lines=min_lines, min_long_line_characters=limit, keep_und=False
    )
    reasons = html_without_paragraphs([page.encode() for page in PAGES.values()], config)
    for page, reason in zip(PAGES.values(), reasons, strict=True):
        text = normalize_lines(html_to_text(page))
        if text and paragraph_reason(text, config) is None:
            assert reason is None


def test_no_page_no_reason():
    assert html_without_paragraphs([], CONFIG) == []
