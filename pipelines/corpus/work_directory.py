"""The files that a corpus build keeps between its phases, so that a killed build can continue.

A shard here is one input file. Whatever exists under its final name is whole. The directory may be
a URL (`mswitch.pipelines.storage`).
"""

import dataclasses

from mswitch.pipelines import storage


@dataclasses.dataclass(frozen=True)
class WorkDirectory:
    """Names of the intermediate files below `root`; exchanges of keys have their own folders."""

    root: str

    def directory(self, kind: str) -> str:
        """Where files of a kind and their notes are."""
        return storage.join(self.root, kind)

    def pages(self, shard: int) -> str:
        """Parquet (`Recipe.pages`): the pages of a shard that passed ingest."""
        return storage.join(self.root, "pages", f"{shard:06d}.parquet")

    def run(self, group: int) -> str:
        """Arrow file of a group's documents; each batch is sorted by language and id."""
        return storage.join(self.root, "finish", f"{group:06d}.arrow")

    def fingerprints(self, kind: str, group: int) -> str:
        """The keys (`key_files`) of a group's documents; kinds: `Dedup.kind`."""
        return storage.join(self.root, "finish", f"{group:06d}.{kind}")
