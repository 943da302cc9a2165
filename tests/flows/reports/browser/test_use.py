"""Pages under a user's hands: keyboard, filter, address, downloads, links."""

import json
import time

import pytest
from processes import wait_for
from tuned_runs import compare_tuned_from

from mswitch.flows.reports.pair import write_report
from mswitch.pipelines.languages import languages

pytestmark = pytest.mark.browser

PATIENCE_SECS = 20
#: WebDriver's code points for keys.
ENTER, TAB, SPACE = "\ue007", "\ue004", "\ue00d"


def shown(browser, column: int) -> list[str | None]:
    """Sort values of one column, in the order of the rows on the page."""
    return browser.run(
        "return [...document.querySelectorAll('.wide-table tbody tr:not([hidden])')]"
        ".map(row => row.cells[arguments[0]].dataset.v ?? null)",
        column,
    )


def focus(browser, selector: str) -> None:
    browser.run("document.querySelector(arguments[0]).focus()", selector)


def status(browser) -> str:
    return browser.run("return document.querySelector('[role=status]').textContent")


def sorted_heads(browser) -> list[list[str]]:
    return browser.run(
        "return [...document.querySelectorAll('[aria-sort]')]"
        ".map(th => [th.textContent, th.getAttribute('aria-sort')])"
    )


def test_the_keyboard_sorts(browser):
    focus(browser, "[data-key=documents]")
    browser.press(ENTER)
    counts = [int(value) for value in shown(browser, 3)]
    assert counts == sorted(counts, reverse=True)
    assert sorted_heads(browser) == [["Documents", "descending"]]
    assert status(browser) == "107 languages, sorted by documents, descending."
    browser.press(SPACE)
    counts = [int(value) for value in shown(browser, 3)]
    assert counts == sorted(counts)
    assert sorted_heads(browser) == [["Documents", "ascending"]]
    # The next Tab stop is the next column's button.
    browser.press(TAB, ENTER)
    tokens = [int(value) for value in shown(browser, 4)]
    assert tokens == sorted(tokens, reverse=True)


def test_numbers_sort_as_numbers_and_what_is_missing_comes_last(browser):
    for direction in (-1, 1):
        browser.run("document.querySelector('[data-key=step_speedup]').click()")
        values = shown(browser, 8)
        numbers = [float(value) for value in values if value is not None]
        assert 0 < len(numbers) < len(values)
        assert values[len(numbers) :] == [None] * (len(values) - len(numbers))
        assert numbers == sorted(numbers, reverse=direction < 0)


def test_typing_filters_without_regard_to_accents(browser):
    focus(browser, "[name=q]")
    browser.press(*"YORUBA")
    assert shown(browser, 1) == ["yo"]
    assert status(browser) == "1 of 107 languages, sorted by language."
    browser.run("const q = document.querySelector('[name=q]'); q.value = ''; q.focus()")
    browser.press(*"cestina")
    assert shown(browser, 1) == ["cs"]
    browser.press(ENTER)
    assert browser.run("return location.hash") == "#q=cestina"


def test_a_script_can_be_chosen(browser):
    focus(browser, "[name=script]")
    browser.press(*"Cyr")
    wait_for(lambda: len(shown(browser, 1)) < 107, PATIENCE_SECS)
    assert set(shown(browser, 2)) == {"cyrillic"}
    assert browser.run("return location.hash") == "#script=Cyrl"


def test_the_address_keeps_the_view(browser, report):
    page = (report / "report.html").as_uri()
    browser.open("about:blank")
    browser.open(f"{page}#sort=delta&dir=ascending&script=Latn&q=a")
    values = [float(value) for value in shown(browser, 7)]
    assert 5 < len(values) < 107
    assert values == sorted(values)
    assert sorted_heads(browser) == [["Δ loss", "ascending"]]
    assert browser.run("return document.querySelector('[name=q]').value") == "a"
    # What is no view of this table is ignored.
    browser.open("about:blank")
    browser.open(f"{page}#sort=nothing&dir=sideways&script=Xxxx")
    assert len(shown(browser, 1)) == 107
    assert sorted_heads(browser) == [["Language", "ascending"]]


def test_downloads_are_made_in_the_page(browser, report):
    for selector, name in (("a[download]", "per_language.csv"), ("#json", "report.json")):
        focus(browser, selector)
        browser.press(ENTER)
        target = browser.downloads / name
        wait_for(target.is_file, PATIENCE_SECS)
        text = target.read_text(encoding="utf-8-sig")
        original = (report / name).read_text(encoding="utf-8")
        if name.endswith(".json"):
            assert json.loads(text) == json.loads(original)
        else:
            assert text == original


@pytest.mark.parametrize(
    ("page", "key", "column", "noun", "sorted_by", "words"),
    [
        ("pair", "rows", "rows", "languages", "language", "swahili"),
        ("seeds", "rows", "rows", "languages", "language", "swahili"),
        ("run", "rows", "rows", "languages", "language", "swahili"),
        ("index", "median", "median step speed-up", "report", "date", "dense"),
    ],
    indirect=["page"],
)
def test_other_pages_sort_filter_and_complain_of_nothing(page, key, column, noun, sorted_by, words):
    count = len(languages()) if noun == "languages" else 1
    assert status(page) == f"{count} {noun}, sorted by {sorted_by}."
    page.run(f"document.querySelector('[data-key={key}]').click()")
    assert status(page) == f"{count} {noun}, sorted by {column}, descending."
    focus(page, "[name=q]")
    page.press(*words)
    assert len(shown(page, 0)) == 1
    page.press("x")
    assert status(page).startswith(f"0 of {count} {noun}, ")
    page.run("document.querySelector('#json').click()")
    time.sleep(0.3)
    assert page.run("return document.title") != "run"
    assert [line for line in page.log("browser") if line["level"] == "SEVERE"] == []


@pytest.mark.parametrize("page", ["index"], indirect=True)
def test_the_index_opens_a_report(page):
    page.run("document.querySelector('tbody a').click()")
    wait_for(lambda: "/report/report.html" in page.run("return location.href"), PATIENCE_SECS)


def test_the_section_of_a_report_fits_and_its_link_opens(chromium, full_pair, tmp_path):
    downstream = compare_tuned_from(full_pair, tmp_path, rows=dict.fromkeys(languages(), 8))
    write_report(*full_pair, tmp_path / "report", downstream=[downstream])
    chromium.open((tmp_path / "report" / "report.html").as_uri())
    for width in (390, 1280):
        chromium.resize(width)
        assert chromium.overflow() == 0
    chromium.run("document.querySelector('section[aria-labelledby=downstream1] a').click()")
    title = "return document.title"
    wait_for(lambda: chromium.run(title).endswith(" on toy"), PATIENCE_SECS)
