"""Names of things in thirty languages, with their English names: text that tests only knowledge.

A fact is CLDR's name of an emoji. There are 250 in each of the 30 languages that have most of them.
The answer to `sw: grinning face` is the name in Swahili. All facts are in training, since an unseen
fact cannot be known; 20 of each language are also evaluated.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mswitch.pipelines.supervised.samples.emoji_group import PACKAGES, fetch_names
from mswitch.pipelines.supervised.samples.writer import write_rows, write_sample, write_task
from mswitch.pipelines.vocabulary.model import MODEL_FILE
from mswitch.pipelines.vocabulary.train import VocabularyConfig, train_model

LANGUAGES, CONCEPTS, EVALUATED = 30, 250, 20
MAX_CHARACTERS = 40
#: A concept in more languages is not preferred to one in so many.
ENOUGH_LANGUAGES = 60
VOCABULARY = VocabularyConfig(size=2048, character_coverage=0.985)


def _hash_order(text: str) -> str:
    """Return a hash that puts texts into a random but fixed order."""
    return hashlib.sha256(text.encode()).hexdigest()


def choose_facts(names: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return the facts of chosen concepts and languages from rows of the sample emoji-group."""
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
    """Write the task `names`, and a vocabulary trained on its text."""
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


def _write(directory: Path) -> Mapping[str, int]:
    return write_facts(directory, "names", choose_facts(fetch_names(directory)[1]))


def write_facts(directory: Path, name: str, rows: list[dict[str, str]]) -> Mapping[str, int]:
    """Write facts as the task `name`, and a vocabulary; count facts by language."""
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
        name=name,
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
