"""Pages of fine-tuned runs on screens of any width, and under a user's hands."""

import time

import pytest
from tuned_runs import right_of_ten, write_tuned

from flows.downstream.build import write_downstream, write_run_page
from pipelines.languages import languages

HOSTILE = "<script>document.title = 'run'</script> \u202eright to left " + "x" * 500


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of a pair, with a speed-up, and of a run."""
    place = tmp_path_factory.mktemp("downstream")
    rows = {code: 40 if number % 3 else 4 for number, code in enumerate(languages())}
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
    return {"pair": place / "pair" / "downstream.html", "run": place / "run" / "run.html"}


@pytest.fixture(params=["pair", "run"])
def page(request, chromium, pages):
    chromium.resize(1280)
    chromium.open("about:blank")
    chromium.log("browser")
    chromium.open(pages[request.param].as_uri())
    return chromium


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
