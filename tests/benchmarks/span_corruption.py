"""Span corruption in tokens per second of CPU time, on one core.

    python tests/benchmarks/span_corruption.py

Segments of 1,137 tokens become 1,024 inputs and 229 targets: draws, masks, sentinels and EOS, as
`mswitch.tasks.batches` calls it. Beside it t5's recipe segment by segment (an indirect sort of a
float per gap, then the same mask and sentinels in plain NumPy), and a bare copy of the tokens,
which nothing can beat. Rounds alternate between the contenders; the ratio is the median of the
rounds' own.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np

from mswitch.pipelines.examples.span_corruption import (
    ExampleKey,
    corrupt,
    noise_counts,
    philox,
    random_masks,
    span_corruption,
)
from mswitch.pipelines.special_tokens import EOS_ID

LENGTHS = span_corruption(1024)
VOCABULARY_SIZE = 250_100
SEGMENTS, ROUNDS = 512, 9
BATCHES = (1, 8, 64, 256)


def ours(tokens: np.ndarray, batch: int) -> None:
    """Corrupt all segments, `batch` at a time."""
    for start in range(0, len(tokens), batch):
        rows = tokens[start : start + batch]
        keys = [ExampleKey(0, 5, start + row, 0) for row in range(len(rows))]
        mask = random_masks(rows.shape[1], LENGTHS, keys)
        corrupt(rows, mask, VOCABULARY_SIZE, LENGTHS)


def recipe(tokens: np.ndarray) -> None:
    """Corrupt all segments one by one as t5 describes it."""
    length = tokens.shape[1]
    noise, spans = noise_counts(length, LENGTHS.noise_density, LENGTHS.mean_noise_span_length)
    for index, segment in enumerate(tokens):
        generator = np.random.Generator(philox([0, 0, index, 0], [0, 5]))
        parts = []
        for items in (length - noise, noise):
            order = np.argsort(generator.random(items - 1), kind="stable")
            parts.append(np.diff(np.flatnonzero(order < spans - 1) + 1, prepend=0, append=items))
        lengths = np.stack(parts, axis=1).ravel()
        mask = np.repeat(np.arange(2 * spans) % 2 == 1, lengths)
        for masked in (mask, ~mask):
            starts = masked.copy()
            starts[1:] &= ~masked[:-1]
            marked = np.where(starts, VOCABULARY_SIZE - np.cumsum(starts), segment)
            np.append(marked[starts | ~masked], EOS_ID).astype(np.int32)


def copy(tokens: np.ndarray) -> None:
    """Copy each segment, as reading it from memory would."""
    for segment in tokens:
        segment.copy()


def cpu_secs(job: Callable[[], None]) -> float:
    """CPU seconds of one call."""
    begin = time.process_time()
    job()
    return time.process_time() - begin


def main() -> None:
    """Measure and print."""
    shape = (SEGMENTS, LENGTHS.raw_length)
    tokens = np.random.default_rng(0).integers(3, 250_000, shape).astype(np.int32)
    jobs: dict[str, Callable[[], None]] = {
        f"mswitch, {batch} at a time": lambda batch=batch: ours(tokens, batch) for batch in BATCHES
    }
    jobs |= {"t5's recipe": lambda: recipe(tokens), "bare copy": lambda: copy(tokens)}
    rounds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(ROUNDS):
        for name, job in jobs.items():
            rounds[name].append(cpu_secs(job))
    for name, secs in rounds.items():
        ratio = statistics.median(
            theirs / own for theirs, own in zip(rounds["t5's recipe"], secs, strict=True)
        )
        speed = tokens.size / statistics.median(secs) / 1e6
        print(f"{name:22} {speed:8.1f} million tokens/s  x {ratio:6.1f} of t5's recipe")


if __name__ == "__main__":
    main()
