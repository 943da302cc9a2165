"""Span corruption in tokens per second of CPU time, on one core.

    python tests/benchmarks/span_corruption.py

Segments of 1,137 tokens become 1,024 inputs and 229 targets: draws, masks, sentinels and EOS, as
`mswitch.tasks.batches` calls it. Beside it a bare copy of the tokens, which nothing can beat.
"""

import statistics
from collections.abc import Callable

import numpy as np
from timing import cpu_secs

from mswitch.pipelines.examples.span_corruption import (
    ExampleKey,
    corrupt,
    draw_masks,
    span_corruption,
)

LENGTHS = span_corruption(1024)
VOCABULARY_SIZE = 250_100
SEGMENTS = 512
BATCHES = (1, 8, 64, 256)


def ours(tokens: np.ndarray, batch: int) -> None:
    """Corrupt all segments, `batch` at a time."""
    for start in range(0, len(tokens), batch):
        rows = tokens[start : start + batch]
        keys = [ExampleKey(0, 5, start + row, 0) for row in range(len(rows))]
        mask = draw_masks(rows.shape[1], LENGTHS, keys)
        corrupt(rows, mask, VOCABULARY_SIZE, LENGTHS)


def copy(tokens: np.ndarray) -> None:
    """Copy each segment, as reading it from memory would."""
    for segment in tokens:
        segment.copy()


def main() -> None:
    shape = (SEGMENTS, LENGTHS.raw_length)
    tokens = np.random.default_rng(0).integers(3, 250_000, shape).astype(np.int32)
    jobs: dict[str, Callable[[], None]] = {
        f"mswitch, {batch} at a time": lambda batch=batch: ours(tokens, batch) for batch in BATCHES
    }
    jobs["bare copy"] = lambda: copy(tokens)
    for name, secs in zip(jobs, cpu_secs(*jobs.values()), strict=True):
        print(f"{name:22} {tokens.size / statistics.median(secs) / 1e6:8.1f} million tokens/s")


if __name__ == "__main__":
    main()
