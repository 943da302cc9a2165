"""Makes a crawl from the documentation in Debian packages, which `apt-get download` fetches.

Packages are untrusted: archives are read as streams, regular files only, and nothing is unpacked or
run. HTML files, GNOME's Mallard pages and manual pages become WARC responses; message catalogues
(MediaWiki's JSON) become WET records. The language in a page's URL comes from the file's name. A
corpus build ignores this language and identifies the language of the text.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.parse
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import file_sha256, stage_output
from mswitch.pipelines.own_tables import read_own_table
from mswitch.pipelines.progress import Progress, say
from mswitch.pipelines.samples.crawl_writer import CrawlWriter, Format, SamplePage
from mswitch.pipelines.samples.documents import (
    count_html_text,
    detect_language,
    list_html_blocks,
    make_message_pages,
    read_mallard,
    remove_blocks,
    render_mallard,
)
from mswitch.pipelines.samples.gflanguages import STAGE, read_summary

FILES_PER_FORMAT = 4
#: Maximum bytes of text per language and package; pages are taken in order of their paths' hashes.
MAX_TEXT_BYTES = 500_000
MAX_FILE_BYTES = 8_000_000
DOCUMENTS = re.compile(r".*\.(?:html|htm|page|json)")
#: Files of prose, including translated manual pages, but not message catalogues.
PROSE = re.compile(r".*\.(?:html|htm|page)|usr/share/man/[a-z]{2}[^/]*/man\d/[^/]+\.gz")
#: MediaWiki's pseudo-language for remarks to translators.
MESSAGE_DOCUMENTATION = "qqq"
PACKAGE_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
URI_LINE = re.compile(r"'(?P<uri>[^']+)' (?P<name>[^ /]+) (?P<size>\d+) SHA256:(?P<sha256>\w+)")

#: Packages in reading order: English first, so that other languages can omit untranslated text.
_PACKAGES = read_own_table("debian_packages.csv")
DEFAULT_PACKAGES = tuple(row["package"] for row in _PACKAGES if row["debian"] == "true")
#: Help, handbooks and manual pages: prose without interface messages, in about 50 languages.
DOCUMENTATION_PACKAGES = tuple(
    row["package"] for row in _PACKAGES if row["documentation"] == "true"
)


class Download(NamedTuple):
    """A package file, as described by `apt-get download --print-uris`."""

    package: str
    file_name: str
    size_bytes: int
    sha256: str


def _run(command: Sequence[str], directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(
            command, cwd=directory, env=environment, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise _make_missing_error(command[0]) from error


def _make_missing_error(command: str) -> UserError:
    return UserError(
        f"this sample needs {command}, which is not on PATH: "
        "run it on Debian or Ubuntu, or use another sample"
    )


def _find_first_error(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.startswith("E:")]
    return lines[0].removeprefix("E:").strip() if lines else (stderr.strip() or "no message")


def plan_downloads(packages: Sequence[str], directory: Path) -> list[Download]:
    """Ask apt for file name, size and SHA-256 of every package.

    `directory` must not contain package files: apt does not report these.
    """
    for package in packages:
        if not PACKAGE_NAME.fullmatch(package):
            raise UserError(f"{package!r} is not a Debian package name")
    answer = _run(["apt-get", "download", "--print-uris", *packages], directory)
    lines = {line["name"].partition("_")[0]: line for line in URI_LINE.finditer(answer.stdout)}
    for package in packages:
        if package not in lines:
            raise UserError(
                f"apt-get cannot find package {package} ({_find_first_error(answer.stderr)}): run "
                "`apt-get update` first, or leave out the package with --packages"
            )
    return [
        Download(name, lines[name]["name"], int(lines[name]["size"]), lines[name]["sha256"])
        for name in packages
    ]


def fetch(download: Download, directory: Path) -> Path:
    """Download a package into `directory`, unless an earlier run completed the download."""
    path = directory / download.file_name
    if path.is_file() and file_sha256(path) == download.sha256:
        return path
    path.unlink(missing_ok=True)
    answer = _run(["apt-get", "download", download.package], directory)
    if answer.returncode or not path.is_file():
        raise UserError(
            f"apt-get cannot fetch {download.package} ({_find_first_error(answer.stderr)}): "
            "check the network and run `apt-get update`; the same command continues"
        )
    if file_sha256(path) != download.sha256:
        raise UserError(
            f"package {download.package} is not the one that apt announced (SHA-256 differs): "
            "run `apt-get update` and start again"
        )
    return path


def read_files(archive: Path, wanted: re.Pattern[str] = DOCUMENTS) -> dict[str, bytes]:
    """Read a package's files with matching paths, by path; write nothing to disk.

    Leave out links, devices, very large files and unprintable names.
    """
    command = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    contents: dict[str, bytes] = {}
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        except FileNotFoundError as error:
            raise _make_missing_error("dpkg-deb") from error
        try:
            with process, tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                for member in tar:
                    name = member.name.removeprefix("./")
                    is_wanted = wanted.fullmatch(name) and member.size <= MAX_FILE_BYTES
                    is_wanted = is_wanted and member.isreg() and name.isprintable()
                    if is_wanted and (file := tar.extractfile(member)):
                        contents[name] = file.read()
            failed = process.returncode != 0
        except tarfile.TarError:
            failed = True
        if failed:
            errors.seek(0)
            reason = errors.read(200).decode(errors="replace").strip()
            raise UserError(
                f"dpkg-deb cannot read {archive.name} ({reason}): remove it and start again"
            )
    return contents


def open_packages(
    directory: Path, packages: Sequence[str], wanted: re.Pattern[str] = DOCUMENTS
) -> Iterator[tuple[Download, dict[str, bytes]]]:
    """Fetch packages one by one and yield their files; keep downloads until the end.

    `directory` has the downloads of an earlier, killed run; `wanted` matches the paths to read.
    """
    work = directory / ".downloads"
    work.mkdir(exist_ok=True)
    plan = plan_downloads(packages, directory)
    total = sum(download.size_bytes for download in plan)
    say(STAGE, f"fetching {len(plan)} packages, {total / 1e6:.0f} MB")
    for download in plan:
        yield download, read_files(fetch(download, work), wanted)
    shutil.rmtree(work)


def _make_file_pages(
    name: str, data: bytes, url: str, lang: str, original: Collection[bytes]
) -> Iterable[tuple[Format, SamplePage, int]]:
    """Return each page in a file, with its format and its text's size in bytes."""
    if name.endswith((".html", ".htm")):
        data = remove_blocks(data, original) if original else data
        try:
            data.decode()
            content_type = "text/html; charset=utf-8"
        except UnicodeDecodeError:
            content_type = "text/html"
        return [("warc", SamplePage(url, data, lang, content_type), count_html_text(data))]
    if name.endswith((".page", ".gz")):
        document = (
            _render_manual_page(data)
            if name.endswith(".gz")
            else render_mallard(data, lang, original)
        )
        if not document:
            return []
        return [("warc", SamplePage(url, document, lang), count_html_text(document))]
    if "/i18n/" in name:
        return [
            ("wet", SamplePage(f"{url}/{number}", text, lang), len(text))
            for number, text in enumerate(make_message_pages(data))
        ]
    return []


