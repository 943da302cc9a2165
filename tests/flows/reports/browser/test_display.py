"""Pages on screens of any width, on paper, without scripts; and that they ask nobody."""

import base64
import json
import time

import pytest
from file_server import FileServer

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", ["report", "pair", "seeds", "run", "index"], indirect=True)
def test_nothing_overflows_or_is_cut_off(page, width, scheme):
    page.resize(width)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    page.protocol("Emulation.setEmulatedMedia", features=media)
    page.run("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert page.overflow() == 0
    # No text of a figure leaves the drawing; text elsewhere stays inside the page.
    outside = page.run(
        """
        const cut = [];
        for (const text of document.querySelectorAll('svg text')) {
          const inner = text.getBoundingClientRect();
          if (!inner.width) continue;
          const outer = text.closest('svg').getBoundingClientRect();
          if (inner.left < outer.left - 2 || inner.right > outer.right + 2)
            cut.push(text.textContent);
        }
        const right = document.documentElement.clientWidth;
        const words = 'main :is(p, h1, h2, h3, dd, dt, small, li, button)';
        for (const element of document.querySelectorAll(words)) {
          if (element.closest('.scroll')) continue;
          const box = element.getBoundingClientRect();
          if (box.width && box.right > right + 1) cut.push(element.textContent);
        }
        return cut;
        """
    )
    assert outside == []
    smallest = page.run(
        "return Math.min(99, ...[...document.querySelectorAll('svg text')]"
        ".map(text => text.getBoundingClientRect().height).filter(Boolean))"
    )
    assert smallest >= 9
    assert page.contrasts() == []
    page.protocol("Emulation.setEmulatedMedia", features=[])


def test_a_table_that_goes_on_has_a_shadow_at_its_edge(browser):
    browser.resize(500)
    table = "const table = document.querySelector('.wide-table');"
    assert browser.run(f"{table} return table.scrollWidth - table.clientWidth") > 0
    # What hides the shadow scrolls along, so that it shows only where there is more.
    attached = browser.run(f"{table} return getComputedStyle(table).backgroundAttachment")
    assert attached == "local, local, scroll, scroll"


def test_no_request_leaves_the_page(browser, report):
    browser.log("performance")
    browser.open("about:blank")
    browser.open((report / "report.html").as_uri())
    for selector in ("[data-key=delta]", "#json", "summary"):
        browser.run("document.querySelector(arguments[0]).click()", selector)
    time.sleep(0.5)
    asked = []
    for entry in browser.log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.append(message["params"]["request"]["url"])
    outside = [a for a in asked if not a.startswith(("data:", "blob:", "file:", "about:"))]
    assert outside == []
    files = [address for address in asked if address.startswith("file:")]
    assert all(address.endswith("/report.html") for address in files)
    assert files, "the log must have seen the page itself"
    complaints = [line for line in browser.log("browser") if line["level"] == "SEVERE"]
    assert complaints == []


def test_served_over_http_the_page_is_the_only_request(browser, report):
    with FileServer() as server:
        server.files["/report.html"] = (report / "report.html").read_bytes()
        server.headers["/report.html"] = {"Content-Type": "text/html"}
        browser.open(f"{server.url}/report.html")
        browser.run("document.querySelector('[data-key=delta]').click()")
        time.sleep(0.5)
    assert [path for path, _ in server.requests] == ["/report.html"]


def test_without_scripts_the_page_is_complete(browser, report):
    browser.protocol("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open("about:blank")
        browser.open((report / "report.html").as_uri())
        browser.protocol("Emulation.setScriptExecutionDisabled", value=False)
        rows = browser.run("return document.querySelectorAll('.wide-table tbody tr').length")
        assert rows == 107
        # Controls that need scripts are gone; the CSV link, which does not, is there.
        for selector, display in (("form[role=search]", "none"), ("#json", "none")):
            code = "return getComputedStyle(document.querySelector(arguments[0])).display"
            assert browser.run(code, selector) == display
        assert browser.run("return document.querySelector('a[download]').offsetWidth") > 0
    finally:
        browser.protocol("Emulation.setScriptExecutionDisabled", value=False)


def test_it_prints(browser):
    printed = browser.protocol("Page.printToPDF", preferCSSPageSize=True)["data"]
    assert base64.b64decode(printed).startswith(b"%PDF")
    browser.protocol("Emulation.setEmulatedMedia", media="print")
    try:
        code = "return getComputedStyle(document.querySelector('.tools')).display"
        assert browser.run(code) == "none"
        # A4 less its margins, at 96 px to the inch.
        browser.resize(688)
        assert browser.overflow() == 0
    finally:
        browser.protocol("Emulation.setEmulatedMedia", media="")
