"""Pages of fine-tuned runs on screens of any width, and under a user's hands."""

import time

import pytest
from tuned_runs import right_of_ten, write_tuned

from mswitch.flows.reports.downstream import write_downstream, write_run_page
from mswitch.flows.reports.pair import write_report
from mswitch.models.training.run_directory import read_run
from mswitch.pipelines.languages import languages

pytestmark = pytest.mark.browser

HOSTILE = "<script>document.title = 'run'</script> \u202eright to left " + "x" * 500


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of a pair, with a speed-up, of one with several seeds, and of a run."""
    place = tmp_path_factory.mktemp("downstream")
    rows = {code: 12 if number % 3 else 4 for number, code in enumerate(languages())}
    runs = {}
    for preset, counts in (("mt5-tiny", (3, 5, 7)), ("mswitch-tiny", (5, 7, 8))):
        runs[preset] = [
            write_tuned(
                place / f"{preset}-{step}",
                right_of_ten(count),
                preset,
                rows=rows,
                origin=step,
                inputs=HOSTILE.replace("{", "{{").replace("}", "}}"),
            )
            for step, count in zip((100, 200, 400), counts, strict=True)
        ]
    scratch = write_tuned(place / "scratch", right_of_ten(6), rows=rows, origin=None)
    write_downstream(*runs.values(), place / "pair", [scratch])
    write_run_page(runs["mswitch-tiny"][2], place / "run")
    sides = [
        [
            write_tuned(
                place / f"{preset}-of-{seed}", right_of_ten(5), preset, rows=rows, seed=seed
            )
            for seed in (0, 1)
        ]
        for preset in ("mt5-small", "mswitch-small-of-a-long-name")
    ]
    write_downstream(*sides, place / "seeds")
    pages = {name: place / name / "downstream.html" for name in ("pair", "seeds")}
    return {**pages, "run": place / "run" / "run.html"}


def open_page(chromium, path):
    chromium.resize(1280)
    chromium.open("about:blank")
    chromium.log("browser")
    chromium.open(path.as_uri())
    return chromium


@pytest.fixture(params=["pair", "seeds", "run"])
def page(request, chromium, pages):
    return open_page(chromium, pages[request.param])


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_and_all_can_be_read(page, width, scheme):
    page.resize(width)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    page.protocol("Emulation.setEmulatedMedia", features=media)
    page.run("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert page.overflow() == 0
    assert page.contrasts() == []
    page.protocol("Emulation.setEmulatedMedia", features=[])


def test_it_sorts_filters_and_complains_of_nothing(page):
    status = "return document.querySelector('[role=status]').textContent"
    assert page.run(status) == f"{len(languages())} languages, sorted by language."
    page.run("document.querySelector('[data-key=rows]').click()")
    assert page.run(status) == f"{len(languages())} languages, sorted by rows, descending."
    page.run("const q = document.querySelector('[name=q]'); q.focus()")
    page.press(*"swahili")
    assert page.run(status).startswith("1 of ")
    page.run("document.querySelector('#json').click()")
    time.sleep(0.3)
    assert page.run("return document.title") != "run"
    assert [line for line in page.log("browser") if line["level"] == "SEVERE"] == []


def test_the_section_of_a_report_fits_and_its_link_opens(chromium, full_pair, tmp_path):
    rows = dict.fromkeys(languages(), 8)
    tuned = [
        write_tuned(
            tmp_path / str(number),
            right_of_ten(5 + number),
            read_run(run)["preset"],
            rows=rows,
            origin_hash=read_run(run)["config_hash"],
        )
        for number, run in enumerate(full_pair)
    ]
    write_downstream(tuned[:1], tuned[1:], tmp_path / "downstream")
    write_report(*full_pair, tmp_path / "report", downstream=[tmp_path / "downstream"])
    report = open_page(chromium, tmp_path / "report" / "report.html")
    for width in (390, 1280):
        report.resize(width)
        assert report.overflow() == 0
    report.run("document.querySelector('section[aria-labelledby=downstream1] a').click()")
    report.wait_for(lambda: report.run("return document.title").endswith(" on toy"), "the page")
    assert [line for line in report.log("browser") if line["level"] == "SEVERE"] == []
