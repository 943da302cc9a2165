"""Data that passes between the stages: pages, documents, and their Arrow schemas."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from mswitch.pipelines.own_tables import read_own_table

SPLITS = ("train", "validation")

_COLUMNS = read_own_table("columns.csv")
COLUMN_MEANINGS = {row["column"]: row["meaning"] for row in _COLUMNS}


def list_columns(step: str) -> dict[str, str]:
    """Return the columns that a step adds to documents, with their Arrow types (columns.csv)."""
    return {row["column"]: row["type"] for row in _COLUMNS if row["step"] == step}


#: Columns of every corpus, one row per document, sorted by `id` within a shard.
DOCUMENT_SCHEMA = pa.schema(
    [pa.field(name, kind, nullable=False) for name, kind in list_columns("document").items()]
)


#: Maximum characters of a dropped page's text in a sample, for people.
DETAIL_CHARACTERS = 300
#: Maximum characters of the text from which a sample is made. The cut may halve an address, which
#: no pattern then matches, so a sample does not reach this end.
UNMASKED_CHARACTERS = 1000


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
        """Text of the page, decoded at each access."""
        return self.utf8.decode()


@dataclasses.dataclass(frozen=True, slots=True)
class Rejected:
    """A dropped record or page, and the reason.

    Attributes:
        stage: the stage of the recipe that dropped it.
        reason: a short name that is counted.
        source: its source, as in `Page`.
        url: its URL if known, else "".
        detail: an error message or the text; only the first UNMASKED_CHARACTERS are kept.
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
        object.__setattr__(self, "detail", self.detail[:UNMASKED_CHARACTERS])

    def explained(self) -> "Rejected":
        """Return this rejection; if it has a function `find_detail`, add the function's result."""
        if self.find_detail is None:
            return self
        return dataclasses.replace(self, detail=self.find_detail(), find_detail=None)


def reject_record(reason: str, source: str, detail: str = "", url: str = "") -> Rejected:
    """Return a `Rejected` for a record that the reader of its file rejects."""
    return Rejected("read", reason, source, url, detail)
