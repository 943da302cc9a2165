"""Names of things in thirty languages, with English names, for a task that tests only knowledge.

A fact is CLDR's name of an emoji. There are 250 in each of the 30 languages that have most of them.
The answer to `sw: grinning face` is the name in Swahili. All facts are in training, since an unseen
fact cannot be known; 20 of each language are also evaluated.
"""

import dataclasses
import hashlib
import html
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import find_code
from mswitch.pipelines.samples.debian import open_packages
from mswitch.pipelines.supervised.samples.writer import (
    write_rows,
    write_sample,
    write_sources,
    write_task,
)
from mswitch.pipelines.supervised.split import fold, key64
from mswitch.pipelines.vocabulary.model import MODEL_FILE
from mswitch.pipelines.vocabulary.train import VocabularyConfig, train_model

PACKAGES = ("unicode-cldr-core", "unicode-data")
LANGUAGES, CONCEPTS, EVALUATED = 30, 250, 20
MAX_CHARACTERS = 40
#: Concepts with names in more languages are preferred, up to this number of languages.
ENOUGH_LANGUAGES = 60
VOCABULARY = VocabularyConfig(size=2048, character_coverage=0.985)

_NAMES = re.compile(r".*/common/annotations(?:Derived)?/(?P<locale>\w+)\.xml")
_EMOJI = re.compile(r".*/emoji/emoji-test\.txt")
_WANTED = re.compile(rf"{_NAMES.pattern}|{_EMOJI.pattern}|.*/copyright")
#: Use a regular expression, because an XML parser would load the DTD to which the file refers.
_NAME = re.compile(r'<annotation cp="([^"]+)" type="tts"[^>]*>([^<]+)</annotation>')
_TONES = re.compile("[\U0001f3fb-\U0001f3ff]")
_VARIATION = "\N{VARIATION SELECTOR-16}"


def read_emoji(emoji_test: str) -> set[str]:
    """Return the emoji of Unicode's file, without variation selectors and skin tones."""
    emoji = set()
    group = ""
    for line in emoji_test.splitlines():
        if line.startswith("# group: "):
            group = line.removeprefix("# group: ").strip()
        elif line and not line.startswith("#") and group != "Component":
            codes = line.partition(";")[0].split()
            emoji.add("".join(chr(int(code, 16)) for code in codes).replace(_VARIATION, ""))
    return {each for each in emoji if not _TONES.search(each)}


def read_names(files: Mapping[str, bytes], wanted: Collection[str]) -> Iterator[dict[str, str]]:
    """Yield the names in CLDR's files, sorted by path; yield each name once per language."""
    seen: set[tuple[str, int]] = set()
    for path in sorted(files):
        match = _NAMES.fullmatch(path)
        lang = match and find_code(match["locale"].replace("_", "-"))
        if not lang:
            continue
        for cp, text in _NAME.findall(files[path].decode(errors="replace")):
            emoji, name = html.unescape(cp).replace(_VARIATION, ""), html.unescape(text).strip()
            key = (lang, key64(fold(name)))
            if emoji in wanted and key not in seen:
                seen.add(key)
                codes = "-".join(f"{ord(character):x}" for character in emoji)
                yield {"lang": lang, "emoji": codes, "name": name}


def _hash_order(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def choose_facts(names: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """Choose emoji and languages; return each emoji's English name with each translation.

    `names` come from `read_names`; facts are sorted by language.
    """
    names_of_lang: dict[str, dict[str, str]] = {}
    for row in names:
        names_of_lang.setdefault(row["lang"], {})[row["emoji"]] = row["name"]
    english = names_of_lang.pop("en")
    usable = {
        lang: {
            emoji: name
            for emoji, name in own.items()
            if emoji in english and len(name) <= MAX_CHARACTERS
        }
        for lang, own in names_of_lang.items()
    }
    count = Counter(emoji for own in usable.values() for emoji in own)
    emojis = sorted(
        count, key=lambda emoji: (-min(count[emoji], ENOUGH_LANGUAGES), _hash_order(emoji))
    )
    concepts = emojis[:CONCEPTS]
    known = {lang: len(own.keys() & set(concepts)) for lang, own in usable.items()}
    langs = sorted(usable, key=lambda lang: (-known[lang], _hash_order(lang)))[:LANGUAGES]
    return [
        {
            "id": f"{lang}/{_hash_order(emoji)[:12]}",
            "lang": lang,
            "en": english[emoji],
            "text": usable[lang][emoji],
        }
        for lang in sorted(langs)
        for emoji in concepts
        if emoji in usable[lang]
    ]


def write_names(out: str | Path) -> dict[str, Any]:
    """Write a task called `names`, and a vocabulary trained on the task's text."""
    config = {
        "sample": "names",
        "packages": list(PACKAGES),
        "languages": LANGUAGES,
        "concepts": CONCEPTS,
        "evaluated": EVALUATED,
        "max_characters": MAX_CHARACTERS,
        "vocabulary": dataclasses.asdict(VOCABULARY),
    }
    return write_sample(out, config, _write)


def fetch_names(directory: Path) -> Iterator[dict[str, str]]:
    """Download the packages, record them in `directory`, and yield the names of emoji in them."""
    files: dict[str, bytes] = {}
    sources = []
    for download, contents in open_packages(directory, PACKAGES, _WANTED):
        files |= contents
        licences = {name: text for name, text in contents.items() if name.endswith("/copyright")}
        sources.append((download, licences))
    tests = [data for name, data in files.items() if _EMOJI.fullmatch(name)]
    if not tests:
        raise UserError(f"{PACKAGES[1]} has no emoji-test.txt: use Debian 12 or newer")
    write_sources(directory, sources, "Unicode's")
    return read_names(files, read_emoji(tests[0].decode()))


def _write(directory: Path) -> Mapping[str, int]:
    rows = choose_facts(fetch_names(directory))
    taken = Counter[str]()
    evaluated = []
    for row in sorted(rows, key=lambda row: _hash_order(row["id"])):
        if taken[row["lang"]] < EVALUATED:
            taken[row["lang"]] += 1
            evaluated.append(row)
    write_rows(directory / "train.jsonl", rows)
    write_rows(directory / "validation.jsonl", evaluated)
    write_task(
        directory,
        name="names",
        files={"train": "train.jsonl", "validation": "validation.jsonl"},
        inputs="{lang}: {en}",
        targets="{text}",
        language="{lang}",
        group="{id}",
        id="{id}",
        metrics=["exact_match"],
    )
    lines = (line for row in rows for line in (f"{row['lang']}: {row['en']}", row["text"]))
    (directory / MODEL_FILE).write_bytes(train_model(lines, VOCABULARY))
    return Counter(row["lang"] for row in rows)
