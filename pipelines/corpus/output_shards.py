"""Plans and writes output shards."""

import contextlib
import dataclasses
import itertools
import math
import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.config import CorpusConfig
from mswitch.pipelines.corpus.fingerprints import unpack_column
from mswitch.pipelines.corpus.job import Job
from mswitch.pipelines.corpus.results import LanguageIndex
from mswitch.pipelines.corpus.validation_split import is_validation
from mswitch.pipelines.corpus.work_directory import WorkDirectory
from mswitch.pipelines.outputs import file_sha256

ROW_GROUP_BYTES = 16 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class ShardSpec:
    """A shard to write.

    Attributes:
        lang: language code, or `und`.
        split: "train" or "validation".
        index: number of the shard.
        count: number of shards of the language in this split.
        moved: ids (hex) that move to validation, although their hash says train.
        pieces: group, batch, start and stop of the language in the runs of all groups of shards.
        prefix: part of the name, which differs for each addition to a corpus.
    """

    lang: str
    split: str
    index: int
    count: int
    moved: tuple[str, ...]
    pieces: tuple[tuple[int, int, int, int], ...]
    prefix: str = ""

    @property
    def name(self) -> str:
        """Name of the shard, unique in the build."""
        return f"{self.lang}-{self.split}-{self.index:05d}"

    @property
    def path(self) -> str:
        """Path of the shard below the corpus directory."""
        number = f"{self.prefix}{self.index:05d}-of-{self.count:05d}"
        return f"data/{self.lang}/{self.split}-{number}.parquet"


def plan_shards(
    languages: Mapping[str, LanguageIndex],
    config: CorpusConfig,
    *,
    prefix: str = "",
    validation_documents: Mapping[str, int] | None = None,
) -> list[ShardSpec]:
    """Decide the output shards of a corpus; their number follows from the bytes of text.

    The result depends only on the documents, not on the input shards that they come from. In a
    corpus that grows, it also depends on the `validation_documents` that each language already has.
    """
    existing = validation_documents or {}
    shards = []
    for lang, index in sorted(languages.items()):
        totals = index.totals
        lacking = config.min_validation_documents - totals["validation"][0] - existing.get(lang, 0)
        # Leave at least one document for training.
        moved = index.smallest[: max(0, min(lacking, totals["train"][0] - 1))]
        moved_total = [len(moved), sum(row[1] for row in moved), sum(row[2] for row in moved)]
        ids, pieces = tuple(row[0] for row in moved), tuple(index.pieces)
        for split, sign in (("train", -1), ("validation", 1)):
            documents, _, size = (
                a + sign * b for a, b in zip(totals[split], moved_total, strict=True)
            )
            count = min(documents, max(1, math.ceil(size / config.shard_bytes)))
            shards += [ShardSpec(lang, split, i, count, ids, pieces, prefix) for i in range(count)]
    return shards


def write_shard(spec: ShardSpec, directory: str, job: Job) -> dict[str, Any]:
    """Write an output shard with its documents from all groups of input shards."""
    batches = [
        batch
        for group, pieces in itertools.groupby(spec.pieces, operator.itemgetter(0))
        for batch in _gather(group, [piece[1:] for piece in pieces], spec, job)
    ]
    return write_documents(spec, batches, directory, job)


def write_documents(
    spec: ShardSpec, batches: Sequence[pa.RecordBatch], directory: str, job: Job
) -> dict[str, Any]:
    """Sort a shard's documents by id and write Parquet; return its manifest entry and statistics.

    The batches have the columns of `Recipe.runs`; their rows may have any order. Of n shards, shard
    i holds the ids in the i-th of n equal parts of the 128-bit space, so all shards in order are
    sorted. Memory: one shard, plus a row group.
    """
    schema = job.recipe.documents
    texts = [batch["text"] for batch in batches]
    size, characters = (
        sum(
            pc.call_function("sum", [pc.call_function(length, [text])]).as_py() or 0
            for text in texts
        )
        for length in ("binary_length", "utf8_length")
    )
    rows = sum(batch.num_rows for batch in batches)
    rows_per_group = max(1, rows * ROW_GROUP_BYTES // max(size, 1))
    final = storage.join(directory, spec.path)
    storage.make_directory(os.path.dirname(final))
    with storage.publish(final, sync=True) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for group in _sort_groups(batches, rows_per_group):
                ids = pa.array([value.hex() for value in group["id"].to_pylist()], pa.string())
                named = group.set_column(0, schema.field("id"), ids)
                writer.write_table(named.cast(schema), row_group_size=rows_per_group)
                del named, group
                # Without this, Arrow's allocator keeps many freed row groups.
                pa.default_memory_pool().release_unused()
        manifest = {
            "path": spec.path,
            "lang": spec.lang,
            "split": spec.split,
            "rows": rows,
            "bytes": temporary.stat().st_size,
            "sha256": file_sha256(temporary),
        }
    statistics = {"documents": rows, "characters": characters, "bytes": size}
    return {"manifest": manifest, "statistics": statistics}


def _sort_groups(batches: Sequence[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """Yield the rows of batches, sorted by id, `size` rows at a time."""
    ids = [value for batch in batches for value in batch["id"].to_pylist()]
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int64)
    starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
    for first in range(0, len(order), size):
        rows = order[first : first + size]
        origin = np.searchsorted(starts, rows, side="right") - 1
        by_batch = np.argsort(origin, kind="stable")
        parts = [
            batches[number].take(pa.array(rows[origin == number] - starts[number]))
            for number in np.unique(origin).tolist()
        ]
        group = pa.Table.from_batches(parts).take(pa.array(np.argsort(by_batch)))
        del parts
        yield group


def _gather(
    group: int, pieces: Iterable[Sequence[int]], spec: ShardSpec, job: Job
) -> Iterator[pa.RecordBatch]:
    with open_run(group, job.work) as run:
        for rows in cut_run(run, pieces):
            if len(chosen := Places(rows, spec.moved, job.config).select(spec)):
                yield rows.take(pa.array(chosen))


@contextlib.contextmanager
def open_run(group: int, work: WorkDirectory) -> Iterator[pa.ipc.RecordBatchFileReader]:
    """Open the file with the sorted documents of a finished group."""
    with storage.fetch(work.run(group)) as path, pa.memory_map(str(path)) as source:
        yield pa.ipc.open_file(source)


def cut_run(
    run: pa.ipc.RecordBatchFileReader, pieces: Iterable[Sequence[int]]
) -> Iterator[pa.RecordBatch]:
    """Yield slices of a file's record batches, given by batch number, start row and stop row."""
    for number, start, stop in pieces:
        yield run.get_batch(number).slice(start, stop - start)


class Places:
    """Assigns documents of a language to output shards."""

    def __init__(self, rows: pa.RecordBatch, moved: Sequence[str], config: CorpusConfig):
        self._halves = unpack_column(rows["id"])
        self._validation = is_validation(self._halves, config.validation_per_mille)
        if moved:
            exceptions = set(moved)
            ids = rows["id"].to_pylist()
            self._validation |= np.array([value.hex() in exceptions for value in ids])

    def select(self, spec: ShardSpec) -> np.ndarray:
        """Return the positions of the documents that belong to a shard."""
        chosen = self._validation == (spec.split == "validation")
        if spec.count > 1:
            # Each shard has an equal part of the id space.
            edges = [((i << 64) + spec.count - 1) // spec.count for i in range(1, spec.count)]
            part = np.searchsorted(np.array(edges, np.uint64), self._halves[:, 0], side="right")
            chosen &= part == spec.index
        return np.flatnonzero(chosen)
