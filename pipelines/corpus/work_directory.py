"""Files that a corpus build keeps between its phases, so that a killed build can continue.

A shard here is one input file. A file with its final name is complete. The directory may be a
URL (`mswitch.pipelines.storage`).
"""

import dataclasses

from mswitch.pipelines import storage


@dataclasses.dataclass(frozen=True)
class WorkDirectory:
    """Paths of a build's intermediate files below `root`; deduplications add their own folders."""

    root: str

    def directory(self, kind: str) -> str:
        """Return the directory of one kind of files, such as `pages`, and of its task results."""
        return storage.join(self.root, kind)

    def pages(self, shard: int) -> str:
        """Return the Parquet file (`Recipe.pages`) of a shard's pages that passed ingest."""
        return storage.join(self.root, "pages", f"{shard:06d}.parquet")

    def run(self, group: int) -> str:
        """Return the Arrow file of a group's documents; batches are sorted by language and id."""
        return storage.join(self.root, "finish", f"{group:06d}.arrow")

    def fingerprints(self, kind: str, group: int) -> str:
        """Return the path of a shard group's deduplication key file of one kind, such as `urls`."""
        return storage.join(self.root, "finish", f"{group:06d}.{kind}")
