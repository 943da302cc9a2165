"""Pages of every kind, to open in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, opened_chromium
from tuned_runs import right_of_ten, write_pretrained_longer, write_tuned

from mswitch.flows.reports.downstream import write_downstream, write_run_page
from mswitch.flows.reports.index import write_index
from mswitch.flows.reports.pair import write_report
from mswitch.pipelines.languages import languages

HOSTILE = "<script>document.title = 'run'</script> \u202eright to left " + "x" * 500


@pytest.fixture(scope="session")
def report(full_pair, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("browser") / "reports" / "report"
    write_report(*full_pair, out)
    return out


@pytest.fixture(scope="session")
def pages(report, tmp_path_factory) -> dict[str, Path]:
    """A report; comparisons with a speed-up and of several seeds; a run; the index of reports."""
    place = tmp_path_factory.mktemp("tuned")
    rows = {code: 12 if number % 3 else 4 for number, code in enumerate(languages())}

    def tuned(name: str, count: int, preset: str = "mt5-tiny", **options) -> Path:
        return write_tuned(place / name, right_of_ten(count), preset, rows=rows, **options)

    inputs = HOSTILE.replace("{", "{{").replace("}", "}}")
    sides = write_pretrained_longer(place, rows=rows, inputs=inputs)
    write_downstream(*sides, place / "pair", [tuned("scratch", 6, origin=None)])
    write_run_page(sides[1][2], place / "run")
    of_seeds = [
        [tuned(f"{preset}-{seed}", 5, preset, seed=seed) for seed in (0, 1)]
        for preset in ("mt5-small", "mswitch-small-of-a-long-name")
    ]
    write_downstream(*of_seeds, place / "seeds")
    write_index(report.parent)
    return {
        "report": report / "report.html",
        "pair": place / "pair" / "downstream.html",
        "seeds": place / "seeds" / "downstream.html",
        "run": place / "run" / "run.html",
        "index": report.parent / "index.html",
    }


@pytest.fixture(scope="session")
def chromium(tmp_path_factory) -> Iterator[Browser]:
    with opened_chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def open_page(chromium: Browser, path: Path) -> Browser:
    """Open a page from its file, freshly and on a wide screen."""
    chromium.resize(1280)
    chromium.open("about:blank")
    chromium.log("browser")
    chromium.open(path.as_uri())
    return chromium


@pytest.fixture
def browser(chromium, report) -> Browser:
    """The report."""
    return open_page(chromium, report / "report.html")


@pytest.fixture
def page(request, chromium, pages) -> Browser:
    """The page that a test's parameter names."""
    return open_page(chromium, pages[request.param])
