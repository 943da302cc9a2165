"""Language identification with CLD3, as mC4 does it."""

import functools
import threading
from collections.abc import Collection

import gcld3

from pipelines.languages import UNDETERMINED


class LanguageIdentifier:
    """Labels text with mC4's codes. An instance serves one thread at a time.

    Args:
        threshold: lowest probability that settles a language.
        min_bytes: shorter text is undetermined.
        max_bytes: how much of a text is looked at.
    """

    def __init__(self, threshold: float = 0.95, min_bytes: int = 100, max_bytes: int = 10_000):
        self.threshold = threshold
        self._cld3 = gcld3.NNetLanguageIdentifier(min_num_bytes=min_bytes, max_num_bytes=max_bytes)

    def identify(self, text: str) -> tuple[str, float]:
        """Return the language of `text` and CLD3's probability for its best guess.

        The language is `und` where CLD3 calls its guess unreliable (c4_utils.detect_languages:
        "no_predictions") or its probability is below the threshold ("low_confidence").
        """
        guess = self._cld3.FindLanguage(text=text)
        settled = guess.is_reliable and guess.probability >= self.threshold
        return (guess.language if settled else UNDETERMINED), guess.probability


def language_reason(lang: str, kept: Collection[str]) -> str | None:
    """Drop pages in a language that is not wanted."""
    if lang in kept:
        return None
    return "undetermined_language" if lang == UNDETERMINED else "other_language"


class _PerThread(threading.local):
    def __init__(self):
        self.identifier = functools.lru_cache(LanguageIdentifier)


_per_thread = _PerThread()


def language_identifier(threshold: float, min_bytes: int, max_bytes: int) -> LanguageIdentifier:
    """Return this thread's identifier with these settings; its model is loaded once."""
    return _per_thread.identifier(threshold, min_bytes, max_bytes)
