"""Data that passes between the stages: pages, documents, and their Arrow schemas."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pyarrow as pa

SPLITS = ("train", "validation")

#: Columns of a corpus, one row per document, sorted by `id` within a shard.
DOCUMENT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("lang_score", pa.float32(), nullable=False),
        pa.field("timestamp", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("record_id", pa.string(), nullable=False),
    ]
)

#: Meaning of each column of a document, for the data card.
COLUMN_MEANINGS = {
    "id": "MD5 of the normalised URL, in hex; shards are sorted by it",
    "url": "address of the page, as in the crawl",
    "text": "text of the page, one paragraph per line",
    "lang": "language code of mC4 (Hebrew is iw); und if the language is uncertain",
    "lang_score": "score of the language identifier, 0 to 1: CLD3's probability, or in profile "
    "modern mostly the share of the language's usual CLD2 points",
    "timestamp": "time at which the page was fetched (WARC-Date)",
    "source": "crawl file and byte offset of the record, as name@offset",
    "record_id": "WARC-Record-ID, empty if the record has none",
    "cluster_size": "number of pages that this one represents: near-duplicates and itself",
    "lang_second": "best other guess of the language, empty if there is none",
    "lang_second_score": "score of that guess, 0 to 1",
    "script": "script of most letters (ISO 15924)",
    "charset": "Python's name of the encoding of its HTML; empty without HTML",
    "declared_charset": "encoding that its HTML declares, right or wrong; empty if none",
    "masked_emails": "number of masked e-mail addresses",
    "masked_ips": "number of masked public IP addresses",
    "masked_phones": "number of masked phone numbers",
    "q_words": "words; letters count as parts of words if spaces do not separate words",
    "q_mean_word_length": "characters per word; 0 if spaces do not separate words",
    "q_symbol_ratio": "number signs and ellipses per word",
    "q_bullet_line_share": "share of lines that start with a bullet",
    "q_ellipsis_line_share": "share of lines that end with an ellipsis",
    "q_terminal_line_share": "share of lines that end with the end of a sentence",
    "q_third_longest_line": "characters of the third-longest line; of the shortest if fewer lines",
    "q_alphabetic_word_share": "share of words with a letter",
    "q_stop_words": "distinct stop words of the language; -1 if they are unknown",
    "q_duplicate_line_share": "share of lines that occurred earlier on the page",
    "q_duplicate_line_character_share": "share of characters in such lines",
    **{f"q_top_{n}gram_share": f"share of the most frequent {n} words in a row" for n in (2, 3, 4)},
    **{
        f"q_duplicate_{n}gram_share": f"share in {n} words in a row that occurred earlier"
        for n in range(5, 11)
    },
    "q_digit_share": "share of digits among the characters other than spaces",
}


#: Maximum characters of a dropped page's text to keep, for people who look at samples.
DETAIL_CHARACTERS = 300


@dataclasses.dataclass(slots=True)
class Page:
    """A page of a crawl as plain text, with results of the rules of a corpus.

    Attributes:
        url: address as in the crawl.
        utf8: text in UTF-8: stripped, non-empty lines joined by newlines.
        timestamp: WARC-Date as in the crawl.
        timestamp_micros: the same in microseconds since 1970, for comparisons.
        source: "<file name>@<byte offset of the record>".
        record_id: WARC-Record-ID, or "".
        lang: language; "" until a rule identifies it.
        lang_score: certainty of that rule, from 0 to 1.
        charset: encoding that decoded the HTML; "" without HTML.
        declared_charset: encoding that the HTML declares, or "".
        form: published corpus whose fields the page was read from, or "".
        columns: values of the columns that rules add, by name; names that begin with _ are private
            notes of rules, which are not stored.
        words: words of the page, once a rule has cut them (`mswitch.pipelines.corpus.rules.words`):
            the words of several pages, and the page's number among these.
    """

    url: str
    utf8: bytes
    timestamp: str
    timestamp_micros: int
    source: str
    record_id: str
    lang: str = ""
    lang_score: float = 0.0
    columns: dict[str, Any] = dataclasses.field(default_factory=dict)
    words: tuple[Any, int] | None = dataclasses.field(default=None, compare=False, repr=False)
    charset: str = ""
    declared_charset: str = ""
    form: str = ""

    @property
    def text(self) -> str:
        """The text, decoded each time."""
        return self.utf8.decode()


@dataclasses.dataclass(frozen=True, slots=True)
class Rejected:
    """A dropped record or page, and the reason.

    Attributes:
        stage: the stage of the recipe that dropped it.
        reason: a short name that is counted.
        source: its source, as in `Page`.
        url: its URL if known, else "".
        detail: an error message or the text; only the first DETAIL_CHARACTERS are kept.
        lang: its language, if known.
        find_detail: computes the detail, if that takes time and few details are needed.
    """

    stage: str
    reason: str
    source: str
    url: str = ""
    detail: str = ""
    lang: str = ""
    find_detail: Callable[[], str] | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    def __post_init__(self):
        object.__setattr__(self, "detail", self.detail[:DETAIL_CHARACTERS])

    def explained(self) -> "Rejected":
        """Return the same rejection, with the detail that `find_detail` returns."""
        if self.find_detail is None:
            return self
        return dataclasses.replace(self, detail=self.find_detail(), find_detail=None)
