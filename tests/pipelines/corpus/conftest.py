"""What the corpus tests share."""

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from pipelines.corpus.build import CorpusConfig
from pipelines.corpus.config import ModernConfig
from pipelines.corpus.rules.quality import GopherQuality

NOUNS = [
    "house",
    "garden",
    "river",
    "letter",
    "winter",
    "table",
    "window",
    "market",
    "teacher",
    "doctor",
    "story",
    "village",
]
VERBS = [
    "sees",
    "finds",
    "opens",
    "carries",
    "leaves",
    "follows",
    "watches",
    "remembers",
    "paints",
    "describes",
]


@pytest.fixture(scope="session")
def lenient() -> CorpusConfig:
    """mC4's settings, but pages may be short."""
    return CorpusConfig(min_lines=1, min_long_line_characters=1, language_threshold=0.7)


@pytest.fixture
def hostile_crawl(tmp_path: Path, crawl: ModuleType) -> list[Path]:
    """Three archives: sound pages, duplicates, and most things that can be wrong."""
    sound = [crawl.warcinfo()]
    sound += [
        crawl.record(crawl.prose(crawl.GERMAN, seed), f"http://de.example/{seed}")
        for seed in range(12)
    ]
    sound += [
        crawl.record(crawl.prose(crawl.ENGLISH, seed), f"https://www.en.example/{seed}/?utm_x=1")
        for seed in range(12)
    ]
    first = crawl.write(tmp_path / "in" / "a.warc.wet.gz", sound)
    wrong = [
        crawl.record(
            crawl.prose(crawl.ENGLISH, 99), "http://en.example/3", date="2025-01-01T00:00:00Z"
        ),
        crawl.record(crawl.prose(crawl.GERMAN, 1), "http://copy.example/1"),
        crawl.record(b"\xff\xfe broken", "http://bad.example/utf8"),
        crawl.record("text", None),
        crawl.record("", "http://bad.example/empty"),
        crawl.record("text", "http://bad.example/undated", date=None),
        crawl.record("text", "http://bad.example/misdated", date="yesterday"),
        crawl.record("x" * 190_001, "http://bad.example/long"),
        crawl.record("y " * (9 << 20), "http://bad.example/huge"),
        crawl.record("1234", "http://bad.example/und"),
        crawl.record(crawl.prose(crawl.GERMAN, 50), "http://de.example/\x1b[31m"),
    ]
    parts = crawl.members(wrong)
    damaged = bytearray(parts[0])
    damaged[20:40] = b"\xff" * 20
    second = crawl.write(tmp_path / "in" / "b.warc.wet.gz", [])
    second.write_bytes(b"".join([*parts[:3], bytes(damaged), *parts[3:], parts[0][:50]]))
    pages = [
        crawl.response(f"<html><body><p>{line}</p></body></html>", f"http://html.example/{seed}")
        for seed in range(100, 106)
        for line in [crawl.prose(crawl.ENGLISH, seed, 2).replace("\n", "</p><p>")]
    ]
    pages += [
        crawl.response("gone", "http://html.example/404", status="404 Not Found"),
        crawl.response(b"\x89PNG", "http://html.example/png", headers="Content-Type: image/png"),
        crawl.response("<div>" * 100_000, "http://html.example/deep"),
    ]
    third = crawl.write(tmp_path / "in" / "c.warc.gz", pages)
    return [first, second, third]


@pytest.fixture(scope="session")
def data_bytes() -> Callable[[Path], dict[str, bytes]]:
    """Every file of a directory by its relative path."""

    def read(directory: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(directory)): path.read_bytes()
            for path in sorted(directory.rglob("*"))
            if path.is_file()
        }

    return read


@pytest.fixture(scope="session")
def variant() -> Callable[..., CorpusConfig]:
    return dataclasses.replace


def _english(seed: int, sentences: int = 12) -> str:
    """A paragraph that no other seed has, of ordinary English words."""
    draws = random.Random(seed)
    return " ".join(
        f"The {draws.choice(NOUNS)} of the {draws.choice(NOUNS)} {draws.choice(VERBS)} a "
        f"{draws.choice(NOUNS)} and {draws.choice(VERBS)} the {draws.choice(NOUNS)} with care."
        for _ in range(sentences)
    )


def _settings(**modern: object) -> CorpusConfig:
    # The made-up prose of these pages repeats itself more than people do.
    quality = GopherQuality(
        min_words=20, max_top_ngram_shares=(0.5,) * 3, max_duplicate_ngram_shares=(0.9,) * 6
    )
    return CorpusConfig(
        profile="modern",
        min_lines=1,
        keep_und=False,
        min_long_line_characters=100,
        modern=ModernConfig(quality=quality, **modern),  # pyright: ignore[reportArgumentType]
    )


@pytest.fixture(scope="session")
def english() -> Callable[..., str]:
    return _english


@pytest.fixture(scope="session")
def settings() -> Callable[..., CorpusConfig]:
    return _settings
