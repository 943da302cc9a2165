"""What travels between the stages: pages, documents, and their Arrow schemas."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pyarrow as pa

SPLITS = ("train", "validation")

#: One row per document of a corpus, sorted by `id` within a shard.
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

#: What each column of a document holds, for the data card.
COLUMN_MEANINGS = {
    "id": "MD5 of the normalised URL, in hex; shards are sorted by it",
    "url": "address of the page, as the crawl has it",
    "text": "text of the page, one paragraph a line",
    "lang": "language code, mC4's (Hebrew is iw); und where the language is uncertain",
    "lang_score": "score of the language identifier, 0 to 1: CLD3's probability, or in profile "
    "modern mostly the share of the language's usual CLD2 points",
    "timestamp": "when the page was fetched (WARC-Date)",
    "source": "crawl file and byte offset of the record, as name@offset",
    "record_id": "WARC-Record-ID, empty where the record has none",
    "cluster_size": "pages that this one stands for, near-duplicates and itself",
    "lang_second": "best other guess of the language, empty if there is none",
    "lang_second_score": "score of that guess, 0 to 1",
    "script": "script of most letters (ISO 15924)",
    "charset": "encoding that its HTML was decoded by, by Python's name; empty without HTML",
    "declared_charset": "encoding that its HTML declared, right or not; empty if it did not",
    "masked_emails": "e-mail addresses that were masked",
    "masked_ips": "public IP addresses that were masked",
    "masked_phones": "phone numbers that were masked",
    "q_words": "words; letters count in parts where words are not parted by spaces",
    "q_mean_word_length": "characters per word; 0 where words are not parted by spaces",
    "q_symbol_ratio": "number signs and ellipses per word",
    "q_bullet_line_share": "share of lines that start with a bullet",
    "q_ellipsis_line_share": "share of lines that end with an ellipsis",
    "q_terminal_line_share": "share of lines that end with the end of a sentence",
    "q_third_longest_line": "characters of the third-longest line, or of the shortest of fewer",
    "q_alphabetic_word_share": "share of words with a letter in them",
    "q_stop_words": "distinct stop words of the language; -1 where they are not known",
    "q_duplicate_line_share": "share of lines that the page has had before",
    "q_duplicate_line_character_share": "share of characters in such lines",
    **{f"q_top_{n}gram_share": f"share of the most frequent {n} words in a row" for n in (2, 3, 4)},
    **{
        f"q_duplicate_{n}gram_share": f"share in {n} words in a row that the page has had before"
        for n in range(5, 11)
    },
    "q_digit_share": "share of digits among the characters other than spaces",
}


#: Of the text of a page that is dropped, this much is kept for a person who looks at samples.
DETAIL_CHARACTERS = 300


@dataclasses.dataclass(slots=True)
class Page:
    """A page of a crawl as plain text, and what the rules of a corpus have found of it.

    Attributes:
        url: as the crawl has it.
        utf8: its text in UTF-8, stripped, non-empty lines joined by newlines.
        timestamp: WARC-Date as the crawl has it.
        timestamp_micros: the same in microseconds since 1970, to compare by.
        source: "<file name>@<byte offset of the record>".
        record_id: WARC-Record-ID, "" if the record has none.
        lang: its language; "" until a rule identifies it.
        lang_score: how sure that rule is, from 0 to 1.
        charset: the encoding that its HTML was decoded by, "" if it was none.
        declared_charset: the encoding that its HTML declares, "" if none.
        form: the published corpus whose fields the page was read from, "" if it is none.
        columns: values of the columns that rules add, by name; names that begin with _ are notes
            of a rule, which are not stored.
        words: its words once a rule has cut them (`mswitch.pipelines.corpus.rules.words`): those of
            some pages, and its number among these.
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
    """A record or page that was dropped, and why.

    Attributes:
        stage: the stage that dropped it, one of its recipe's.
        reason: a short name that is counted.
        source: where it came from, as in `Page`.
        url: its URL where known, else "".
        detail: an error message or the text; of either the first DETAIL_CHARACTERS are kept.
        lang: its language, where that was found before.
        find_detail: gives the detail, where that takes time and few are looked at.
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
        """Return the same with its detail."""
        if self.find_detail is None:
            return self
        return dataclasses.replace(self, detail=self.find_detail(), find_detail=None)
