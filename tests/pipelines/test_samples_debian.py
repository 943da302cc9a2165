import gzip
import json
import shutil
from pathlib import Path

import pytest
from debian_packages import add_package, make_mirror, needs_dpkg
from fastwarc.warc import ArchiveIterator

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import file_sha256, read_manifest
from mswitch.pipelines.samples import debian
from mswitch.pipelines.samples.debian import write_documentation, write_sample
from mswitch.pipelines.samples.documents import (
    detect_language,
    make_message_pages,
    plain_message,
    render_mallard,
)

MALLARD = """<page xmlns="http://projectmallard.org/1.0/"><info><desc>Hidden</desc></info>
<title>Mouse</title><p>Click the <gui>button</gui> &lt;now&gt;.</p>
<section><title>More</title><steps><item><p>Then wait.</p></item></steps></section></page>"""

SPANISH = "Esta página no existe todavía, pero puede crearse."


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_mirror(tmp_path, monkeypatch)


DOC, I18N = "usr/share/doc/x-docs-de", "usr/share/app/i18n"
DOCS: dict[str, bytes | Path] = {
    f"{DOC}/a.html": b"<html><body><p>Hallo Welt</p></body></html>",
    f"{DOC}/latin1.html": "<p>für</p>".encode("latin-1"),
    f"{DOC}/link.html": Path("/etc/hostname"),
    f"{DOC}/outside": Path("/etc"),
    f"{DOC}/binary.png": b"\x89PNG",
    "usr/share/help/cs/app/mouse.page": MALLARD.encode(),
    f"{I18N}/es.json": json.dumps({"@metadata": {}, "a": SPANISH, "b": "corto"}).encode(),
    f"{I18N}/qqq.json": b'{"a": "Remarks to translators, which are English."}',
}


def pages(sample: Path) -> dict[str, tuple[str, bytes]]:
    found = {}
    for path in sorted(sample.glob("w*/*.gz")):
        with open(path, "rb") as file:
            for record in ArchiveIterator(file, parse_http=True, verify_digests=True):
                if record.headers["WARC-Type"] != "warcinfo":
                    content = record.reader.read()
                    found[record.headers["WARC-Target-URI"]] = path.parent.name, content
    return found


@needs_dpkg
def test_pages_of_a_package(mirror, tmp_path):
    add_package(mirror, "x-docs-de", DOCS)
    summary = write_sample(tmp_path / "out", ["x-docs-de"])
    assert (summary["wet_records"], summary["warc_records"]) == (1, 3)
    base = "https://x-docs-de.debian.example"
    found = pages(tmp_path / "out")
    assert sorted(found) == [
        f"{base}/app/i18n/es.json/0",
        f"{base}/doc/x-docs-de/a.html",
        f"{base}/doc/x-docs-de/latin1.html",
        f"{base}/help/cs/app/mouse.page",
    ]
    assert found[f"{base}/doc/x-docs-de/latin1.html"] == ("warc", "<p>für</p>".encode("latin-1"))
    form, messages = found[f"{base}/app/i18n/es.json/0"]
    assert form == "wet"
    assert messages.decode() == SPANISH
    languages = read_manifest(tmp_path / "out", "sample")["pages_by_source_language"]
    assert languages == {"cs": 1, "de": 2, "es": 1}
    assert write_sample(tmp_path / "out", ["x-docs-de"])["reused"]


MANUAL = ".TH KATZE 1\n.SH NAME\nkatze \\- gibt aus\n.SH TEXT\n\\fBkatze\\fR gibt für alle aus.\n"
MAN = "usr/share/man/de/man1"
MANUALS: dict[str, bytes | Path] = {
    f"{MAN}/katze.1.gz": gzip.compress(MANUAL.encode()),
    f"{MAN}/other.1.gz": gzip.compress(b".so /etc/hostname\n"),
    f"{MAN}/cut.1.gz": gzip.compress(MANUAL.encode())[:-9],
    f"{MAN}/broken.1.gz": b"\x1f\x8b" + bytes(40),
    f"{MAN}/large.1.gz": gzip.compress(bytes(debian.MAX_FILE_BYTES + 1)),
    "usr/share/man/man1/english.1.gz": gzip.compress(MANUAL.encode()),
}


