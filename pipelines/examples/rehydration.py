"""Repeats each training document according to the number of pages that it represents.

Deduplication keeps one page of each cluster of near-duplicates. Pages that existed a few times are
the best of a crawl, since filters drop the fewest of them. So training text repeats them
("rehydration", Penedo et al. 2025, section 4.5).
"""

import bisect
import collections
import dataclasses
import itertools
import operator
from collections.abc import Iterable, Mapping
from pathlib import Path

from mswitch.pipelines.corpus.rules.list_files import ALL, read_table
from mswitch.pipelines.examples.span_corruption import (
    Tokens,
    hash_stream,
)

MOST = 100
#: Column with the size of a document's cluster, as near-deduplication writes it.
CLUSTER_SIZE = "cluster_size"


@dataclasses.dataclass(frozen=True)
class Rehydration:
    """Rule for repeating training documents, by language and size of near-duplicate cluster.

    Attributes:
        steps: by language, pairs of a size and the number of copies from this size on, increasing.
        column: column of the corpus with the sizes.
    """

    steps: Mapping[str, tuple[tuple[int, int], ...]]
    column: str = CLUSTER_SIZE

    def copies(self, lang: str, cluster_size: int | None) -> int:
        """Return how often to train on a document of this language and cluster size; default: 1."""
        steps = self.steps.get(lang, self.steps.get(ALL, ()))
        place = bisect.bisect_right(steps, cluster_size or 1, key=lambda step: step[0])
        return steps[place - 1][1] if place else 1


def read_weights(path: str | Path, column: str = CLUSTER_SIZE) -> Rehydration:
    """Read a CSV with the columns lang (a code or `*`), cluster_size and weight.

    A weight, a whole number, applies from its cluster size up to the language's next one; `column`
    of the corpus has the sizes.
    """
    weights: dict[str, dict[int, int]] = collections.defaultdict(dict)

    def take(lang: str, row: Mapping[str, str]) -> None:
        size, weight = int(row["cluster_size"]), int(row["weight"])
        if size < 1 or not 1 <= weight <= MOST or size in weights[lang]:
            raise ValueError(f"weight {weight} from cluster size {size} on")
        weights[lang][size] = weight

    read_table(
        path,
        "the weights",
        take,
        f"lang or {ALL}, cluster_size (each once, from 1) and weight (a whole number, 1 to {MOST})",
        columns=("cluster_size", "weight"),
        all_languages=True,
    )
    steps = {lang: tuple(sorted(sizes.items())) for lang, sizes in weights.items()}
    return Rehydration(steps, column)


def spread_copies(documents: Iterable[tuple[str, Tokens]]) -> list[tuple[str, Tokens]]:
    """Reorder documents so that the adjacent copies of each document become far apart.

    Otherwise a segment would have several copies, and a model would learn to copy from them.
    """
    keyed = []
    for document, copies in itertools.groupby(documents, operator.itemgetter(0)):
        first, alike = hash_stream(document), list(copies)
        keyed += [
            ((first + (n << 64) // len(alike)) % (1 << 64), copy) for n, copy in enumerate(alike)
        ]
    return [copy for _, copy in sorted(keyed, key=operator.itemgetter(0))]
