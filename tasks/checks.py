"""What is checked when an examples directory is opened: little is read, much is noticed."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines import storage
from pipelines.errors import UserError
from pipelines.outputs import MANIFEST, MARKER, config_hash, read_json_object
from pipelines.vocabulary.model import checked_size


def check_directory(directory: str | Path, manifest: Mapping[str, Any], vocabulary: str) -> None:
    """Check that manifest, marker and vocabulary belong together.

    Args:
        directory: of the examples.
        manifest: its manifest.
        vocabulary: path of the model in it.

    Raises:
        UserError: they do not, or the vocabulary has no sentinels.
        KeyError: something is not in the manifest.
    """
    marker = read_json_object(storage.join(directory, MARKER)).get("config_hash")
    described = config_hash(manifest["stage"], manifest["config"])
    if not marker == described == manifest["config_hash"]:
        raise UserError(
            f"{storage.join(directory, MANIFEST)} was changed, or is of other examples: its "
            f"settings do not have the hash {marker} of {MARKER}: build the examples again"
        )
    path = storage.join(directory, vocabulary)
    try:
        model = storage.read_bytes(path)
    except OSError:
        model = b""
    if hashlib.sha256(model).hexdigest() != manifest["vocabulary_sha256"]:
        raise UserError(
            f"{path} is not the vocabulary these examples were made with: build them again"
        )
    size = checked_size(model, path)
    if size != manifest["vocabulary_size"]:
        raise UserError(
            f"{path} has {size:,} ids where the manifest says {manifest['vocabulary_size']:,}: "
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
