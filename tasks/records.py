"""Open an examples directory: its manifest, and every language's records by number."""

import bisect
import dataclasses
import itertools
import resource
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import UserError
from pipelines.examples.span_corruption import SpanCorruption
from pipelines.examples.tf_example import Feature, decode_example
from pipelines.examples.tfrecord import TFRecordFile
from pipelines.outputs import file_sha256, read_manifest

VOCABULARY_PATH = "vocabulary/sentencepiece.model"
_SPARE_DESCRIPTORS = 64


class RecordSource:
    """All records of one language and split by number."""

    def __init__(self, files: Sequence[TFRecordFile]):
        self.files = tuple(files)
        self._starts = list(itertools.accumulate((len(file) for file in self.files), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def __repr__(self) -> str:
        return f"RecordSource({self.files[0].path.parent.name}, {len(self)} records)"

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
        shard = bisect.bisect_right(self._starts, index) - 1
        data = self.files[shard][index - self._starts[shard]]
        try:
            return decode_example(data, names)
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{self.files[shard].path}: record {index - self._starts[shard]} is not an "
                f"example ({error}): build the examples again"
            ) from error


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

    directory: Path
    manifest: dict[str, Any]
    languages: tuple[str, ...]
    lengths: SpanCorruption
    vocabulary_size: int
    finished: bool
    sources: dict[str, dict[str, RecordSource]]


def _open_shards(directory: Path, shards: Sequence[dict[str, Any]]) -> RecordSource:
    files = []
    for shard in shards:
        file = TFRecordFile(directory / shard["path"])
        if len(file) != shard["records"] or file.size_bytes != shard["bytes"]:
            raise UserError(
                f"{file.path} has {len(file)} records in {file.size_bytes} bytes where the "
                f"manifest says {shard['records']} in {shard['bytes']}: build the examples again"
            )
        files.append(file)
    return RecordSource(files)


def _allow_descriptors(count: int) -> None:
    """Raise this process's limit of open files, if it may, so that every shard can stay open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _SPARE_DESCRIPTORS
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise UserError(
            f"the examples have {count:,} shards, but only {hard:,} files may be open at a time: "
            "raise the limit (ulimit -n)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def open_examples(directory: str | Path) -> Examples:
    """Read the manifest, check the vocabulary, and open every shard's index.

    Raises:
        UserError: the directory is not a finished examples directory, or does not hold what its
            manifest says.
    """
    manifest = read_manifest(directory, "examples")
    directory = Path(directory)
    model = directory / VOCABULARY_PATH
    if not model.is_file() or file_sha256(model) != manifest["vocabulary_sha256"]:
        raise UserError(
            f"{model} is not the vocabulary these examples were made with: build them again"
        )
    described = manifest["languages"]
    shards = [
        shard
        for splits in described.values()
        for entry in splits.values()
        for shard in entry["shards"]
    ]
    _allow_descriptors(len(shards))
    sources: dict[str, dict[str, RecordSource]] = {"train": {}, "validation": {}}
    for lang in sorted(described):
        for split, entry in described[lang].items():
            sources[split][lang] = _open_shards(directory, entry["shards"])
    return Examples(
        directory=directory,
        manifest=manifest,
        languages=tuple(sorted(described)),
        lengths=SpanCorruption(
            **{field.name: manifest[field.name] for field in dataclasses.fields(SpanCorruption)}
        ),
        vocabulary_size=manifest["vocabulary_size"],
        finished=manifest.get("finished", False),
        sources=sources,
    )
