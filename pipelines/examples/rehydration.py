"""How often a document is trained on, by how many pages it stands for.

Deduplication leaves one page of each cluster of near-duplicates. Pages that existed a few times are
the best ones of a crawl, by how few of them filters drop: training text gets them more than once
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
    stream_key,
)

MOST = 100


@dataclasses.dataclass(frozen=True)
class Rehydration:
    """Copies of a document by language and size of its cluster.

    Attributes:
        steps: by language, the sizes from which on a number of copies holds, increasing, and these.
    """

    steps: Mapping[str, tuple[tuple[int, int], ...]]

    def copies(self, lang: str, cluster_size: int) -> int:
        """How often a document is trained on; once where nothing is said of it."""
        steps = self.steps.get(lang, self.steps.get(ALL, ()))
        place = bisect.bisect_right(steps, cluster_size, key=lambda step: step[0])
        return steps[place - 1][1] if place else 1


def read_weights(path: str | Path) -> Rehydration:
    """Read a CSV with lang (or `*`), cluster_size and weight.

    A weight, a whole number, holds from its cluster size up to the next one of the language.
    """
    found: dict[str, dict[int, int]] = collections.defaultdict(dict)

    def take(lang: str, row: Mapping[str, str]) -> None:
        size, weight = int(row["cluster_size"]), int(row["weight"])
        if size < 1 or not 1 <= weight <= MOST or size in found[lang]:
            raise ValueError(f"weight {weight} from cluster size {size} on")
        found[lang][size] = weight

    read_table(
        path,
        "the weights",
        take,
        f"lang or {ALL}, cluster_size (each once, from 1) and weight (a whole number, 1 to {MOST})",
        columns=("cluster_size", "weight"),
        all_languages=True,
    )
    return Rehydration({lang: tuple(sorted(steps.items())) for lang, steps in found.items()})


def _apart(documents: Iterable[tuple[str, Tokens]]) -> list[tuple[str, Tokens]]:
    """Put documents into an order in which copies of one, which follow each other, are far apart.

    Else a segment would hold several, and a model would learn to copy a span from its twin.
    """
    keyed = []
    for document, copies in itertools.groupby(documents, operator.itemgetter(0)):
        first, alike = stream_key(document), list(copies)
        keyed += [
            ((first + (n << 64) // len(alike)) % (1 << 64), copy) for n, copy in enumerate(alike)
        ]
    return [copy for _, copy in sorted(keyed, key=operator.itemgetter(0))]
