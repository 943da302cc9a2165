"""Settings of a corpus build; the defaults are mC4's."""

import dataclasses
from types import MappingProxyType
from typing import Any, Literal, get_args

from pipelines.corpus.modern.config import ModernConfig
from pipelines.crawl.fields import map_fields
from pipelines.errors import UserError
from pipelines.languages import UNDETERMINED, languages, mc4_codes, parse_codes

Mc4Release = Literal["3.0.1", "3.1.0"]
UrlWinner = Literal["largest_hash", "newest"]
DedupScope = Literal["global", "language", "none"]

#: Within what lines are deduplicated, by profile; the first is the default.
_DEDUP_SCOPES: MappingProxyType[str, tuple[DedupScope, ...]] = MappingProxyType(
    {"mc4": ("global", "language"), "modern": ("none", "language")}
)


@dataclasses.dataclass(frozen=True)
class ReleaseRules:
    """In what the releases of mC4 differ, besides how bad words match (pipelines.corpus.badwords).

    Attributes: see `CorpusConfig`.
    """

    language_threshold: float
    url_winner: UrlWinner
    badwords_filter_fraction: float


RELEASES: MappingProxyType[Mc4Release, ReleaseRules] = MappingProxyType(
    {
        "3.0.1": ReleaseRules(0.7, "largest_hash", 1.0),
        "3.1.0": ReleaseRules(0.95, "newest", 0.999),
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """What decides the bytes of a corpus, besides its input.

    The defaults are those of tfds `c4/multilingual` 3.1.0 (text/c4_utils.py), the published code
    of mC4. A default that mC4 has no counterpart for says so; docs/reference/mc4.md lists
    where we deviate.

    Attributes:
        profile: `mc4` is the published pipeline. `modern` identifies languages early (with CLD2
            too), scales lengths by script, filters by quality, removes near-duplicates in place
            of single lines, masks personal data; `modern` below has its settings.
        mc4_release: whose rules hold, 3.0.1 (2020, the paper's corpus) or 3.1.0 (2022). Decides
            whatever of the next three is None, and how bad words match.
        language_threshold: lowest CLD3 probability that settles a language (0.7 in 3.0.1 and the
            paper, 0.95 in 3.1.0).
        url_winner: which of the pages of one URL stays: the one whose text has the largest md5
            (3.0.1), or the newest (3.1.0).
        badwords_filter_fraction: share of the pages with bad words that is dropped, chosen by
            the URL's hash (1 in 3.0.1, 0.999 in 3.1.0).
        dedup_scope: within what each line is kept once. `global`, the whole corpus, is mC4's;
            `language` identifies languages first, by whole pages, so that `languages` prunes
            before the shuffles and a language does not depend on the others; `none` keeps all
            lines (profile `modern`, where it is the default).
        languages: codes to keep (an entry may name several, with commas; aliases are
            understood); None keeps mC4's 107, or all languages in profile `modern`.
        keep_und: keep pages whose language is uncertain, as language `und` (mC4 does); by default
            unless languages are chosen.
        max_page_characters: longer pages are dropped, before anything else.
        min_lines: pages with fewer lines are dropped.
        min_long_line_characters: a page's third-longest line (its shortest, where it has fewer
            than three) needs this many characters.
        drop_metadata_lines: drop lines of a page's text that start with WARC, CONTENT- or
            Content-. mC4's splitter takes them for record headers.
        language_min_bytes: CLD3 gives no answer for shorter text.
        language_max_bytes: CLD3 looks at this much of a page.
        validation_per_mille: pages with md5(normalised URL) mod 1000 below it are validation.
        min_validation_documents: a language with fewer gets the pages of smallest hash, and
            keeps at least one for training. Not in mC4.
        field: which fields of JSONL and Parquet hold `text`, `url`, `timestamp` and `record_id`, as
            entries such as text=content or url=page.link; None looks for the standard
            ones (docs/tutorials/your-own-crawl.md). Entries of one name are tried in turn.
        html_main_content: take only the main content of HTML, without navigation and footers.
            mC4 reads WET, which has all text; this concerns WARC input alone.
        max_record_bytes: larger records are dropped unread. Not in mC4.
        shard_bytes: bytes of text a shard aims at. Not in mC4.
        bucket_bytes: bytes of fingerprints that are resolved at a time; the output does not
            depend on it.
        keep_fingerprints: keep the fingerprints of URLs and lines (16 bytes each; in profile
            `modern` 224 bytes a document in place of lines) beside the data, so that a further
            crawl can be added. Not in mC4.
        rejected_per_reason: how many dropped pages of each reason are kept for inspection.
        modern: settings of profile `modern` alone.
    """

    profile: Literal["mc4", "modern"] = "mc4"
    mc4_release: Mc4Release = "3.1.0"
    language_threshold: float | None = None
    url_winner: UrlWinner | None = None
    badwords_filter_fraction: float | None = None
    dedup_scope: DedupScope | None = None
    languages: tuple[str, ...] | None = None
    keep_und: bool | None = None
    max_page_characters: int = 190_000
    min_lines: int = 3
    min_long_line_characters: int = 200
    drop_metadata_lines: bool = True
    language_min_bytes: int = 100
    language_max_bytes: int = 10_000
    validation_per_mille: int = 1
    min_validation_documents: int = 0
    field: tuple[str, ...] | None = None
    html_main_content: bool = True
    max_record_bytes: int = 16 << 20
    shard_bytes: int = 128 << 20
    bucket_bytes: int = 64 << 20
    keep_fingerprints: bool = True
    rejected_per_reason: int = 20
    modern: ModernConfig = dataclasses.field(default_factory=ModernConfig)

    def __post_init__(self):
        if self.mc4_release not in RELEASES:
            raise UserError(f"mC4 has no release {self.mc4_release}: choose {', '.join(RELEASES)}")
        if self.url_winner not in (None, *get_args(UrlWinner)):
            choices = ", ".join(get_args(UrlWinner))
            raise UserError(f"url_winner is {self.url_winner}: choose {choices}")
        scopes = _DEDUP_SCOPES[self.profile]
        if self.dedup_scope not in (None, *scopes):
            raise UserError(
                f"dedup_scope is {self.dedup_scope}: profile {self.profile} has {', '.join(scopes)}"
            )
        if self.profile == "mc4" and self.modern != (unset := ModernConfig()):
            names = [field.name for field in dataclasses.fields(unset)]
            chosen = [n for n in names if getattr(self.modern, n) != getattr(unset, n)]
            raise UserError(f"modern.{chosen[0]} is for profile modern: choose that profile too")
        limits = {
            "max_page_characters": (1, None),
            "min_lines": (1, None),
            "min_long_line_characters": (0, None),
            "language_threshold": (0, 1),
            "badwords_filter_fraction": (0, 1),
            "language_min_bytes": (0, None),
            "language_max_bytes": (1, None),
            "validation_per_mille": (0, 999),
            "min_validation_documents": (0, None),
            "max_record_bytes": (1, 1 << 30),
            "shard_bytes": (1, 1 << 30),
            "bucket_bytes": (1, None),
            "rejected_per_reason": (0, None),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if value is None:
                continue
            if not value >= low or (high is not None and value > high):
                upper = "" if high is None else f" and at most {high:,}"
                raise UserError(f"{name} is {value}: it must be at least {low}{upper}")
        if self.languages is not None:
            given = [code for entry in self.languages for code in entry.split(",") if code]
            object.__setattr__(self, "languages", parse_codes(given))
        map_fields(self.field)
        if self.keep_und is None:
            object.__setattr__(self, "keep_und", self.languages is None)
        if self.languages == () and not self.keep_und:
            raise UserError("no language is chosen: give at least one, or keep_und")

    def rules(self) -> ReleaseRules:
        """The rules of the release, except where an option of this config says otherwise."""
        names = [field.name for field in dataclasses.fields(ReleaseRules)]
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return dataclasses.replace(RELEASES[self.mc4_release], **given)

    def line_scope(self) -> DedupScope:
        """Within what each line is kept once: what was chosen, or the profile's default."""
        return self.dedup_scope or _DEDUP_SCOPES[self.profile][0]

    def settings(self) -> dict[str, Any]:
        """All settings by name, with those that the release decides filled in.

        Raises:
            UserError: a list that profile `modern` was given cannot be read.
        """
        settings = {**dataclasses.asdict(self), **dataclasses.asdict(self.rules())}
        settings["dedup_scope"] = self.line_scope()
        if self.field is None:
            del settings["field"]
        if self.profile == "mc4":
            del settings["modern"]
            return settings
        return {**settings, "modern": self.modern.settings()}

    def kept_languages(self) -> frozenset[str]:
        """The labels that a page may be written under, `und` included if it is kept."""
        every = mc4_codes() if self.profile == "mc4" else languages()
        chosen = every if self.languages is None else self.languages
        return frozenset(chosen) | ({UNDETERMINED} if self.keep_und else set())
