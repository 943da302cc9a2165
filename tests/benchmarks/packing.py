"""Short examples packed into rows: how full they are, and what packing costs.

    python tests/benchmarks/packing.py

Lengths are like those of `ui-translate`; a plan is of a million records. CPU seconds.
"""

import statistics
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from timing import Figure, cpu_secs, show

from mswitch.tasks.batches.packing import next_fit
from mswitch.tasks.batches.training import TrainBatches

RECORDS = 1_000_000
PAIRS = 50_000
BATCH_ROWS = 128


def ui_translate_lengths(records: int) -> NDArray[np.uint32]:
    """Tokens of inputs and targets like those of `ui-translate` in the demo's vocabulary.

    Of those the means are 31 and 24, the medians 25 and 17, the 99th percentiles 113 and 127.
    """
    rng = np.random.default_rng(0)
    both = rng.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], records)
    return np.clip(np.exp(both * [0.656, 0.83]) * [25, 17], 3, 128).round().astype(np.uint32)


def pairs_a_second(batches: TrainBatches, what: str, steps: int) -> float:
    """Print and give how many pairs a CPU second batches have."""

    def make(start: int) -> int:
        return sum(_pairs(batches.batch(step)) for step in range(start, start + steps))

    near, far = cpu_secs(lambda: make(0), lambda: make(10**6))
    ratio = statistics.median(b / a for a, b in zip(near, far, strict=True))
    speed = make(0) / statistics.median(near)
    print(
        f"{what}: {speed:,.0f} pairs a CPU second, step 1,000,000 at {ratio:.2f} times the price "
        "of step 0"
    )
    return speed


def _pairs(batch: dict[str, NDArray]) -> int:
    segments = batch.get("encoder_segment_ids")
    return len(batch["language"]) if segments is None else int(segments.max(axis=1).sum())


def write_pairs(out: Path, lengths: NDArray[np.uint32]) -> Path:
    """Write supervised examples of these lengths, of one language."""
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
    from task_files import vocabulary, write_supervised

    def text(tokens: int) -> str:  # one begins it, one ends it
        return "a" * (tokens - 2)

    rows = [("", text(inputs), text(targets)) for inputs, targets in lengths.tolist()]
    model = vocabulary(["a b c d e f"])
    return write_supervised(out, {"de": {"train": rows}}, model, lengths=(256, 256))


def main() -> None:
    lengths = ui_translate_lengths(RECORDS)
    filled: dict[int, float] = {}
    for positions in (128, 256, 512):
        rows = len(next_fit(lengths, positions, positions)) - 1
        filled[positions], targets = (lengths.sum(axis=0) / (rows * positions)).tolist()
        print(
            f"rows of {positions} positions: {filled[positions]:.1%} of inputs filled, "
            f"{targets:.1%} of targets, {RECORDS / rows:.1f} pairs a row"
        )
    [secs] = cpu_secs(lambda: next_fit(lengths, 256, 256))
    with tempfile.TemporaryDirectory() as directory:
        examples = write_pairs(Path(directory) / "pairs", ui_translate_lengths(PAIRS))
        packed = TrainBatches(examples, BATCH_ROWS, pack="next-fit")
        speed = pairs_a_second(packed, "packed", 20)
        pairs_a_second(TrainBatches(examples, BATCH_ROWS), "one to a row", 150)
    show(
        [
            Figure("share of 256 positions filled", filled[256], least=0.9),
            Figure(
                "plan of a million records, milliseconds", 1000 * statistics.median(secs), most=50
            ),
            Figure("packed pairs a CPU second", speed, least=10_000),
        ]
    )


if __name__ == "__main__":
    main()
