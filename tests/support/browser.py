"""Chromium, driven by the WebDriver protocol."""

import contextlib
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import free_port, wait_for

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


class Browser:
    """Chromium behind the WebDriver protocol, spoken with urllib."""

    def __init__(self, profile: Path):
        port = free_port()
        self.process = subprocess.Popen(
            ["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.address = f"http://127.0.0.1:{port}"
        self.downloads = profile / "downloads"
        wait_for(self._ready, 20)
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

    def overflow(self) -> int:
        """By how many px the page is wider than the screen."""
        return self.run(
            "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
        )

    def contrasts(self) -> list[str]:
        """Colours of text with less than 4.5 to 1 against the page."""
        return self.run(
            """
            const canvas = document.createElement('canvas').getContext('2d');
            function light(colour) {
              canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
              const rgb = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255);
              const [r, g, b] =
                rgb.map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
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

    def close(self) -> None:
        try:
            self._call("DELETE", self.session)
        finally:
            self.process.terminate()
            self.process.wait(10)


@contextlib.contextmanager
def opened_chromium(profile: Path) -> Iterator[Browser]:
    """Start Chromium with a profile's directory; skip the test if it is not installed."""
    for name in ("chromium", "chromedriver"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    browser = Browser(profile)
    try:
        yield browser
    finally:
        browser.close()
