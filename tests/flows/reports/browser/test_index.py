"""The index of reports under a user's hands, on any screen."""

import pytest

from mswitch.flows.reports.index import write_index

pytestmark = pytest.mark.browser


@pytest.fixture
def index(chromium, report):
    """The page over one report, freshly opened."""
    place = report.parent
    write_index(place)
    chromium.resize(1280)
    chromium.open("about:blank")
    chromium.open((place / "index.html").as_uri())
    return chromium


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_the_screen(index, width):
    index.resize(width)
    page = "document.documentElement"
    assert index.run(f"return {page}.scrollWidth - {page}.clientWidth") == 0


def test_it_sorts_filters_and_opens_a_report(index):
    status = "return document.querySelector('[role=status]').textContent"
    assert index.run(status) == "1 report, sorted by date."
    index.run("document.querySelector('[data-key=median]').click()")
    assert index.run(status) == "1 report, sorted by median step speed-up, descending."
    index.run("const q = document.querySelector('[name=q]'); q.focus()")
    index.press(*"mt5x")
    assert index.run(status).startswith("0 of 1 report, ")
    assert [line for line in index.log("browser") if line["level"] == "SEVERE"] == []
    index.run("document.querySelector('tbody a').click()")
    index.wait_for(lambda: "/report/report.html" in index.run("return location.href"), "the report")
