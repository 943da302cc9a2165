"""What the builds of profile `modern` share."""

import random
from collections.abc import Callable

import pytest

from pipelines.corpus.build import CorpusConfig
from pipelines.corpus.modern.config import ModernConfig
from pipelines.corpus.modern.quality import QualityPolicy

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
    quality = QualityPolicy(
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
