"""The web server of pages: what it gives, and all that it does not."""

import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from mswitch.flows.cli.main import main
from mswitch.flows.reports.page_server import page_app

HERE = "http://localhost:4280"


@pytest.fixture
def place(tmp_path) -> Path:
    """A storage with an index, a report, the page of a corpus, and what nobody shall read."""
    place = tmp_path / "runs"
    files = {
        "index.html": "all reports",
        "pairs/one/report/report.html": "<p>verdict</p>",
        "pairs/one/report/report.json": "{}",
        "pairs/one/report/manifest.json": "secret",
        "pairs/one/.report.partial-1/report.html": "secret",
        "pairs/één paar/report/report.html": "accents",
        "corpora/web.html": "statistics",
        "corpora/web/stats.json": "secret",
        "corpora/web/data/de/index.html/train.parquet": "secret",
        "notes.html": "secret",
        "operators.toml": "secret",
    }
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    (tmp_path / "report.html").write_text("secret")
    (place / "pairs/report.html").symlink_to(tmp_path / "report.html")
    (place / "pairs/out").symlink_to(tmp_path)
    return place


PAGES = {
    "/": "all reports",
    "/pairs/one/report/report.html": "<p>verdict</p>",
    "/pairs/one/report/report.json": "{}",
    "/pairs/%C3%A9%C3%A9n%20paar/report/report.html": "accents",
    "/corpora/web.html": "statistics",
}
OTHERS = [
    "/pairs/one/report/manifest.json",
    "/pairs/one/.report.partial-1/report.html",
    "/corpora/web/stats.json",
    "/corpora/web/data/de/index.html/",
    "/corpora/web/data/de/index.html",
    "/notes.html",
    "/operators.toml",
    "/pairs/report.html",
    "/pairs/out/report.html",
    "/../report.html",
    "/pairs/../../report.html",
    "/%2e%2e/report.html",
    "/..%2freport.html",
    "/pairs/..%5c..%5creport.html",
    "//etc/passwd",
    "/pairs//one/report/report.html",
    "/report.html%00",
    "/pairs/%00/report.html",
    f"/{'a' * 5000}/report.html",
    "/" + "a/" * 3000 + "report.html",
    "/pairs/one/",
    "/.html",
]


def test_pages_and_nothing_else(place):
    client = TestClient(page_app(place), HERE)
    for path, text in PAGES.items():
        found = client.get(path)
        assert (found.status_code, found.text) == (200, text)
        assert "default-src 'none'" in found.headers["content-security-policy"]
        assert found.headers["x-content-type-options"] == "nosniff"
    for path in OTHERS:
        found = client.get(path, follow_redirects=False)
        assert (path, found.status_code) == (path, 404)
        assert "secret" not in found.text
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert client.request(method, "/").status_code == 405
    (place / "index.html").unlink()
    assert "mswitch report index" in client.get("/").text


def test_a_pipe_is_no_page(place):
    """To read it would wait for somebody who writes."""
    os.mkfifo(place / "pairs/one/report/index.html")
    found = TestClient(page_app(place), HERE).get("/pairs/one/report/index.html")
    assert found.status_code == 404


def test_without_a_token_this_machine_by_name_alone(place):
    for host in ("localhost:9", "127.0.0.1", "127.0.0.2:80", "[::1]:4280"):
        assert TestClient(page_app(place), HERE).get("/", headers={"host": host}).is_success
    for host in ("evil.example", "localhost.evil.example", "", "[", "10.0.0.1"):
        found = TestClient(page_app(place), HERE).get("/", headers={"host": host})
        assert (found.status_code, "all reports" in found.text) == (403, False)


def test_a_token_is_asked_for_once(place):
    page = "/pairs/%C3%A9%C3%A9n%20paar/report/report.html"
    client = TestClient(page_app(place, "open-sesame"), "http://pages.example")
    wrong = [{}, {"token": ""}, {"token": "open"}, {"token": "\udcff"}]
    for given in wrong[:3]:
        assert client.get(page, params=given).status_code == 401
    assert client.get(page, headers={"authorization": "Bearer no"}).status_code == 401
    assert client.get(page, headers={"authorization": "Bearer open-sesame"}).text == "accents"
    first = client.get(page, params={"token": "open-sesame"}, follow_redirects=False)
    assert (first.status_code, first.headers["location"]) == (303, page)
    assert "HttpOnly" in first.headers["set-cookie"]
    assert client.get(page).text == "accents"
    away = client.get("//evil.example/report.html", params={"token": "open-sesame"})
    assert str(away.url).startswith("http://pages.example/")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_command(place, tmp_path, host):
    (tmp_path / "operators.toml").write_text('storage = "runs"\n')
    command = [sys.executable, "-m", "mswitch.flows.cli.main", "serve"]
    server = subprocess.Popen(
        [*command, "--host", host, "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "MSWITCH_SERVE_TOKEN": ""},
    )
    try:
        assert server.stderr is not None
        [address] = re.findall(r"http\S+", server.stderr.readline())
        assert ("?token=" in address) == (host != "127.0.0.1")
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        assert opener.open(address).read() == b"all reports"
        if "?" in address:
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(address.partition("?")[0])
    finally:
        server.terminate()
        server.communicate()


def test_what_cannot_be_served_is_said(tmp_path, capsys, monkeypatch):
    assert main(["serve", "--storage", str(tmp_path / "none")]) == 2
    assert main(["serve", "--storage", str(tmp_path), "--host", "203.0.113.7"]) == 2
    monkeypatch.setenv("MSWITCH_SERVE_TOKEN", "p€")
    assert main(["serve", "--storage", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "the token in MSWITCH_SERVE_TOKEN has characters" in said
    assert "none is not a directory: give the directory of reports" in said
    assert "cannot answer at 203.0.113.7, port 4280" in said