@needs_dpkg
@pytest.mark.skipif(shutil.which("mandoc") is None, reason="needs mandoc")
def test_documentation_has_manual_pages_and_no_messages(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(debian, "DOCUMENTATION_PACKAGES", ("x-docs-de", "manpages-de"))
    monkeypatch.setattr(debian, "MAX_TEXT_BYTES", 1)
    add_package(mirror, "x-docs-de", DOCS)
    add_package(mirror, "manpages-de", MANUALS)
    write_documentation(tmp_path / "out")
    found = pages(tmp_path / "out")
    assert sorted(url.rpartition("/")[2] for url in found) == [
        "a.html",
        "katze.1.gz",
        "latin1.html",
        "mouse.page",
    ]
    form, page = found["https://manpages-de.debian.example/man/de/man1/katze.1.gz"]
    assert form == "warc"
    assert "f&#x00FC;r alle aus" in page.decode()
    assert read_manifest(tmp_path / "out", "sample")["pages_by_source_language"]["de"] == 3


def test_documentation_needs_mandoc(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get install mandoc"):
        write_documentation(tmp_path / "out")


@needs_dpkg
def test_a_later_run_keeps_what_was_fetched(mirror, tmp_path):
    add_package(mirror, "x-docs-de", DOCS)
    add_package(mirror, "empty", {})
    with pytest.raises(UserError, match="empty has no HTML"):
        write_sample(tmp_path / "out", ["x-docs-de", "empty"])
    assert not (tmp_path / "out").exists()
    add_package(mirror, "empty-2", DOCS)
    (mirror / "empty-2_1_all.deb").rename(mirror / "empty_1_all.deb")
    write_sample(tmp_path / "out", ["x-docs-de", "empty"])
    assert (mirror / "fetched").read_text().split() == ["x-docs-de", "empty", "empty"]
    assert not list((tmp_path / "out").rglob("*.deb"))


@needs_dpkg
def test_same_packages_give_the_same_bytes(mirror, tmp_path):
    add_package(mirror, "x-docs-de", DOCS)
    for name in ("one", "two"):
        write_sample(tmp_path / name, ["x-docs-de"])
    for shard in read_manifest(tmp_path / "one", "sample")["files"]:
        assert file_sha256(tmp_path / "two" / shard["path"]) == shard["sha256"]


def test_what_is_no_package_is_refused(mirror, tmp_path, monkeypatch):
    (mirror / "broken_1_all.deb").write_bytes(b"not an archive")
    for packages, message in (
        (["nothing"], r"cannot find package nothing .*apt-get update"),
        (["--help"], "'--help' is not a Debian package name"),
        ([], "no packages"),
        (["broken"], "dpkg-deb"),
    ):
        with pytest.raises(UserError, match=message):
            write_sample(tmp_path / "out", packages)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="needs apt-get, which is not on PATH"):
        write_sample(tmp_path / "out", ["x-docs-de"])


@pytest.mark.parametrize(
    ("path", "package", "lang"),
    [
        ("usr/share/libreoffice/help/zh-CN/text/a.html", "libreoffice-help-zh-cn", "zh-CN"),
        ("usr/share/help/pt_BR/app/a.page", "gnome-user-docs", "pt-BR"),
        ("usr/share/mediawiki/extensions/X/i18n/api/sr-ec.json", "mediawiki", "sr-ec"),
        ("usr/share/debian-reference/ch09.de.html", "debian-reference-de", "de"),
        ("usr/share/doc/x/index.html", "debian-faq-ru", "ru"),
        ("usr/share/doc/x/index.html", "developers-manual", "und"),
    ],
)
def test_language_of_a_path(path, package, lang):
    assert detect_language(path, package) == lang


def test_mallard_becomes_html():
    text = render_mallard(MALLARD.encode(), "cs").decode()
    assert "<title>Mouse</title>" in text
    assert "<p>Click the button &lt;now&gt;.</p>\n<h2>More</h2>\n<p>Then wait.</p>" in text
    assert "Hidden" not in text


@needs_dpkg
def test_what_is_not_translated_is_left_out(mirror, tmp_path):
    czech = MALLARD.replace("Then wait.", "Pak čekejte.").replace("Mouse", "Myš")
    files = {"C": MALLARD, "cs": czech, "da": MALLARD}
    pages_of = {f"usr/share/help/{lang}/app/a.page": text.encode() for lang, text in files.items()}
    add_package(mirror, "app", pages_of)
    write_sample(tmp_path / "out", ["app"])
    found = {url.split("/help/")[1][:2]: text for url, (_, text) in pages(tmp_path / "out").items()}
    assert found.keys() == {"C/", "cs"}
    assert b"Click" in found["C/"]
    assert "<h1>Myš</h1>\n<p>Pak čekejte.</p>" in found["cs"].decode()
    assert b"Click" not in found["cs"]


@needs_dpkg
def test_html_that_is_not_translated_is_left_out_of_later_packages(mirror, tmp_path):
    english = b"<h1>Help</h1><p class='a'>Click <b>the</b> button.</p><li>One</li>"
    german = b"<h1>Hilfe</h1><p>Click the\n<b>button.</b></p><li><p>Eins</p></li><p>One</p><P>Two"
    add_package(mirror, "help-en-us", {"usr/share/doc/a.html": english})
    add_package(mirror, "help-de", {"usr/share/doc/a.html": german})
    write_sample(tmp_path / "out", ["help-en-us", "help-de"])
    texts = {url[8:15]: text for url, (_, text) in pages(tmp_path / "out").items()}
    assert texts == {
        "help-en": english,
        "help-de": b"<h1>Hilfe</h1><li><p>Eins</p></li><P>Two",
    }


@pytest.mark.parametrize(
    "document",
    [
        b"<page><p>unclosed</page>",
        b"<page><title>Only a title</title></page>",
        b'<!DOCTYPE page [<!ENTITY a "aaaa">]><page><p>&a;</p></page>',
        b"\xff\xfe",
    ],
)
def test_mallard_that_is_no_page(document):
    assert render_mallard(document, "cs") is None


def test_messages_lose_their_markup():
    message = (
        "<b>See</b> [[Special:Log|the '''log''']] and {{PLURAL:$1|page|pages}} &amp; [$2 more]."
    )
    assert plain_message(message) == "See the log and pages & more."


def test_messages_are_pages_of_forty_lines():
    catalogue = {str(n): f"Message number {n} is long enough to be prose." for n in range(90)}
    lines = [
        page.decode().split("\n") for page in make_message_pages(json.dumps(catalogue).encode())
    ]
    assert [len(page) for page in lines] == [40, 40, 10]
    assert list(make_message_pages(b"[1, 2]")) == list(make_message_pages(b"{")) == []
