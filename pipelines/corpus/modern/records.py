"""What profile `modern` stores of a page, and the columns it adds to a document."""

import pyarrow as pa

from pipelines.corpus.modern.quality import COLUMNS
from pipelines.records import DOCUMENT_SCHEMA

#: Quality columns by their names in the corpus.
QUALITY_COLUMNS = {f"q_{name}": name for name in COLUMNS}

#: Found at ingest and kept in the document.
_SIGNALS = (
    pa.field("lang_second", pa.string(), nullable=False),
    pa.field("lang_second_score", pa.float32(), nullable=False),
    pa.field("script", pa.string(), nullable=False),
    pa.field("masked_emails", pa.int32(), nullable=False),
    pa.field("masked_ips", pa.int32(), nullable=False),
    pa.field("masked_phones", pa.int32(), nullable=False),
    *(
        pa.field(column, pa.from_numpy_dtype(COLUMNS[name]), nullable=False)
        for column, name in QUALITY_COLUMNS.items()
    ),
)

#: One row per document, sorted by `id` within a shard.
DOCUMENT_COLUMNS = pa.schema(
    [*DOCUMENT_SCHEMA, pa.field("cluster_size", pa.int32(), nullable=False), *_SIGNALS]
)

#: One row per page that passed ingest. `band_keys` packs 16 bytes per band.
PAGE_COLUMNS = pa.schema(
    [
        DOCUMENT_SCHEMA.field("id").with_type(pa.binary(16)),
        *(field for field in DOCUMENT_SCHEMA if field.name != "id"),
        pa.field("timestamp_micros", pa.int64(), nullable=False),
        pa.field("url_hash", pa.binary(16), nullable=False),
        pa.field("text_hash", pa.binary(16), nullable=False),
        pa.field("characters", pa.int32(), nullable=False),
        pa.field("band_keys", pa.binary(), nullable=False),
        *_SIGNALS,
    ]
)
