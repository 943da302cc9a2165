"""Language identification with CLD3, as mC4 does it."""

import dataclasses
import functools
from collections.abc import Iterable

import gcld3

from pipelines.corpus.rules.base import LanguageRule, Limits, check_range
from pipelines.languages import UNDETERMINED, mc4_codes
from pipelines.records import Page


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdentifyLanguage(LanguageRule):
    """Labels pages by CLD3 with mC4's codes.

    Attributes:
        language_threshold: lowest CLD3 probability that settles a language (0.7 in mC4 3.0.1 and
            the paper, 0.95 in 3.1.0).
        language_min_bytes: CLD3 gives no answer for shorter text.
        language_max_bytes: CLD3 looks at this much of a page.
    """

    language_threshold: float = 0.95
    language_min_bytes: int = 100
    language_max_bytes: int = 10_000

    def __post_init__(self):
        super().__post_init__()
        limits = {
            "language_threshold": (0, 1),
            "language_min_bytes": (0, None),
            "language_max_bytes": (1, None),
        }
        check_range(self, limits)

    def known(self) -> Iterable[str]:
        """Return mC4's codes."""
        return mc4_codes()

    @functools.cached_property
    def _identifier(self) -> LanguageIdentifier:
        return LanguageIdentifier(
            self.language_threshold, self.language_min_bytes, self.language_max_bytes
        )

    def identify(self, page: Page) -> tuple[str, float]:
        """Return the language of a page and CLD3's probability for its best guess."""
        return self._identifier.identify(page.text)

    def limits(self) -> Limits:
        """Return what is allowed."""
        return {"lang_score": (self.language_threshold, None)}
