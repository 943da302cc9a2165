"""Stores fingerprints in a corpus, so that later crawls can be added.

`fingerprints/urls-*.keys`, `lines-*.keys` and `bands-*.keys` (`key_files`) contain the keys of all
documents' URLs, lines and bands (of near-duplicates), split into ranges of the key space.
"""

from typing import Any

import numpy as np

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.dedup.key_files import read_keys, save_keys
from mswitch.pipelines.corpus.fingerprints import order_keys
from mswitch.pipelines.corpus.work_directory import WorkDirectory
from mswitch.pipelines.outputs import file_sha256

DIRECTORY = "fingerprints"


def gather_keys(
    bucket: int,
    *,
    kind: str,
    work: WorkDirectory,
    groups: int,
    directory: str,
    prefix: str,
    bits: int,
) -> dict[str, Any]:
    """Write the keys of all groups' documents in one of 2**bits buckets; return the manifest entry.

    The file is below `directory`, and its name begins with `prefix`.
    """
    files = [work.fingerprints(kind, group) for group in range(groups)]
    keys = np.concatenate([read_keys(path, 2, bits, bucket) for path in files])
    path = f"{DIRECTORY}/{prefix}{kind}-{bucket:05d}-of-{1 << bits:05d}.keys"
    storage.make_directory(storage.join(directory, DIRECTORY))
    with storage.publish(storage.join(directory, path), sync=True) as temporary:
        save_keys(temporary, [keys[order_keys(keys)]], len(keys))
        return {
            "path": path,
            "kind": kind,
            "keys": len(keys),
            "bytes": temporary.stat().st_size,
            "sha256": file_sha256(temporary),
        }
