"""Open an examples directory: its manifest, and every language's records by number."""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines import storage
from pipelines.errors import UserError
from pipelines.examples.example_proto import Feature, decode_example
from pipelines.examples.span_corruption import SpanCorruption, Tokens
from pipelines.examples.tfrecord import Records, TFRecordFile, index_path
from pipelines.outputs import MANIFEST, read_manifest
from pipelines.special_tokens import SENTINELS
from tasks.byte_cache import ByteCache
from tasks.checks import check_directory

STAGE = "examples"
VOCABULARY_PATH = "vocabulary/sentencepiece.model"
#: Bytes of neighbouring records that are read at once, in the mean of a language.
BLOCK_BYTES = 1 << 20
#: What is read, and indexes, stays in memory up to so many bytes, for all languages together. Of
#: 107 languages that are read at a time, it holds two blocks each and more.
CACHE_BYTES = 512 << 20
#: Requests in flight to an object store.
_REQUESTS = 32


class Piece(NamedTuple):
    """Records that are read at once.

    Attributes:
        file: the shard they lie in.
        shard: its number.
        first: the first of them, counted over all shards.
        stop: one more than the last.
    """

    file: TFRecordFile
    shard: int
    first: int
    stop: int


class RecordSource:
    """All records of one language and split by number.

    Storage is read in blocks of neighbouring records, of a megabyte in the mean. A block is the
    same records for whoever reads, so `tasks.order` permutes blocks and each is read once.

    Attributes:
        files: the shards.
        block_records: records of a block.
    """

    def __init__(self, files: Sequence[TFRecordFile], cache: ByteCache | None = None):
        """Put shards together.

        Args:
            files: the shards, in order.
            cache: what is read is kept in it; sources may share one.
        """
        self.files = tuple(files)
        self._starts = list(itertools.accumulate((len(file) for file in self.files), initial=0))
        size = sum(file.size_bytes for file in self.files)
        self.block_records = math.ceil(BLOCK_BYTES * len(self) / size) if size else 1
        self._cache = ByteCache(CACHE_BYTES) if cache is None else cache

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> dict[str, Feature]:
        """All features of one record; see `read`."""
        return self.read(index)

    def read(self, index: int, names: Collection[str] | None = None) -> dict[str, Feature]:
        """Features of one record, or those of them that are in `names`.

        Raises:
            IndexError: there is no such record.
            UserError: the record is damaged.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        piece = self.piece(index)
        return self._decode(self.load(piece)[index - piece.first], index, names)

    def read_alone(self, index: int, names: Collection[str]) -> dict[str, Feature]:
        """Features of one record, read without its block: for a look."""
        piece = self.piece(index)
        return self._decode(piece.file[index - self._starts[piece.shard]], index, names)

    def _decode(self, data: bytes, index: int, names: Collection[str] | None) -> dict[str, Feature]:
        try:
            return decode_example(data, names)
        except ValueError as error:
            raise UserError(
                f"{self.place(index)} is not an example ({error}): build the examples again"
            ) from error

    def place(self, index: int) -> str:
        """A record's shard and number in it, for people."""
        piece = self.piece(index)
        return f"{piece.file.path}: record {index - self._starts[piece.shard]}"

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Of each shard, its first record and one more than its last, counted over all."""
        return list(itertools.pairwise(self._starts))

    def piece(self, index: int) -> Piece:
        """What is read for a record: its block, as far as that lies in the record's shard."""
        shard = bisect.bisect_right(self._starts, index) - 1
        block = index // self.block_records * self.block_records
        return Piece(
            self.files[shard],
            shard,
            max(block, self._starts[shard]),
            min(block + self.block_records, self._starts[shard + 1]),
        )

    def is_loaded(self, piece: Piece) -> bool:
        """Whether a piece is in memory, or on its way."""
        return piece in self._cache

    def load(self, piece: Piece) -> Records:
        """The records of a piece, read unless they are in memory.

        Raises:
            UserError: they cannot be read.
        """

        def load() -> tuple[Records, int]:
            start = self._starts[piece.shard]
            edges = self._edges(piece.file)[piece.first - start : piece.stop - start + 1]
            records = piece.file.read(edges.copy())  # a part would keep the whole index
            return records, len(records.data) + records.edges.nbytes

        return self._cache.get(piece, load)

    def _edges(self, file: TFRecordFile) -> NDArray[np.uint64]:
        def load() -> tuple[NDArray[np.uint64], int]:
            edges = file.edges()
            return edges, edges.nbytes

        return self._cache.get(file, load)


