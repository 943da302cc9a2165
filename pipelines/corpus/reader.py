"""Read a finished corpus directory: which shards there are, and their documents in order."""

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
    """Open a shard, after checking it against a checksum if one is given."""
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
    """One Parquet file of a corpus.

    Attributes:
        path: the file, or its URL.
        lang: mC4 code.
        split: "train" or "validation".
        rows: documents in it.
        size_bytes: size of the file.
        sha256: checksum that the manifest promises.
    """

    path: str
    lang: str
    split: str
    rows: int
    size_bytes: int
    sha256: str

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Columns of the shard, some hundred rows at a time, in its order (by id)."""
        with open_shard(self.path, self.sha256) as file:
            yield from file.iter_batches(BATCH_ROWS, columns=list(columns))

    def documents(self, columns: Sequence[str] = ("id", "text")) -> Iterator[dict[str, Any]]:
        """The documents of the shard one by one; see `batches`."""
        for batch in self.batches(columns):
            yield from batch.to_pylist()


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A finished corpus directory.

    Attributes:
        directory: where it lies.
        shards: its non-empty shards, but those of `und`, sorted by language, split and name.
        identity: hash of all its shards, whatever the directory is called.
        characters: characters of text by (language, split).
        undetermined: documents of no known language (`und`), which are in no shard above.
    """

    directory: str
    shards: tuple[CorpusShard, ...]
    identity: str
    characters: Mapping[tuple[str, str], int]
    undetermined: int

    def select(self, split: str) -> dict[str, list[CorpusShard]]:
        """The shards of one split by language; languages without documents are absent."""
        chosen: dict[str, list[CorpusShard]] = {}
        for shard in self.shards:
            if shard.split == split:
                chosen.setdefault(shard.lang, []).append(shard)
        return chosen

    def say_left_out(self, stage: str) -> None:
        """Say, for a stage that reads the shards, how many documents it does not get."""
        if self.undetermined:
            say(
                stage,
                f"documents whose language is uncertain (und) are left out: {self.undetermined:,}; "
                "a corpus built with a lower --language-threshold has fewer of them",
            )


def corpus_identity(shards: Sequence[Mapping[str, Any]]) -> str:
    """Return the hash of a corpus, by the entries of its shards in the manifest."""
    named = sorted([one["path"], one["sha256"]] for one in shards)
    return hashlib.sha256(canonical_json(named).encode()).hexdigest()


def open_corpus(directory: str | Path) -> Corpus:
    """Read the manifest of a corpus, here or in a bucket.

    Text that no language was identified for (`und`) is left out.
    """
    manifest = read_manifest(directory, "corpus")
    rows = sorted(manifest["shards"], key=lambda row: row["path"])
    shards = [
        CorpusShard(
            path=storage.join(directory, row["path"]),
            lang=row["lang"],
            split=row["split"],
            rows=row["rows"],
            size_bytes=row["bytes"],
            sha256=row["sha256"],
        )
        for row in rows
        if row["rows"] and row["lang"] != UNDETERMINED and row["split"] in SPLITS
    ]
    if not shards:
        raise UserError(
            f"{directory} holds no document of a known language: look into its stats.json"
        )
    ordered = sorted(shards, key=lambda shard: (shard.lang, shard.split, shard.path))
    stats = read_json_object(storage.join(directory, "stats.json"))
    characters = {
        (lang, split): counts["characters"]
        for lang, by_split in stats["languages"].items()
        for split, counts in by_split.items()
    }
    undetermined = sum(row["rows"] for row in rows if row["lang"] == UNDETERMINED)
    return Corpus(str(directory), tuple(ordered), corpus_identity(rows), characters, undetermined)
