"""The order of training examples: the language, epoch and record at every position.

Row r of step s is position s * batch_size + r of an endless stream. `MixtureOrder` chooses its
language, `RecordOrder` the record of that language. Every position costs the same, because only the
values that it needs are drawn.

Languages are mixed in windows. A window holds each language as often as its rate says, in an order
drawn for each window. So the position within a batch (host, device, routing group) is independent
of language. A weighted round robin would link them. The counts of all windows together follow the
rates exactly.
"""

import bisect
import functools
import itertools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mswitch.pipelines.examples.span_corruption import make_philox

MIN_WINDOW, MAX_WINDOW = 1 << 12, 1 << 20
#: A window is doubled, up to MAX_WINDOW, until it holds on average this number of records of the
#: rarest language. Still rarer languages are absent from some windows. If every window had each
#: language, a language of ten records could exceed its cap on epochs.
MIN_PER_WINDOW = 2
#: Bits of the integers that represent rates, so that counts never drift by rounding.
RATE_BITS = 40
_CACHED_WINDOWS = 4
_CACHED_BLOCKS = 2


class MixtureOrder:
    """Maps a position of the stream to (language, position in the language's own stream).

    Attributes:
        window: positions in a window.
    """

    def __init__(self, rates: Mapping[str, float], seed: int):
        """Divide the stream into windows long enough to contain all but the rarest languages.

        `rates` are positive shares, in the order that numbers the languages.
        """
        self.seed = seed
        lowest = max(min(rates.values()), MIN_PER_WINDOW / MAX_WINDOW)
        self.window = MIN_WINDOW
        while self.window * lowest < MIN_PER_WINDOW:
            self.window *= 2
        total = sum(rates.values())
        edges = [
            round(edge / total * (1 << RATE_BITS)) for edge in itertools.accumulate(rates.values())
        ]
        self._edges = [0, *edges[:-1], 1 << RATE_BITS]
        self._laid_out = functools.lru_cache(maxsize=_CACHED_WINDOWS)(self._lay_out)

    def _bounds(self, window: int) -> list[int]:
        """Return 0 and the cumulative sums of the languages' numbers of records before `window`."""
        positions = window * self.window
        return [positions * edge >> RATE_BITS for edge in self._edges]

    def _lay_out(self, window: int) -> tuple[NDArray[np.intp], list[int], list[int]]:
        """Choose a random order of languages in a window.

        Returns:
            Its order; the first slot of each language; and for each language, the number of its
            records before the window minus that slot.
        """
        before, after = self._bounds(window), self._bounds(window + 1)
        starts = [b - a for a, b in zip(before, after, strict=True)]
        offsets = [
            following - own - start
            for own, following, start in zip(before, before[1:], starts, strict=False)
        ]
        generator = make_philox([0, 0, window, 0], [self.seed, self.window])
        slots = np.random.Generator(generator).permutation(self.window)
        languages = (np.searchsorted(starts, slots, side="right") - 1).astype(np.int16)
        # Each language's records stay in order, so that storage is read in blocks.
        slots[np.argsort(languages, kind="stable")] = np.arange(self.window)
        return slots, starts, offsets

    def __getitem__(self, position: int) -> tuple[int, int]:
        """Return the language at a position, and how many earlier positions have this language."""
        window, offset = divmod(position, self.window)
        order, starts, offsets = self._laid_out(window)
        slot = int(order[offset])
        language = bisect.bisect_right(starts, slot) - 1
        return language, offsets[language] + slot


class RecordOrder:
    """Maps a position in one language's stream to (epoch, record number).

    Records were permuted when written, so epoch 0 reads them in stored order, from a start that
    depends on the seed. Later epochs permute blocks of neighbouring records, then the records of
    each block. Every epoch reads every record once, and reads storage in large pieces.
    """

    def __init__(self, records: int, seed: int, stream: int, block_records: int):
        """Set up the order of a language's records.

        `records` is at least 1. `stream` is a 64-bit number that separates the draws of languages.
        `block_records` neighbouring records are read together.
        """
        self.records, self.seed, self.stream = records, seed, stream
        self.block_records = block_records
        self._epoch = functools.lru_cache(maxsize=_CACHED_BLOCKS)(self._draw_epoch)
        self._block = functools.lru_cache(maxsize=_CACHED_BLOCKS)(self._draw_block)

    def _generator(self, epoch: int, block: int) -> np.random.Generator:
        return np.random.Generator(make_philox([0, 1, block, epoch], [self.seed, self.stream]))

    def _draw_epoch(self, epoch: int) -> tuple[int, NDArray[np.intp]]:
        """Draw the epoch's first record and, except in epoch 0, the order of its full blocks."""
        generator = self._generator(epoch, 0)
        first = int(generator.integers(self.records))
        full = self.records // self.block_records if epoch else 0
        return first, generator.permutation(full)

    def _draw_block(self, epoch: int, block: int) -> NDArray[np.intp]:
        size = min(self.block_records, self.records - block * self.block_records)
        return self._generator(epoch, block + 1).permutation(size)

    def __getitem__(self, position: int) -> tuple[int, int]:
        """Return the epoch and the record number at a position."""
        epoch, offset = divmod(position, self.records)
        first, blocks = self._epoch(epoch)
        place, within = divmod((first + offset) % self.records, self.block_records)
        block = int(blocks[place]) if place < len(blocks) else place
        if epoch:
            within = int(self._block(epoch, block)[within])
        return epoch, block * self.block_records + within
