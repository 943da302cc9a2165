"""Measures held-out text: documents by language, sources, and overlap with training text.

A window of 40 bytes recurs if it is in the training text of any language. Every eighth window of
held-out text is compared with all windows of training text.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mswitch.pipelines.corpus.reader import Corpus, open_corpus
from mswitch.pipelines.corpus.rules.words import mix
from mswitch.pipelines.corpus.survey import SITE_CAPACITY, HeavyHitters, extract_hosts
from mswitch.pipelines.progress import Progress

#: A held-out document is near training text if training text contains at least this share of the
#: document's windows of `WINDOW_BYTES` bytes, unless the caller chooses another share.
NEAR_SHARE = 0.5
WINDOW_BYTES = 40
_STRIDE = 8
_FILTER_BITS = 26


def measure_held_out(corpus: str | Path, near_share: float = NEAR_SHARE) -> dict[str, Any]:
    """Measure the held-out text of a corpus.

    Returns:
        `corpus`: its identity. `near_training`: ids of held-out documents of which `near_share` or
        more recurs. `all`, and `languages` by code: held-out `documents`; the `recurring_share` of
        their windows; `source`, the site with the most training text; its `source_share`.
    """
    opened = open_corpus(corpus)
    held = {
        lang: [
            (row["id"], hash_windows(row["text"])[::_STRIDE])
            for shard in shards
            for row in shard.documents()
        ]
        for lang, shards in opened.select("validation").items()
    }
    every = [hashes for rows in held.values() for _, hashes in rows]
    keys = np.unique(np.concatenate([np.zeros(0, np.uint64), *every]))
    recurs, sources = _read_training(opened, keys)
    recurring = {
        lang: [(name, recurs[np.searchsorted(keys, hashes)]) for name, hashes in rows]
        for lang, rows in held.items()
    }
    all_sources = HeavyHitters(SITE_CAPACITY)
    for hitters in sources.values():
        all_sources.merge(hitters)
    rows = [row for lang_rows in recurring.values() for row in lang_rows]
    characters = {lang: opened.characters.get((lang, "train"), 0) for lang in sources}
    return {
        "corpus": opened.identity,
        "near_training": [
            name for name, known in rows if len(known) and known.mean() >= near_share
        ],
        "all": _describe([known for _, known in rows], all_sources, sum(characters.values())),
        "languages": {
            lang: _describe(
                [known for _, known in recurring.get(lang, [])],
                sources.get(lang, HeavyHitters(1)),
                characters.get(lang, 0),
            )
            for lang in sorted({*recurring, *sources})
        },
    }


def hash_windows(text: str) -> np.ndarray:
    """Return a hash (uint64) of each window of a text's bytes."""
    data = text.encode()
    count = max(0, len(data) - WINDOW_BYTES + 1)
    hashes = np.zeros(count, np.uint64)
    if count:
        # For each position, the next eight bytes as a number.
        words = mix(np.ndarray(len(data) - 7, "<u8", data, strides=(1,)))
        for offset in range(0, WINDOW_BYTES, 8):
            hashes = hashes * np.uint64(3) + words[offset : offset + count]
    return hashes


def _read_training(opened: Corpus, keys: np.ndarray) -> tuple[np.ndarray, dict[str, HeavyHitters]]:
    """Return which `keys` occur in training text, and numbers of characters by language and site.

    `keys` are sorted hashes of windows.
    """
    recurs = np.zeros(len(keys), bool)
    likely = np.zeros(1 << _FILTER_BITS, bool)
    shift = np.uint64(64 - _FILTER_BITS)
    likely[keys >> shift] = True
    sources: dict[str, HeavyHitters] = {}
    training = opened.select("train")
    total = sum(shard.rows for shards in training.values() for shard in shards)
    progress = Progress("corpus", "text that recurs", total, "documents")
    for lang, shards in training.items():
        sources[lang] = HeavyHitters(SITE_CAPACITY)
        for shard in shards:
            for batch in shard.batches(["url", "text"]):
                sizes, texts = Counter[str](), batch["text"].to_pylist()
                for host, text in zip(extract_hosts(batch["url"]).to_pylist(), texts, strict=True):
                    sizes[host] += len(text)
                    hashes = hash_windows(text)
                    hashes = hashes[likely[hashes >> shift]]
                    places = np.minimum(np.searchsorted(keys, hashes), len(keys) - 1)
                    recurs[places[keys[places] == hashes]] = True
                sources[lang].add(sizes)
                progress.add(len(batch))
    return recurs, sources


def _describe(
    known: Sequence[np.ndarray], sources: HeavyHitters, characters: int
) -> dict[str, Any]:
    windows = sum(map(len, known))
    [(source, size)] = sources.top(1) or [("", 0)]
    return {
        "documents": len(known),
        "recurring_share": sum(int(each.sum()) for each in known) / windows if windows else 0.0,
        "source": source,
        "source_share": size / characters if characters else 0.0,
    }
