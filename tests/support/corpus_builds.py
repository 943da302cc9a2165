"""Settings, texts and results of small corpus builds."""

import random
from pathlib import Path

from pipelines.corpus.build import CorpusConfig
from pipelines.corpus.config import ModernConfig
from pipelines.corpus.rules.quality import GopherQuality

#: mC4's settings, but pages may be short.
LENIENT = CorpusConfig(min_lines=1, min_long_line_characters=1, language_threshold=0.7)

NOUNS = ["house", "garden", "river", "letter", "winter", "table", "window", "market", "teacher",
         "doctor", "story", "village"]  # fmt: skip
VERBS = ["sees", "finds", "opens", "carries", "leaves", "follows", "watches", "remembers",
         "paints", "describes"]  # fmt: skip


def english(seed: int, sentences: int = 12) -> str:
    """A paragraph that no other seed has, of ordinary English words."""
    draws = random.Random(seed)
    return " ".join(
        f"The {draws.choice(NOUNS)} of the {draws.choice(NOUNS)} {draws.choice(VERBS)} a "
        f"{draws.choice(NOUNS)} and {draws.choice(VERBS)} the {draws.choice(NOUNS)} with care."
        for _ in range(sentences)
    )


def modern_settings(**modern: object) -> CorpusConfig:
    """Profile `modern` for such paragraphs, which repeat themselves more than people do."""
    quality = GopherQuality(
        min_words=20, max_top_ngram_shares=(0.5,) * 3, max_duplicate_ngram_shares=(0.9,) * 6
    )
    return CorpusConfig(
        profile="modern",
        min_lines=1,
        keep_und=False,
        min_long_line_characters=100,
        modern=ModernConfig(quality=quality, **modern),
    )


def data_bytes(directory: Path) -> dict[str, bytes]:
    """Every file of a directory by its relative path."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
