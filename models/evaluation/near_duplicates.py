"""Find near-duplicate documents by MinHash on tokens; a report must not count them twice."""

from collections.abc import Mapping

import numpy as np

from mswitch.pipelines.corpus.dedup.near import NearDedup, find_components, find_matches
from mswitch.pipelines.corpus.rules.words import mix
from mswitch.pipelines.special_tokens import EOS_ID

#: These bands and rows match less similar documents than the settings for a corpus do, because a
#: wrong match only widens an interval. At a Jaccard similarity of 0.51, half of the pairs match; at
#: 0.7, 97 % of the pairs match.
MINHASH = NearDedup(bands=20, rows=5)
FACTORS, SUMMANDS = MINHASH.draw_functions().T[..., None]
#: Number of tokens in a shingle. A changed token changes three shingles, and unrelated documents
#: share under 3 % of them.
SHINGLE = 3

#: Language and id of a document.
Document = tuple[str, str]


def restore_tokens(inputs: np.ndarray, targets: np.ndarray, sentinels: int) -> np.ndarray:
    """Return the original tokens of a masked text; `sentinels` is the smallest sentinel id.

    Without sentinels, targets come before inputs.
    """
    both = np.concatenate([inputs, targets])
    # UL2's mode token is a sentinel that occurs only in inputs and does not begin a span.
    begins = (both >= sentinels) & np.isin(both, targets)
    spans = 2 * np.concatenate([np.cumsum(part) for part in np.split(begins, [len(inputs)])])
    spans[len(inputs) :] -= 1  # target span k goes between input parts k - 1 and k
    kept = (both > EOS_ID) & (both < sentinels)
    return both[kept][np.argsort(spans[kept], kind="stable")]


def sign(tokens: np.ndarray) -> np.ndarray:
    """Return the MinHash signature (uint32) of a part of a document.

    A document's signature is the minimum of its parts' signatures, element by element.
    """
    ended = np.append(tokens, EOS_ID).astype(np.uint64)
    hashes = np.uint64(0)
    for column in np.lib.stride_tricks.sliding_window_view(ended, min(SHINGLE, len(ended))).T:
        hashes = mix(hashes + column)
    shingles = (hashes >> np.uint64(32)).astype(np.uint32)
    return (shingles * FACTORS + SUMMANDS).min(axis=1)


def number_clusters(signatures: Mapping[Document, np.ndarray]) -> dict[Document, int]:
    """Return each document's cluster: the index of the cluster's first document in sorted order."""
    langs = [lang for lang, _ in sorted(signatures)]
    keys = MINHASH.make_keys(np.stack([signatures[key] for key in sorted(signatures)]), langs)
    places = np.arange(len(langs), dtype=np.uint64)
    owners = np.repeat(places, MINHASH.bands)
    members, labels = find_components(find_matches(np.column_stack([keys.reshape(-1, 2), owners])))
    places[members] = members[np.unique(labels, return_index=True)[1]][labels]
    return dict(zip(sorted(signatures), places.tolist(), strict=True))
