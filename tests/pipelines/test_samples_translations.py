"""Wheels with catalogues, made here; the pinned wheels themselves are read by `make test-demo`."""

import gettext
import io
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.samples.translations import (
    MESSAGES_PER_PAGE,
    Message,
    UnreachableError,
    clean_message,
    download,
    list_packages,
    make_pages,
    read_messages,
    write_sample,
)

ENGLISH = "The file cannot be opened because another program uses it, number {}"
GERMAN = "Die Datei kann nicht geöffnet werden, weil ein anderes Programm sie benutzt, Nummer {}"
HEADER = {"": "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=2; plural=n != 1;\n"}


def make_catalogue(messages: Mapping[str, str], order: str = "<") -> bytes:
    """Write a .mo file as msgfmt does."""
    pairs = [(k.encode(), v.encode()) for k, v in sorted({**HEADER, **messages}.items())]
    texts, tables = b"", ([], [])
    start = 28 + 16 * len(pairs)
    for table, column in zip(tables, zip(*pairs, strict=True), strict=True):
        for value in column:
            table.append((len(value), start + len(texts)))
            texts += value + b"\0"
    numbers = [0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0]
    numbers += [number for table in tables for entry in table for number in entry]
    return struct.pack(f"{order}{len(numbers)}I", *numbers) + texts


def make_german(count: int, first: int = 0) -> dict[str, str]:
    words = [first + second for first in ("alpha", "beta", "gamma") for second in ("x", "y", "z")]
    chosen = [words[n % 9] + words[n // 9] for n in range(first, first + count)]
    return {ENGLISH.format(word): GERMAN.format(word) for word in chosen}


def make_wheel(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


TEXT = st.text(st.characters(exclude_characters="\0\x04\r", codec="utf-8"), min_size=1)


@given(messages=st.dictionaries(TEXT, TEXT), order=st.sampled_from("<>"))
def test_messages_are_those_of_gettext(messages, order):
    catalogue = make_catalogue(messages, order)
    oracle = gettext.GNUTranslations(io.BytesIO(catalogue))
    found = list(read_messages(catalogue))
    assert {message.english for message in found} == messages.keys()
    assert all(oracle.gettext(english) == text for english, text in found)


def test_of_plural_forms_the_first_is_read_and_contexts_are_left_out():
    catalogue = make_catalogue({"menu\x04one file\0%d files": "eine Datei\0%d Dateien"})
    assert list(read_messages(catalogue)) == [Message("one file", "eine Datei")]


@given(st.binary(max_size=200), st.integers(0, 300))
def test_damage_ends_a_catalogue(junk, cut):
    good = make_catalogue(make_german(3))
    assert len(list(read_messages(good[:cut] + junk))) <= 4


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            Message("Open the <b>file</b> that you want to read now", "Ö&amp; <b>x</b>\n y"),
            "Ö& x y",
        ),
        (Message("Save", "Speichern Sie die Datei, bevor Sie das Programm schließen"), None),
        (Message("A" * 40, "A" * 40), None),
        (Message("A" * 40, "Datei %(name)s wurde gespeichert"), None),
        (Message("A" * 40, "{name} wurde gespeichert"), None),
        (Message("A" * 40, "Zu 50 % gelesen"), "Zu 50 % gelesen"),
        (Message("A" * 40, "<br>"), None),
    ],
)
def test_only_translated_sentences_are_lines(message, line):
    assert clean_message(message) == line


def test_pages_have_each_message_once_in_languages_of_mc4(tmp_path):
    many, few = make_catalogue(make_german(20)), make_catalogue(make_german(2))
    files = {
        "p/locale/de/LC_MESSAGES/p.mo": many,
        "p/locale/de_AT/LC_MESSAGES/p.mo": few,  # nearly the same as de
        "p/locale/sr@latin/LC_MESSAGES/p.mo": many,  # not in Serbian's main script
        "p/locale/tlh/LC_MESSAGES/p.mo": many,  # not in mC4
        "p/locale/he/LC_MESSAGES/p.mo": few,
        "p/locale/de/LC_MESSAGES/p.po": b"",
    }
    known = set[bytes]()
    pages = list(make_pages(make_wheel(tmp_path / "p.whl", files), "p", known))
    assert [page.lang for page in pages] == ["de"] * 3 + ["iw"]
    assert pages[0].url == "https://p.example/p/locale/de/LC_MESSAGES/p.mo/0"
    lines = [line for page in pages[:3] for line in page.content.decode().split("\n")]
    assert sorted(lines) == sorted(make_german(20).values())
    assert len(pages[0].content.split(b"\n")) == MESSAGES_PER_PAGE
    # Another package has four messages more; the others are known, whatever surrounds their words.
    more = {f"* {k}": v for k, v in make_german(24).items()}
    other = make_wheel(tmp_path / "q.whl", {"q/locale/de/q.mo": make_catalogue(more)})
    [page] = make_pages(other, "q", known)
    assert page.content.decode().split("\n") == sorted(make_german(4, first=20).values())


def test_a_large_catalogue_is_left_out(tmp_path):
    bomb = make_wheel(tmp_path / "b.whl", {"b/locale/de/b.mo": bytes(9_000_000)})
    assert list(make_pages(bomb, "b", set())) == []


def test_packages_are_pinned_by_hash_once():
    names = [name for name, _ in list_packages()]
    assert len(names) == len(set(names)) > 10


def test_without_a_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(UnreachableError, match="check the network, or use another sample"):
        download(tmp_path)
    with pytest.raises(UnreachableError):
        write_sample(tmp_path / "out")
    assert not (tmp_path / "out").exists()
