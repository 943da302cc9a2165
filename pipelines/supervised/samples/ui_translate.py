"""Translation of user interface messages: MediaWiki's, from Debian's package of that name.

A message catalogue is a JSON file for each language, in folders `i18n`; a key of the English one
and of another give a pair. Inputs are in T5's words. The group is the English text, so a text is in
one split whatever its key and in all languages.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mswitch.pipelines.languages import find_code, languages
from mswitch.pipelines.samples.debian import open_packages
from mswitch.pipelines.samples.documents import catalogue_messages
from mswitch.pipelines.supervised.samples.writer import (
    write_by_language,
    write_sample,
    write_sources,
    write_task,
)

PACKAGE = "mediawiki"
MAX_CHARACTERS = 300
#: MediaWiki's codes where they are neither ours nor an alias of ours.
CODES = {
    "kk-cyrl": "kk",
    "ku-latn": "ku",
    "sr-ec": "sr",
    "sr-el": "sr-Latn",
    "tg-cyrl": "tg",
    "zh-hans": "zh",
}
_CATALOGUE = re.compile(r"(?P<folder>.*/i18n(?:/.*)?)/(?P<code>[a-z-]+)\.json")
_WANTED = re.compile(rf"{_CATALOGUE.pattern}|.*/copyright")
_LETTER = re.compile(r"[^\W\d_]")
#: Wiki markup, HTML, entities, addresses and line breaks: rules of their own, not language.
_MARKUP = re.compile(r"\[\[|\]\]|\{\{|\}\}|''|</?[a-zA-Z]|&[a-zA-Z#0-9]+;|//|\n")


def pairs(files: Mapping[str, bytes]) -> Iterator[dict[str, str]]:
    """Rows of all catalogues, by folder, then file; without what has markup or is untranslated."""
    folders: dict[str, dict[str, str]] = {}
    for name in sorted(files):
        if found := _CATALOGUE.fullmatch(name):
            folders.setdefault(found["folder"], {})[found["code"]] = name
    for folder, by_code in folders.items():
        english = catalogue_messages(files[by_code["en"]]) if "en" in by_code else {}
        for code, name in by_code.items():
            lang = CODES.get(code) or find_code(code)
            if lang is None or code == "en":
                continue
            for key, text in catalogue_messages(files[name]).items():
                source = english.get(key, "")
                if _is_text(source) and _is_text(text) and text != source:
                    place = folder.removeprefix("usr/share/").removeprefix("mediawiki/")
                    yield {
                        "id": f"{place}/{code}:{key}",
                        "lang": lang,
                        "language": languages()[lang].name,
                        "en": source,
                        "text": text,
                    }


def _is_text(message: str) -> bool:
    # Without letters, nothing is left of `$1 ($2)` by which to tell groups apart.
    return (
        len(message) <= MAX_CHARACTERS
        and _LETTER.search(message) is not None
        and not _MARKUP.search(message)
    )


def write_ui_translate(out: str | Path) -> dict[str, Any]:
    """Write the task `ui_translate`."""
    config = {"sample": "ui-translate", "package": PACKAGE, "max_characters": MAX_CHARACTERS}
    return write_sample(out, config, _write)


def _write(directory: Path) -> Mapping[str, int]:
    [(download, files)] = open_packages(directory, [PACKAGE], _WANTED)
    counts = write_by_language(directory, pairs(files))
    write_sources(directory, [(download, files)], "GPL-2 or later for the most part, by folder")
    write_task(
        directory,
        name="ui_translate",
        files="rows/*.jsonl",
        split="hash",
        inputs="translate English to {language}: {en}",
        targets="{text}",
        language="{lang}",
        group="{en}",
        id="{id}",
        metrics=["chrf", "bleu"],
    )
    return counts
