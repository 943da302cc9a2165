"""Output shards: how many, which documents go where, and writing them."""

import collections
import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.fingerprints import is_validation, unpack
from pipelines.corpus.work_directory import WorkDirectory, save_json
from pipelines.faults import fault_point
from pipelines.outputs import file_sha256
from pipelines.records import DOCUMENT_SCHEMA, SPLITS

ROW_GROUP_BYTES = 16 << 20


@dataclasses.dataclass(frozen=True)
class ShardSpec:
    """One shard to write.

    Attributes:
        lang: language code, or `und`.
        split: "train" or "validation".
        index: number of the shard.
        count: how many shards the language has in this split.
        moved: ids (hex) that go to validation though their hash says train.
        pieces: unit, batch, start and stop of the language in the units' runs.
    """

    lang: str
    split: str
    index: int
    count: int
    moved: tuple[str, ...]
    pieces: tuple[tuple[int, int, int, int], ...]

    @property
    def name(self) -> str:
        """A name that no other shard of the corpus has."""
        return f"{self.lang}-{self.split}-{self.index:05d}"

    @property
    def path(self) -> str:
        """Path of the shard below the corpus directory."""
        return f"data/{self.lang}/{self.split}-{self.index:05d}-of-{self.count:05d}.parquet"


def plan_shards(
    indexes: Sequence[Mapping[str, Mapping[str, Any]]], config: CorpusConfig
) -> list[ShardSpec]:
    """Decide the shards of a corpus from what its units hold (`finish_unit`), unit by unit.

    The number of shards follows from bytes of text. Depends on the documents only, not on how
    they are spread over units.
    """
    shards = []
    for lang in sorted({lang for index in indexes for lang in index}):
        entries = [(unit, index[lang]) for unit, index in enumerate(indexes) if lang in index]
        totals = {
            split: np.sum([entry[split] for _, entry in entries], axis=0).tolist()
            for split in SPLITS
        }
        smallest = sorted(row for _, entry in entries for row in entry["smallest"])
        lacking = config.min_validation_documents - totals["validation"][0]
        moved = smallest[: max(0, min(lacking, totals["train"][0] - 1))]
        moved_total = [len(moved), sum(row[1] for row in moved), sum(row[2] for row in moved)]
        pieces = tuple(
            (unit, batch, start, stop)
            for unit, entry in entries
            for batch, start, stop in entry["pieces"]
        )
        for split, sign in (("train", -1), ("validation", 1)):
            documents, _, size = (
                a + sign * b for a, b in zip(totals[split], moved_total, strict=True)
            )
            count = min(documents, max(1, math.ceil(size / config.shard_bytes)))
            shards += [
                ShardSpec(lang, split, i, count, tuple(row[0] for row in moved), pieces)
                for i in range(count)
            ]
    return shards


def write_shard(
    spec: ShardSpec, directory: Path, work: WorkDirectory, config: CorpusConfig
) -> None:
    """Gather a shard's documents from the runs, sort them by id and write Parquet.

    Shard i of n holds the ids in the i-th n-th of the 128-bit space, so the shards in order are
    sorted as a whole. Does nothing if an earlier run has written it. Memory: one shard.
    """
    entry = work.shard(spec.name)
    if entry.exists():
        return
    table = _gather(spec, work, config)
    ids = [value.hex() for value in table["id"].to_pylist()]
    table = table.set_column(0, DOCUMENT_SCHEMA.field("id"), pa.array(ids, pa.string()))
    table = table.cast(DOCUMENT_SCHEMA)
    texts = table["text"].to_pylist()
    size = sum(len(text.encode()) for text in texts)
    rows_per_group = max(1, len(table) * ROW_GROUP_BYTES // max(size, 1))
    # Written in the work directory: whatever a killed run leaves goes away with it.
    temporary = entry.with_suffix(".parquet")
    pq.write_table(table, temporary, row_group_size=rows_per_group, compression="zstd")
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    final = directory / spec.path
    final.parent.mkdir(parents=True, exist_ok=True)
    manifest = {
        "path": spec.path,
        "lang": spec.lang,
        "split": spec.split,
        "rows": len(table),
        "bytes": temporary.stat().st_size,
        "sha256": file_sha256(temporary),
    }
    os.replace(temporary, final)
    statistics = {"documents": len(texts), "characters": sum(map(len, texts)), "bytes": size}
    save_json(entry, {"manifest": manifest, "statistics": statistics})
    fault_point("corpus.after_shard")


def _gather(spec: ShardSpec, work: WorkDirectory, config: CorpusConfig) -> pa.Table:
    """Collect the documents of a shard, sorted by id."""
    moved = set(spec.moved)
    by_unit: dict[int, list[tuple[int, int, int]]] = collections.defaultdict(list)
    for unit, *piece in spec.pieces:
        by_unit[unit].append((piece[0], piece[1], piece[2]))
    parts = []
    for unit, pieces in by_unit.items():
        with pa.memory_map(str(work.run(unit))) as source:
            run = pa.ipc.open_file(source)
            for batch, start, stop in pieces:
                rows = run.get_batch(batch).slice(start, stop - start)
                ids = rows["id"].to_pylist()
                halves = unpack(b"".join(ids))
                validation = is_validation(halves, config.validation_per_mille)
                if moved:
                    validation |= np.array([value.hex() in moved for value in ids])
                chosen = (validation == (spec.split == "validation")) & (
                    _shard_of(halves, spec.count) == spec.index
                )
                if chosen.any():
                    parts.append(rows.take(pa.array(np.flatnonzero(chosen))))
    if not parts:
        return pa.table({name: [] for name in DOCUMENT_SCHEMA.names}).select(DOCUMENT_SCHEMA.names)
    table = pa.Table.from_batches(parts)
    ids = table["id"].to_pylist()
    return table.take(pa.array(sorted(range(len(ids)), key=ids.__getitem__), pa.int64()))


def _shard_of(halves: np.ndarray, count: int) -> np.ndarray:
    """Return which of `count` equal parts of the id space each id lies in."""
    edges = [((i << 64) + count - 1) // count for i in range(1, count)]
    return np.searchsorted(np.array(edges, np.uint64), halves[:, 0], side="right")
