"""Publishes a finished corpus as a data set on the Hugging Face Hub."""

import hashlib
import re
from pathlib import Path
from typing import Any

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.card import CARD
from mswitch.pipelines.corpus.change import STATS
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.hub import open_hub
from mswitch.pipelines.objects import reaching
from mswitch.pipelines.outputs import read_manifest
from mswitch.pipelines.progress import Progress

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def push_corpus(corpus: str | Path, repository: str, *, public: bool = False) -> dict[str, Any]:
    """Upload shards, card and statistics; one commit makes them the content of the repository.

    Samples of dropped pages, records of removals and fingerprints stay here. A killed push
    continues: the Hub keeps shards that it has received.

    Args:
        corpus: path or URL of a finished corpus.
        repository: OWNER/NAME of the data set; made if it does not exist.
        public: whether a repository that is made can be read by everybody.

    Returns:
        `repository`, `revision` (the commit), and the numbers of `files` and `bytes` of data.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise UserError(
            f"--repo {repository}: give OWNER/NAME of the data set to publish the corpus as"
        )
    shards = read_manifest(corpus, "corpus")["shards"]
    hub = open_hub()
    api, whose = hub.HfApi(), {"repo_id": repository, "repo_type": "dataset"}
    progress = Progress("corpus", "push", len(shards), "files")
    with reaching(f"hf://datasets/{repository}"):
        api.create_repo(**whose, private=not public, exist_ok=True)
        operations: list[Any] = []
        for shard in shards:
            data = storage.read_bytes(storage.join(corpus, shard["path"]))
            if hashlib.sha256(data).hexdigest() != shard["sha256"]:
                raise UserError(f"{shard['path']} is damaged: see `mswitch corpus verify {corpus}`")
            operations.append(hub.CommitOperationAdd(shard["path"], data))
            api.preupload_lfs_files(repository, operations[-1:], repo_type="dataset")
            progress.add(1)
        for name in (CARD, STATS):
            content = storage.read_bytes(storage.join(corpus, name))
            operations.append(hub.CommitOperationAdd(name, content))
        gone = {path for path in api.list_repo_files(**whose) if path.startswith("data/")}
        gone -= {shard["path"] for shard in shards}
        operations += [hub.CommitOperationDelete(path) for path in sorted(gone)]
        rows = sum(shard["rows"] for shard in shards)
        commit = api.create_commit(
            **whose, operations=operations, commit_message=f"Corpus of {rows:,} documents"
        )
    return {
        "stage": "corpus-push",
        "repository": repository,
        "revision": commit.oid,
        "files": len(shards),
        "bytes": sum(shard["bytes"] for shard in shards),
    }
