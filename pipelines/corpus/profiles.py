"""What differs between profiles for the phases of a build: stages, contests, columns."""

import dataclasses
from types import MappingProxyType

import pyarrow as pa

from pipelines.corpus.accounts import MODERN_STAGES, STAGES
from pipelines.corpus.modern.records import DOCUMENT_COLUMNS, PAGE_COLUMNS
from pipelines.records import DOCUMENT_SCHEMA, PAGE_SCHEMA


@dataclasses.dataclass(frozen=True)
class Profile:
    """One way to build a corpus.

    Attributes:
        stages: what a record passes through, in order.
        contests: those of `pipelines.corpus.dedup`, in order.
        pages: schema of what ingest stores.
        documents: schema of the shards.
        fingerprints: the kinds of keys that a corpus keeps (pipelines.corpus.fingerprint_store).
    """

    stages: tuple[str, ...]
    contests: tuple[str, ...]
    pages: pa.Schema
    documents: pa.Schema
    fingerprints: tuple[str, ...]

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
            MODERN_STAGES, ("winners",), PAGE_COLUMNS, DOCUMENT_COLUMNS, ("urls", "bands")
        ),
    }
)