def _render_manual_page(compressed: bytes) -> bytes:
    """Turn a manual page into HTML; return b"" if it is damaged, too large or only an alias."""
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        source = unpacker.decompress(compressed, MAX_FILE_BYTES)
    except zlib.error:
        return b""
    if not unpacker.eof or source.startswith(b".so "):
        return b""
    # Run mandoc in an empty directory, so that the manual page cannot include other files.
    with tempfile.TemporaryDirectory() as empty:
        return subprocess.run(
            ["mandoc", "-T", "html", "-K", "utf-8"],
            input=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=empty,
            check=False,
        ).stdout


def make_pages(
    files: Mapping[str, bytes],
    package: str,
    max_text_bytes: int | None = MAX_TEXT_BYTES,
    english: set[bytes] | None = None,
) -> Iterator[tuple[Format, SamplePage]]:
    """Yield the pages of a package's files, with limited text per language.

    `files` has contents by path; `max_text_bytes` is None for all text. `english` has the texts of
    blocks of English pages so far; the package's are added. Equal blocks of other pages were not
    translated, and are left out.
    """
    taken: dict[str, int] = {}
    english = set() if english is None else english
    langs = {name: detect_language(name, package) for name in files}
    is_english = {name for name in files if langs[name][:2] == "en" or "/help/C/" in name}
    for name in is_english:
        if name.endswith(".page"):
            english.update(text.encode() for _, text in read_mallard(files[name]))
        elif name.endswith((".html", ".htm")):
            english.update(list_html_blocks(files[name]))
    for name in sorted(files, key=lambda name: hashlib.sha256(name.encode()).digest()):
        lang = langs[name]
        full = max_text_bytes is not None and taken.get(lang, 0) >= max_text_bytes
        if lang == MESSAGE_DOCUMENTATION or full:
            continue
        path = urllib.parse.quote(name.removeprefix("usr/share/"))
        url = f"https://{package}.debian.example/{path}"
        original = frozenset[bytes]() if name in is_english else english
        for form, page, text_bytes in _make_file_pages(name, files[name], url, lang, original):
            taken[lang] = taken.get(lang, 0) + text_bytes
            yield form, page


