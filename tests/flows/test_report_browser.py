"""The report in a real browser: keyboard, filter, address, narrow screens, and no request."""

import base64
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows.report.build import write_report

MISSING = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"{' and '.join(MISSING)} not installed"),
]
CHROMIUM_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
#: WebDriver's code points for keys.
ENTER, TAB, SPACE = "\ue007", "\ue004", "\ue00d"
PATIENCE_SECS = 20.0


class Browser:
    """Chromium behind the WebDriver protocol, spoken with urllib."""

    def __init__(self, profile: Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.process = subprocess.Popen(
            ["chromedriver", f"--port={port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.address = f"http://127.0.0.1:{port}"
        self.downloads = profile / "downloads"
        wait_for(self._ready, "chromedriver to start")
        options = {
            "args": [*CHROMIUM_OPTIONS, f"--user-data-dir={profile / 'user'}"],
            "prefs": {"download.default_directory": str(self.downloads)},
        }
        capabilities = {
            "browserName": "chrome",
            "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"},
            "goog:chromeOptions": options,
        }
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self.session = f"/session/{session['sessionId']}"

    def _ready(self) -> bool:
        try:
            return self._call("GET", "/status")["ready"]
        except urllib.error.URLError:
            return False

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self.address + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["value"]

    def open(self, address: str) -> None:
        self._call("POST", f"{self.session}/url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        body = {"script": script, "args": list(arguments)}
        return self._call("POST", f"{self.session}/execute/sync", body)

    def press(self, *keys: str) -> None:
        """Press keys on whatever has the focus, as a person would."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        keyboard = {"type": "key", "id": "keyboard", "actions": actions}
        self._call("POST", f"{self.session}/actions", {"actions": [keyboard]})

    def protocol(self, command: str, **params: Any) -> Any:
        body = {"cmd": command, "params": params}
        return self._call("POST", f"{self.session}/goog/cdp/execute", body)

    def log(self, kind: str) -> list[dict[str, Any]]:
        return self._call("POST", f"{self.session}/se/log", {"type": kind})

    def resize(self, width: int, height: int = 844) -> None:
        self.protocol(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def close(self) -> None:
        try:
            self._call("DELETE", self.session)
        finally:
            self.process.terminate()
            self.process.wait(10)


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECS
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE_SECS} s for {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def report(full_pair, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("browser") / "report"
    write_report(*full_pair, out)
    return out


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium, report) -> Browser:
    """The page, freshly opened from a file on a wide screen."""
    chromium.resize(1280)
    chromium.open("about:blank")
    chromium.open(f"{(report / 'report.html').as_uri()}")
    return chromium


def shown(browser: Browser, column: int) -> list[str | None]:
    """Sort values of one column, in the order of the rows on the page."""
    return browser.run(
        "return [...document.querySelectorAll('.wide-table tbody tr:not([hidden])')]"
        ".map(row => row.cells[arguments[0]].dataset.v ?? null)",
        column,
    )


def focus(browser: Browser, selector: str) -> None:
    browser.run("document.querySelector(arguments[0]).focus()", selector)


def status(browser: Browser) -> str:
    return browser.run("return document.querySelector('[role=status]').textContent")


def sorted_heads(browser: Browser) -> list[list[str]]:
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
    wait_for(lambda: len(shown(browser, 1)) < 107, "the filter")
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
        wait_for(target.is_file, name)
        text = target.read_text(encoding="utf-8-sig")
        original = (report / name).read_text(encoding="utf-8")
        if name.endswith(".json"):
            assert json.loads(text) == json.loads(original)
        else:
            assert text == original


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_overflows_or_is_cut_off(browser, width, scheme):
    browser.resize(width)
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.protocol("Emulation.setEmulatedMedia", features=media)
    assert overflow(browser) == 0
    # No text of a figure leaves the drawing; text elsewhere stays inside the page.
    outside = browser.run(
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
    smallest = browser.run(
        "return Math.min(...[...document.querySelectorAll('svg text')]"
        ".map(text => text.getBoundingClientRect().height).filter(Boolean))"
    )
    assert smallest >= 9
    assert contrasts(browser) == []
    browser.protocol("Emulation.setEmulatedMedia", features=[])


def overflow(browser: Browser) -> int:
    """By how many px the page is wider than the screen."""
    return browser.run(
        "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
    )


def contrasts(browser: Browser) -> list[str]:
    """Colours of text with less than 4.5 to 1 against the page."""
    return browser.run(
        """
        const canvas = document.createElement('canvas').getContext('2d');
        function light(colour) {
          canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
          const rgb = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255);
          const [r, g, b] = rgb.map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        }
        const page = light(getComputedStyle(document.body).backgroundColor);
        const bad = new Set();
        for (const element of document.querySelectorAll('main :not(title, desc)')) {
          if (![...element.childNodes].some(n => n.nodeType === 3 && n.data.trim())) continue;
          const style = getComputedStyle(element);
          const colour = element.closest('svg') ? style.fill : style.color;
          const mine = light(colour);
          const ratio = (Math.max(mine, page) + 0.05) / (Math.min(mine, page) + 0.05);
          if (ratio < 4.5) bad.add(`${element.tagName} ${colour} ${ratio.toFixed(2)}`);
        }
        return [...bad];
        """
    )


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
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = (report / "report.html").read_bytes()
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        browser.open(f"http://127.0.0.1:{server.server_port}/report.html")
        browser.run("document.querySelector('[data-key=delta]').click()")
        time.sleep(0.5)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert asked == ["/report.html"]


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
        assert overflow(browser) == 0
    finally:
        browser.protocol("Emulation.setEmulatedMedia", media="")