@dataclasses.dataclass(frozen=True)
class Examples:
    """A finished examples directory.

    Attributes:
        directory: where it lies.
        manifest: as published.
        languages: its languages, sorted; batches number them in this order.
        lengths: noise parameters and lengths.
        vocabulary_size: all ids, sentinels included.
        finished: whether training records are corrupted already.
        sources: records by split and language; languages without the split are absent.
    """

    directory: str
    manifest: dict[str, Any]
    languages: tuple[str, ...]
    lengths: SpanCorruption
    vocabulary_size: int
    finished: bool
    sources: dict[str, dict[str, RecordSource]]

    def preload(self, records: Iterable[tuple[RecordSource, int]]) -> None:
        """Read side by side what a batch needs, where each read waits for an object store."""
        if not storage.is_remote(self.directory):
            return
        pieces = {source.piece(index): source for source, index in records}
        missing = [piece for piece, source in pieces.items() if not source.is_loaded(piece)]
        if len(missing) > 1:
            with ThreadPoolExecutor(min(_REQUESTS, len(missing))) as pool:
                list(pool.map(lambda piece: pieces[piece].load(piece), missing))

    def tokens(
        self, source: RecordSource, index: int, features: Mapping[str, Feature], name: str
    ) -> Tokens:
        """A record's tokens: ids of the vocabulary, as many as the lengths allow.

        Raises:
            UserError: they are something else.
        """
        values = features.get(name)
        corrupted = "inputs" in features
        longest = self.lengths.raw_length
        if corrupted:  # where spans are single tokens, longer than what they were made of
            by_name = {"inputs": self.lengths.inputs_length, "targets": self.lengths.targets_length}
            longest = by_name[name]
        highest = self.vocabulary_size - (0 if corrupted else SENTINELS)
        if (
            not isinstance(values, np.ndarray)
            or not 0 < values.size <= longest
            or values.min() < 0
            or values.max() >= highest
        ):
            raise UserError(
                f"{source.place(index)} does not hold 1 to {longest} ids below {highest} as "
                f"{name!r}: build the examples again"
            )
        return values.astype(np.int32)


def open_examples(directory: str | Path) -> Examples:
    """Read the manifest, check the vocabulary, and the size of every shard and index.

    Of each language and split, the first and last record of the first and last shard are read
    and checked too where that is cheap, on a disk; all others when they are read.

    Args:
        directory: a path, or a URL such as gs://bucket/examples.

    Raises:
        UserError: the directory is not a finished examples directory, or does not hold what its
            manifest says.
    """
    manifest = read_manifest(directory, STAGE)
    try:
        check_directory(directory, manifest, VOCABULARY_PATH)
        described = manifest["languages"]
        sizes, cache = storage.file_sizes(directory), ByteCache(CACHE_BYTES)
        sources: dict[str, dict[str, RecordSource]] = {"train": {}, "validation": {}}
        for lang in sorted(described):
            for split, entry in described[lang].items():
                files = [_open_shard(directory, shard, sizes) for shard in entry["shards"]]
                sources[split][lang] = RecordSource(files, cache)
        lengths = {field.name: manifest[field.name] for field in dataclasses.fields(SpanCorruption)}
        examples = Examples(
            directory=str(directory),
            manifest=manifest,
            languages=tuple(sorted(described)),
            lengths=SpanCorruption(**lengths),
            vocabulary_size=manifest["vocabulary_size"],
            finished=manifest.get("finished", False),
            sources=sources,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{storage.join(directory, MANIFEST)} is not one of examples ({error!r}): build them "
            "again"
        ) from error
    if not storage.is_remote(directory):
        _check_ends(examples)
    return examples


def _open_shard(
    directory: str | Path, shard: dict[str, Any], sizes: Mapping[str, int]
) -> TFRecordFile:
    path = storage.join(directory, shard["path"])
    for name in (shard["path"], index_path(shard["path"])):
        if name not in sizes:
            raise UserError(f"{storage.join(directory, name)} is missing: build the examples again")
    file = TFRecordFile(path, (sizes[shard["path"]], sizes[index_path(shard["path"])]))
    if len(file) != shard["records"] or file.size_bytes != shard["bytes"]:
        raise UserError(
            f"{path} has {len(file)} records in {file.size_bytes} bytes where the manifest says "
            f"{shard['records']} in {shard['bytes']}: build the examples again"
        )
    return file


def _check_ends(examples: Examples) -> None:
    """Read and check the first and last record of each language's and split's outer shards.

    Shards of another vocabulary or length, or of the other split, are noticed here.

    Raises:
        UserError: a record is damaged or does not suit.
    """
    for split, sources in examples.sources.items():
        names = (
            ("targets",) if split == "train" and not examples.finished else ("inputs", "targets")
        )
        for source in sources.values():
            for index in _ends(source):
                features = source.read_alone(index, names)
                for name in names:
                    examples.tokens(source, index, features, name)


def _ends(source: RecordSource) -> list[int]:
    """First and last record of the first and last shard that have any."""
    filled = [range(a, b) for a, b in source.spans if b > a]
    return sorted({shard[end] for shard in (filled[0], filled[-1]) for end in (0, -1)})
