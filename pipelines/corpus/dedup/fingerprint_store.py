"""The fingerprints that a corpus keeps beside its data, so that later crawls can be added.

`fingerprints/urls-*.npy`, `lines-*.npy` and `bands-*.npy` hold the sorted keys (uint64 [n, 2]) of
all documents' URLs, lines and bands (of near-duplicates), cut into ranges of the key space.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.dedup.buckets import Slice, cut
from mswitch.pipelines.corpus.fingerprints import sorted_keys
from mswitch.pipelines.corpus.work_directory import WorkDirectory, load_array
from mswitch.pipelines.faults import fault_point
from mswitch.pipelines.outputs import file_sha256

DIRECTORY = "fingerprints"


@dataclasses.dataclass(frozen=True)
class FingerprintStore:
    """Gathers the keys of all shards into files of the corpus.

    Attributes:
        kind: as `Dedup.kind`.
        work: where the shards are.
        directory: the corpus.
        prefix: what the names of the files begin with.
        bucket_bits: the keys go to 2**bucket_bits files.
        by_reference: shuffle references to keys, not keys.
    """

    kind: str
    work: WorkDirectory
    directory: str
    prefix: str
    bucket_bits: int
    by_reference: bool

    def slices(self, shard: int) -> Iterator[tuple[int, Slice]]:
        """Yield a shard's keys by bucket; empty ones too, so that every file gets written."""
        keys = load_array(self.work.fingerprints(self.kind, shard))
        return cut(keys, shard, self.bucket_bits, self.by_reference)

    def write(self, bucket: int, slices: Iterable[Slice]) -> None:
        """Write one file, unless an earlier run has."""
        if storage.exists(self.entry(bucket)):
            return
        keys = sorted_keys([self._keys(piece) for piece in slices])
        path = f"{DIRECTORY}/{self.prefix}{self.kind}-{bucket:05d}-of-{self.buckets:05d}.npy"
        final = storage.join(self.directory, path)
        storage.make_directory(storage.join(self.directory, DIRECTORY))
        with storage.publish(final, sync=True) as temporary:
            with open(temporary, "wb") as file:
                np.save(file, keys)
            described = {
                "path": path,
                "kind": self.kind,
                "keys": len(keys),
                "bytes": temporary.stat().st_size,
                "sha256": file_sha256(temporary),
            }
        storage.write_json(self.entry(bucket), described, scratch=True)
        fault_point("corpus.after_fingerprints")

    def complete(self) -> bool:
        return all(storage.exists(self.entry(bucket)) for bucket in range(self.buckets))

    def described(self) -> list[dict[str, Any]]:
        return list(storage.read_json_files([self.entry(n) for n in range(self.buckets)]))

    @property
    def buckets(self) -> int:
        return 1 << self.bucket_bits

    def entry(self, bucket: int) -> str:
        """JSON that completes a file: its manifest entry."""
        return self.work.output(f"{self.kind}-{bucket:05d}")

    def _keys(self, piece: Slice) -> np.ndarray:
        if piece.payload is not None:
            return np.frombuffer(piece.payload, np.uint64).reshape(-1, 2)
        keys = load_array(self.work.fingerprints(self.kind, piece.shard))
        return keys[piece.start : piece.stop]
