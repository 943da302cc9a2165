"""What differs between profiles for the phases of a build: stages, contests, columns."""

import dataclasses
from types import MappingProxyType

import pyarrow as pa

from pipelines.corpus.accounts import LANGUAGE_FIRST_STAGES, MODERN_STAGES, STAGES
from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.modern.records import DOCUMENT_COLUMNS, PAGE_COLUMNS
from pipelines.records import DOCUMENT_SCHEMA, PAGE_SCHEMA


@dataclasses.dataclass(frozen=True)
class Profile:
    """One way to build a corpus.

    Attributes:
        stages: what a record passes through, in order.
        contests: what is settled between all units, in order.
        pages: schema of what ingest stores.
        documents: schema of the shards.
        fingerprints: the kinds of keys that a corpus keeps (pipelines.corpus.fingerprint_store).
        preload: modules that worker processes have imported (pipelines.local_pool).
    """

    stages: tuple[str, ...]
    contests: tuple[str, ...]
    pages: pa.Schema
    documents: pa.Schema
    fingerprints: tuple[str, ...]
    preload: tuple[str, ...] = ()

    @property
    def runs(self) -> pa.Schema:
        """Schema of the runs: that of the shards with the id as 16 bytes."""
        return self.documents.set(0, pa.field("id", pa.binary(16), nullable=False))


PROFILES = MappingProxyType(
    {
        "mc4": Profile(
            STAGES, ("winners", "owners"), PAGE_SCHEMA, DOCUMENT_SCHEMA, ("urls", "lines")
        ),
        "modern": Profile(
            MODERN_STAGES,
            ("winners", "near_duplicates"),
            PAGE_COLUMNS,
            DOCUMENT_COLUMNS,
            ("urls", "bands"),
            ("pipelines.corpus.modern.warm_up",),
        ),
    }
)

_after = MODERN_STAGES.index("near_dedup") + 1
_BY_LANGUAGE = MappingProxyType(
    {
        "mc4": dataclasses.replace(
            PROFILES["mc4"],
            stages=LANGUAGE_FIRST_STAGES,
            pages=pa.schema([*PAGE_SCHEMA, *map(DOCUMENT_SCHEMA.field, ("lang", "lang_score"))]),
        ),
        # Lines come last: the page that stands for a cluster should own the lines of all of it.
        "modern": dataclasses.replace(
            PROFILES["modern"],
            stages=(*MODERN_STAGES[:_after], "line_dedup", *MODERN_STAGES[_after:]),
            contests=("winners", "near_duplicates", "owners"),
            pages=pa.schema([*PAGE_COLUMNS, *map(PAGE_SCHEMA.field, ("lines", "line_hashes"))]),
            fingerprints=("urls", "bands", "lines"),
        ),
    }
)


def profile_of(config: CorpusConfig) -> Profile:
    """Return how to build a corpus of these settings."""
    profiles = _BY_LANGUAGE if config.line_scope() == "language" else PROFILES
    return profiles[config.profile]
