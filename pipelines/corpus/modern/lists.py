"""The lists that a build was given, kept in its work directory for its workers."""

import functools
import io

import numpy as np

from pipelines import storage
from pipelines.corpus.modern.config import ModernConfig
from pipelines.corpus.modern.decontamination import (
    EvaluationIndex,
    EvaluationItem,
    read_evaluation_sets,
)
from pipelines.corpus.modern.url_policy import Blocklist, load_blocklist
from pipelines.corpus.work_directory import WorkDirectory

_BLOCKLIST, _EVALUATION = "blocklist.npz", "evaluation_items.json"


def write_lists(config: ModernConfig, work: WorkDirectory) -> None:
    """Write the lists to the work directory, where every worker can read them."""
    blocklist = load_blocklist(config.blocklists)
    with storage.publish(storage.join(work.root, _BLOCKLIST)) as path, open(path, "wb") as file:
        names = np.array(blocklist.names, np.str_)
        np.savez(file, names=names, hashes=blocklist.hashes, lists=blocklist.lists)
    items = [
        [item.set, item.line, item.text] for item in read_evaluation_sets(config.evaluation_sets)
    ]
    storage.write_json(storage.join(work.root, _EVALUATION), items, scratch=True)


@functools.lru_cache(maxsize=1)
def read_blocklist(work: WorkDirectory) -> Blocklist:
    """Return the blocklist of a build; a process reads it once."""
    content = storage.read_bytes(storage.join(work.root, _BLOCKLIST))
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return Blocklist(tuple(arrays["names"].tolist()), arrays["hashes"], arrays["lists"])


@functools.lru_cache(maxsize=1)
def read_evaluation_index(work: WorkDirectory, min_share: float) -> EvaluationIndex:
    """Return the index of a build's evaluation sets; a process makes it once."""
    items = storage.read_json(storage.join(work.root, _EVALUATION))
    return EvaluationIndex((EvaluationItem(*item) for item in items), min_share)
