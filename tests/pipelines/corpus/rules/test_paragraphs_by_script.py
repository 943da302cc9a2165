from collections.abc import Iterable

import pytest

from mswitch.pipelines.corpus.rules.length_and_paragraphs import ParagraphsByScript
from mswitch.pipelines.crawl.html.text import html_to_text
from mswitch.pipelines.crawl.text_lines import normalize_lines
from mswitch.pipelines.records import Page

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


def reason(page: str, rule: ParagraphsByScript = RULE) -> str | None:
    text = normalize_lines(html_to_text(page).encode())
    return rule.reason(Page("", text, "", 0, "", ""))


def test_pages_without_paragraphs_are_named_by_script():
    named = {name for name, page in PAGES.items() if reason(page)}
    assert named == {
        *("two", "short Chinese", "short Arabic", "Cyrillic", "Chinese links"),
        *("short Korean", "short Japanese", "short preformatted"),
        *("one line", "nothing"),
    }


@pytest.mark.parametrize("limit", [40, 100, 140])
def test_short_paragraphs_of_dense_scripts_are_kept(limit):
    rule = ParagraphsByScript(min_lines=1, min_long_line_characters=limit)
    assert reason(of(["漢" * round(0.35 * limit)] * 3), rule) is None
