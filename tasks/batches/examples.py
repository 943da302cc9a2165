"""Open an examples directory and check it, without reading most records."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.example_proto import Feature
from mswitch.pipelines.examples.span_corruption import Lengths, SpanCorruption, Tokens
from mswitch.pipelines.examples.tfrecord import TFRecordFile, index_path
from mswitch.pipelines.examples.ul2 import UL2
from mswitch.pipelines.outputs import MANIFEST, MARKER, config_hash, read_json_object, read_manifest
from mswitch.pipelines.special_tokens import SENTINELS
from mswitch.pipelines.vocabulary.model import check_size
from mswitch.tasks.batches.byte_cache import CACHE_BYTES, ByteCache
from mswitch.tasks.batches.record_blocks import RecordSource

STAGE = "examples"
SPLITS = ("train", "validation")
VOCABULARY_PATH = "vocabulary/sentencepiece.model"
_REQUESTS = 32


@dataclasses.dataclass(frozen=True)
class Examples:
    """A finished examples directory.

    Attributes:
        directory: its path or URL.
        manifest: the published manifest.
        languages: its languages, sorted; batches number them in this order.
        lengths: lengths of examples; with noise parameters (`SpanCorruption`) unless supervised.
        vocabulary_size: number of all ids, including sentinels.
        finished: whether training records are pairs already, corrupted or supervised.
        sources: records by split (train, validation and, if supervised, test) and language;
            languages without the split are absent.
    """

    directory: str
    manifest: dict[str, Any]
    languages: tuple[str, ...]
    lengths: Lengths
    vocabulary_size: int
    finished: bool
    sources: dict[str, dict[str, RecordSource]]

    @property
    def supervised(self) -> bool:
        """Whether the examples are inputs and targets of a task, not corrupted text."""
        return not isinstance(self.lengths, SpanCorruption)

    @property
    def validation_lengths(self) -> Lengths:
        """Lengths of validation examples; with spans chosen on raw text, targets may be longer."""
        longest = self.manifest.get("validation_targets_length", self.lengths.targets_length)
        return Lengths(self.lengths.inputs_length, longest)

    @property
    def noise(self) -> SpanCorruption:
        """Parameters of span corruption; supervised examples have none."""
        assert isinstance(self.lengths, SpanCorruption)
        return self.lengths

    def preload(self, records: Iterable[tuple[RecordSource, int]]) -> None:
        """Read the records of a batch in parallel if they are in an object store."""
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
        """Return a record's tokens, after a check that they are known ids and fit the lengths."""
        values = features.get(name)
        corrupted = "inputs" in features
        if corrupted:  # if spans are single tokens, targets are longer than the original text
            longest = getattr(self.validation_lengths, f"{name}_length")
        else:
            longest = self.noise.raw_length
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


def open_examples(directory: str | Path, cache: ByteCache | None = None) -> Examples:
    """Open a directory; check its vocabulary and the size of every shard and index.

    On a disk, the first and last record of the first and last shard of each language and split are
    also read and checked. Other records are checked when read.

    `directory` is a path or a URL. Directories that are read together share a `cache` for records.
    """
    manifest = read_manifest(directory, STAGE)
    try:
        _check_directory(directory, manifest)
        described = manifest["languages"]
        splits = (*SPLITS, "test") if manifest.get("kind") == "supervised" else SPLITS
        sizes = storage.file_sizes(directory)
        cache = ByteCache(CACHE_BYTES) if cache is None else cache
        sources: dict[str, dict[str, RecordSource]] = {split: {} for split in splits}
        for lang in sorted(described):
            for split, entry in described[lang].items():
                files = [_open_shard(directory, shard, sizes) for shard in entry["shards"]]
                sources[split][lang] = RecordSource(files, cache)
        examples = Examples(
            directory=str(directory),
            manifest=manifest,
            languages=tuple(sorted(described)),
            lengths=parse_lengths(manifest),
            vocabulary_size=manifest["vocabulary_size"],
            finished=manifest.get("finished", False),
            sources=sources,
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{storage.join(directory, MANIFEST)} is not a manifest of examples ({error!r}): build "
            "the examples again"
        ) from error
    if not storage.is_remote(directory):
        _check_ends(examples)
    return examples


def parse_lengths(manifest: Mapping[str, Any]) -> Lengths:
    """Return the sequence lengths in a manifest, with any parameters of span corruption."""
    kind: type[Lengths] = UL2 if manifest.get("objective") == "ul2" else SpanCorruption
    if manifest.get("kind") == "supervised":
        kind = Lengths
    return kind(**{field.name: manifest[field.name] for field in dataclasses.fields(kind)})


def _check_directory(directory: str | Path, manifest: Mapping[str, Any]) -> None:
    marker = read_json_object(storage.join(directory, MARKER)).get("config_hash")
    described = config_hash(manifest["stage"], manifest["config"])
    if not marker == described == manifest["config_hash"]:
        raise UserError(
            f"{storage.join(directory, MANIFEST)} was changed, or belongs to other examples: its "
            f"settings do not have the hash {marker} of {MARKER}: build the examples again"
        )
    path = storage.join(directory, VOCABULARY_PATH)
    back = "copy it back, from the vocabulary directory or another copy of these examples"
    if not storage.exists(path):
        raise UserError(f"{path} is missing: {back}")
    model = storage.read_bytes(path)
    if hashlib.sha256(model).hexdigest() != manifest["vocabulary_sha256"]:
        raise UserError(f"{path} is not the vocabulary these examples were made with: {back}")
    size = check_size(model, path)
    if size != manifest["vocabulary_size"]:
        raise UserError(
            f"{path} has {size:,} ids, but the manifest says {manifest['vocabulary_size']:,}: "
            "build the examples again"
        )
    for lang, splits in manifest["languages"].items():
        for split, entry in splits.items():
            records = sum(shard["records"] for shard in entry["shards"])
            if records != entry["records"] or not records:
                raise UserError(
                    f"{storage.join(directory, MANIFEST)} says {entry['records']:,} {split} "
                    f"records of {lang}, and {records:,} by shards: build the examples again"
                )


def _open_shard(
    directory: str | Path, shard: dict[str, Any], sizes: Mapping[str, int]
) -> TFRecordFile:
    path = storage.join(directory, shard["path"])
    for name in (shard["path"], index_path(shard["path"])):
        if name not in sizes:
            raise UserError(
                f"{storage.join(directory, name)} is missing: copy it back, or build the examples "
                "again"
            )
    file = TFRecordFile(path, sizes[shard["path"]], sizes[index_path(shard["path"])])
    if len(file) != shard["records"] or file.size_bytes != shard["bytes"]:
        raise UserError(
            f"{path} has {len(file)} records in {file.size_bytes} bytes, but the manifest says "
            f"{shard['records']} in {shard['bytes']}: build the examples again"
        )
    return file


def _check_ends(examples: Examples) -> None:
    """Read first and last records to detect shards with a wrong vocabulary, length or split."""
    for split, sources in examples.sources.items():
        names = (
            ("targets",) if split == "train" and not examples.finished else ("inputs", "targets")
        )
        for source in sources.values():
            for index in _list_ends(source):
                features = source.read_alone(index, names)
                for name in names:
                    examples.tokens(source, index, features, name)


def _list_ends(source: RecordSource) -> list[int]:
    filled = [range(a, b) for a, b in source.spans if b > a]
    return sorted({shard[end] for shard in (filled[0], filled[-1]) for end in (0, -1)})
