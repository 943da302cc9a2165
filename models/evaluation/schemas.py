"""Columns of an evaluation's tables, for writers and readers."""

import pyarrow as pa

#: Key of an evaluation's settings, in the schema metadata of its files.
EVALUATION_SETTINGS = b"mswitch.evaluation"
#: Column of an evaluation: the UL2 denoiser of a row, if examples have several denoisers.
DENOISER = "denoiser"
#: Column of an evaluation: number of the document's cluster of near-duplicates.
CLUSTER = "cluster"
#: Column of an evaluation that reports losses per byte: the loss on sentinels and end tokens, in
#: nats.
BORDER_NATS = "border_nats"

SCHEMA = pa.schema(
    [
        ("lang", pa.string()),
        ("document", pa.string()),
        ("nats", pa.float64()),
        ("target_tokens", pa.int64()),
        ("target_bytes", pa.int64()),
        (CLUSTER, pa.int64()),
    ]
)
WHOLE_SCHEMA = pa.schema([*SCHEMA, (BORDER_NATS, pa.float64()), (DENOISER, pa.int64())])
ROUTING_SCHEMA = pa.schema(
    [
        ("lang", pa.string()),
        ("layer", pa.int64()),
        ("expert", pa.int64()),
        ("tokens", pa.int64()),
    ]
)