def write_sample(out: str | Path, packages: Sequence[str] | None = None) -> dict[str, Any]:
    """Write documentation of Debian packages as a crawl; a killed run keeps its downloads."""
    chosen = DEFAULT_PACKAGES if packages is None else packages
    return _write_sample(out, "debian", chosen, DOCUMENTS, MAX_TEXT_BYTES)


def write_documentation(out: str | Path) -> dict[str, Any]:
    """Write a crawl of all help, handbooks and manual pages of Debian, without program messages."""
    if shutil.which("mandoc") is None:
        raise UserError("this sample needs mandoc, which is not on PATH: `apt-get install mandoc`")
    return _write_sample(out, "documentation", DOCUMENTATION_PACKAGES, PROSE, None)


def _write_sample(
    out: str | Path,
    sample: str,
    packages: Sequence[str],
    wanted: re.Pattern[str],
    max_text_bytes: int | None,
) -> dict[str, Any]:
    chosen = list(dict.fromkeys(packages))
    if not chosen:
        raise UserError("no packages were given: name at least one with --packages")
    config = {"sample": sample, "packages": chosen, "max_text_bytes": max_text_bytes}
    with stage_output(out, stage=STAGE, config=config) as staged:
        if staged.complete:
            say(STAGE, f"already complete: {out}, nothing to do")
            return read_summary(out, reused=True)
        progress = Progress(STAGE, "packages", len(chosen), "packages")
        described, english = [], set[bytes]()
        with CrawlWriter(staged.directory, "debian", FILES_PER_FORMAT) as writer:
            for download, files in open_packages(staged.directory, chosen, wanted):
                before = sum(writer.records.values())
                for form, page in make_pages(files, download.package, max_text_bytes, english):
                    writer.write(form, page)
                pages = sum(writer.records.values()) - before
                if not pages:
                    raise UserError(
                        f"package {download.package} has no HTML, Mallard, manual or message "
                        "files: leave it out with --packages"
                    )
                described.append({**download._asdict(), "pages": pages})
                progress.add(note=f"{sum(writer.records.values()):,} pages")
        staged.publish({**writer.manifest(), "packages": described})
    result = read_summary(out, reused=False)
    say(STAGE, f"{result['pages']:,} pages in {out}")
    return result
