"""Names of things in thirty languages beside their English: text that is all knowledge.

    mswitch sample supervised emoji-group --out emoji
    python tests/benchmarks/names.py emoji names

Writes a task and a vocabulary. Facts are 250 of CLDR's names of emoji in each of the 30 languages
that have most of them: `sw: grinning face` has to be answered by the name in Swahili. All of them
train, for a fact that was never seen cannot be known, and 20 a language are evaluated: examples are
built with --allow-overlap.
"""

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.supervised.samples.writer import write_rows, write_task
from pipelines.vocabulary import train
from pipelines.vocabulary.train import VocabularyConfig

LANGUAGES, CONCEPTS, EVALUATED = 30, 250, 20
MAX_CHARACTERS = 40
VOCABULARY = VocabularyConfig(size=2048, character_coverage=0.985)


def order(text: str) -> str:
    """What texts are drawn by."""
    return hashlib.sha256(text.encode()).hexdigest()


def facts(sample: Path) -> list[dict[str, Any]]:
    """The facts, by language."""
    names: dict[str, dict[str, str]] = {}
    for path in sorted((sample / "rows").glob("*.jsonl")):
        rows = map(json.loads, path.read_text("utf-8").splitlines())
        names[path.stem] = {row["emoji"]: row["name"] for row in rows}
    english = names.pop("en")
    usable = {
        lang: {
            key: name
            for key, name in of_lang.items()
            if key in english and len(name) <= MAX_CHARACTERS
        }
        for lang, of_lang in names.items()
    }
    count = Counter(key for of_lang in usable.values() for key in of_lang)
    keys = sorted(count, key=lambda key: (-min(count[key], 60), order(key)))[:CONCEPTS]
    known = {lang: len(set(keys) & of_lang.keys()) for lang, of_lang in usable.items()}
    langs = sorted(sorted(usable, key=lambda lang: (-known[lang], order(lang)))[:LANGUAGES])
    return [
        {
            "id": f"{lang}/{order(key)[:12]}",
            "lang": lang,
            "en": english[key],
            "text": usable[lang][key],
        }
        for lang in langs
        for key in keys
        if key in usable[lang]
    ]


class Text:
    """The facts as the text of a vocabulary."""

    error = None

    def __init__(self, rows: list[dict[str, Any]]):
        self.rows = rows

    def __iter__(self) -> Iterator[str]:
        for row in self.rows:
            yield f"{row['lang']}: {row['en']}"
            yield row["text"]


def main() -> None:
    """Write all."""
    parser = argparse.ArgumentParser(description="Names in thirty languages, as a task.")
    parser.add_argument("sample", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True)
    rows, taken, evaluated = facts(arguments.sample), Counter[str](), []
    for row in sorted(rows, key=lambda row: order(row["id"])):
        if taken[row["lang"]] < EVALUATED:
            taken[row["lang"]] += 1
            evaluated.append(row)
    write_rows(arguments.out / "train.jsonl", rows)
    write_rows(arguments.out / "validation.jsonl", evaluated)
    write_task(
        arguments.out,
        name="names",
        files={"train": "train.jsonl", "validation": "validation.jsonl"},
        inputs="{lang}: {en}",
        targets="{text}",
        language="{lang}",
        group="{id}",
        id="{id}",
        metrics=["exact_match"],
    )
    model = train._finish_model(train._train_pieces(Text(rows), VOCABULARY))  # pyright: ignore[reportArgumentType]
    (arguments.out / "vocabulary.model").write_bytes(model)
    print(f"{len(rows):,} facts in {len(taken)} languages in {arguments.out}")


if __name__ == "__main__":
    main()
