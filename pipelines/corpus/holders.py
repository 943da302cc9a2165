"""Finds datasets and training runs made from a corpus, in its present or an earlier state."""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Sequence

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.change import Base, name_addition
from mswitch.pipelines.corpus.reader import hash_corpus
from mswitch.pipelines.outputs import CLAIM, MANIFEST
from mswitch.pipelines.progress import say

_HASH = re.compile(r'"([0-9a-f]{16}|[0-9a-f]{64})"')


def list_identities(base: Base) -> set[str]:
    """Return the hashes that identify the corpus now and before each change.

    Training examples record such a hash.
    """
    known = {name for path, _ in base.removals for name in storage.read_json(path)["corpus"]}
    for count in range(len(base.additions) + 1):
        later = [name_addition(n) for n in range(count + 1, len(base.additions) + 1)]
        shards = base.manifest["shards"]
        had = [row for row in shards if not any(f"-{name}-" in row["path"] for name in later)]
        known.add(hash_corpus(had))
    return known


def find_holders(base: Base, search: Sequence[str]) -> list[str]:
    """Find the corpora, vocabularies, examples and runs made from the corpus, even indirectly.

    Unfinished ones are included, running or killed.
    """
    described: dict[str, tuple[set[str], set[str]]] = {}
    for directory in search:
        for name in (MANIFEST, "config.json", CLAIM):
            for file in storage.find(directory, name):
                text = storage.read_bytes(file.path).decode(errors="replace")
                with contextlib.suppress(ValueError, AttributeError, LookupError, TypeError):
                    own = json.loads(text)
                    folder, stage = os.path.dirname(file.path), own.get("stage", "")
                    if stage == "corpus" and name == CLAIM:
                        inputs = own["config"]["inputs"]  # inputs from a corpus are shards
                        shards = [
                            {"path": shard["path"], "sha256": shard["digest"]} for shard in inputs
                        ]
                        described[folder] = {hash_corpus(shards)}, set()
                    elif stage == "corpus" and "built_from" in own:
                        derived = dataclasses.replace(base, directory=folder, manifest=own)
                        described[folder] = {own["built_from"]}, list_identities(derived)
                    elif stage not in ("corpus", "report", "downstream"):
                        own_hash = {own.get("config_hash", "")}
                        described[folder] = set(_HASH.findall(text)), own_hash
    known, holders = list_identities(base), set[str]()
    while new := {
        path for path, (hashes, _) in described.items() if path not in holders and hashes & known
    }:
        holders |= new
        known = known.union(*(described[path][1] for path in new))
    for path in sorted(holders):
        unfinished = storage.exists(storage.join(path, CLAIM))
        say(
            "corpus", f"{path} {'is being' if unfinished else 'was'} made from the corpus as it was"
        )
    return sorted(holders)
