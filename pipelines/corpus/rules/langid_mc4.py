"""Language identification with CLD3, as in mC4."""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Annotated, Any

import gcld3
from annotated_types import Ge, Le

from mswitch.pipelines.config_checks import check_fields
from mswitch.pipelines.corpus.rules.base import Limits
from mswitch.pipelines.corpus.rules.language_rule import LanguageRule
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import UNDETERMINED, mc4_codes
from mswitch.pipelines.records import Page


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdentifyLanguage(LanguageRule):
    """Labels pages by CLD3 with mC4's codes.

    A page is `und` if CLD3 calls its guess unreliable (c4_utils.detect_languages:
    "no_predictions") or the probability is below the threshold ("low_confidence").

    Attributes:
        language_threshold: lowest CLD3 probability that decides a language (0.7 in mC4 3.0.1 and
            the paper, 0.95 in 3.1.0).
        language_min_bytes: fewest bytes of text for which CLD3 decides a language.
        language_max_bytes: bytes of a page that CLD3 reads.
    """

    language_threshold: Annotated[float, Ge(0), Le(1)] = 0.95
    language_min_bytes: Annotated[int, Ge(0)] = 100
    language_max_bytes: Annotated[int, Ge(1)] = 10_000

    def __post_init__(self):
        super().__post_init__()
        check_fields(self)
        if self.language_min_bytes >= self.language_max_bytes:  # CLD3 would end the process
            raise UserError(
                f"--language-max-bytes {self.language_max_bytes} must be above "
                f"--language-min-bytes {self.language_min_bytes}: CLD3 needs text to read"
            )

    def known(self) -> Iterable[str]:
        return mc4_codes()

    @functools.cached_property
    def _cld3(self) -> Any:
        return gcld3.NNetLanguageIdentifier(
            min_num_bytes=self.language_min_bytes, max_num_bytes=self.language_max_bytes
        )

    def identify(self, page: Page) -> tuple[str, float]:
        guess = self._cld3.FindLanguage(text=page.text)
        settled = guess.is_reliable and guess.probability >= self.language_threshold
        return (guess.language if settled else UNDETERMINED), guess.probability

    def limits(self, page: Page | None = None) -> Limits:
        return {"lang_score": (self.language_threshold, None)}
