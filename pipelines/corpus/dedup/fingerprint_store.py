"""The fingerprints that a corpus keeps beside its data, so that later crawls can be added.

`fingerprints/urls-*.keys`, `lines-*.keys` and `bands-*.keys` (`key_files`) hold the keys of all
documents' URLs, lines and bands (of near-duplicates), cut into ranges of the key space.
"""

import dataclasses
from typing import Any

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.dedup.key_files import read_keys, save_keys
from mswitch.pipelines.corpus.fingerprints import sorted_keys
from mswitch.pipelines.corpus.work_directory import WorkDirectory
from mswitch.pipelines.file_tasks import Tasks
from mswitch.pipelines.outputs import file_sha256

DIRECTORY = "fingerprints"


@dataclasses.dataclass(frozen=True)
class FingerprintStore:
    """Gathers the keys of all groups' documents into files of the corpus.

    Attributes:
        kind: as `Dedup.kind`.
        work: where the groups of shards are.
        groups: how many there are.
        directory: the corpus.
        prefix: what the names of the files begin with.
        bits: the keys go to 2**bits files.
    """

    kind: str
    work: WorkDirectory
    groups: int
    directory: str
    prefix: str
    bits: int

    def tasks(self) -> Tasks:
        """What is to be done; the notes are entries of the manifest."""
        notes = storage.join(self.work.root, f"{self.kind}_fingerprints")
        return Tasks(f"{self.kind} fingerprints", self.write, range(1 << self.bits), notes)

    def write(self, bucket: int) -> dict[str, Any]:
        """Write one file; return its entry in the manifest."""
        files = [self.work.fingerprints(self.kind, group) for group in range(self.groups)]
        keys = sorted_keys([read_keys(path, 2, self.bits, bucket) for path in files])
        path = f"{DIRECTORY}/{self.prefix}{self.kind}-{bucket:05d}-of-{1 << self.bits:05d}.keys"
        final = storage.join(self.directory, path)
        storage.make_directory(storage.join(self.directory, DIRECTORY))
        with storage.publish(final, sync=True) as temporary:
            save_keys(temporary, [keys], len(keys))
            return {
                "path": path,
                "kind": self.kind,
                "keys": len(keys),
                "bytes": temporary.stat().st_size,
                "sha256": file_sha256(temporary),
            }
