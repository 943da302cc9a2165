"""Reads a finished corpus directory: its shards, and their documents in order."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.languages import UNDETERMINED
from mswitch.pipelines.outputs import canonical_json, file_sha256, read_json_object, read_manifest
from mswitch.pipelines.progress import say
from mswitch.pipelines.records import SPLITS

BATCH_ROWS = 512


@contextlib.contextmanager
def open_shard(path: str, sha256: str = "") -> Iterator[pq.ParquetFile]:
    """Open a shard; check it first if a checksum is given."""
    again = "build the corpus again"
    try:
        with storage.fetch(path) as local:
            if sha256 and file_sha256(local) != sha256:
                raise UserError(f"{path} is damaged (its SHA-256 is not the manifest's): {again}")
            with pq.ParquetFile(local) as shard:
                yield shard
    except (OSError, pa.ArrowException) as error:
        first = str(error).partition("\n")[0]
        raise UserError(f"cannot read {path} ({first}): {again}") from error


@dataclasses.dataclass(frozen=True)
class CorpusShard:
    """A Parquet file of a corpus.

    Attributes:
        path: path or URL of the file.
        lang: mC4 code.
        split: "train" or "validation".
        rows: number of documents.
        size_bytes: size of the file.
        sha256: its checksum in the manifest.
    """

    path: str
    lang: str
    split: str
    rows: int
    size_bytes: int
    sha256: str

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield columns of the shard, some hundred rows at a time, in the shard's order (by id)."""
        with open_shard(self.path, self.sha256) as file:
            yield from file.iter_batches(BATCH_ROWS, columns=list(columns))

    def documents(self, columns: Sequence[str] = ("id", "text")) -> Iterator[dict[str, Any]]:
        """Yield the documents of the shard, one by one; see `batches`."""
        for batch in self.batches(columns):
            yield from batch.to_pylist()


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A finished corpus directory.

    Attributes:
        directory: its path or URL.
        shards: its non-empty shards except those of `und`, sorted by language, split and name.
        identity: hash of all its shards, independent of the directory's name.
        characters: characters of text by (language, split).
        undetermined: number of documents of unknown language (`und`), which `shards` omits.
    """

    directory: str
    shards: tuple[CorpusShard, ...]
    identity: str
    characters: Mapping[tuple[str, str], int]
    undetermined: int

    def select(self, split: str) -> dict[str, list[CorpusShard]]:
        """Return the shards of a split by language; languages without documents are absent."""
        chosen: dict[str, list[CorpusShard]] = {}
        for shard in self.shards:
            if shard.split == split:
                chosen.setdefault(shard.lang, []).append(shard)
        return chosen

    def say_left_out(self, stage: str) -> None:
        """Print how many documents a stage skips because their language is uncertain."""
        if self.undetermined:
            say(
                stage,
                f"documents whose language is uncertain (und) are left out: {self.undetermined:,}; "
                "a corpus built with a lower --language-threshold has fewer of them",
            )


def hash_corpus(shards: Sequence[Mapping[str, Any]]) -> str:
    """Return the hash of a corpus, given the manifest entries of its shards."""
    named = sorted([shard["path"], shard["sha256"]] for shard in shards)
    return hashlib.sha256(canonical_json(named).encode()).hexdigest()


def open_corpus(directory: str | Path) -> Corpus:
    """Read the manifest of a corpus, local or in a bucket; leave out text of unknown language."""
    manifest = read_manifest(directory, "corpus")
    rows = manifest["shards"]
    shards = [
        CorpusShard(
            path=storage.join(directory, row["path"]),
            lang=row["lang"],
            split=row["split"],
            rows=row["rows"],
            size_bytes=row["bytes"],
            sha256=row["sha256"],
        )
        for row in sorted(rows, key=lambda row: (row["lang"], row["split"], row["path"]))
        if row["rows"] and row["lang"] != UNDETERMINED and row["split"] in SPLITS
    ]
    if not shards:
        raise UserError(
            f"{directory} has no document of a known language: look into its stats.json"
        )
    stats = read_json_object(storage.join(directory, "stats.json"))
    characters = {
        (lang, split): counts["characters"]
        for lang, by_split in stats["languages"].items()
        for split, counts in by_split.items()
    }
    undetermined = sum(row["rows"] for row in rows if row["lang"] == UNDETERMINED)
    return Corpus(str(directory), tuple(shards), hash_corpus(rows), characters, undetermined)


def check_clustered(corpus: Corpus, column: str) -> None:
    """Check that a column of a corpus can contain sizes of clusters.

    Raises:
        UserError: it does not exist, or is not of whole numbers.
    """
    with open_shard(corpus.shards[0].path) as shard:
        if column not in shard.schema_arrow.names:
            raise UserError(
                f"--weights: {corpus.directory} has no column {column}: build it with near-"
                "deduplication, such as with --profile modern, or name a kept column with "
                "--cluster-size"
            )
        if not pa.types.is_integer(kind := shard.schema_arrow.field(column).type):
            raise UserError(
                f"--cluster-size {column}: its type is {kind}, not whole numbers: give another "
                f"column, or keep it with --keep {column}=int64"
            )
