"""What a dense student keeps of a sparse model's gain, and what its steps cost.

    python tests/benchmarks/distill.py [--seeds 3] [--rounds 9]

The arms of Switch Transformers' table 6 on mappings with noise and 32 languages, where a dense
model has room, and on mappings without and 128 languages, where it has none (`make test-distill`).
Then a step of `mt5-tiny` with `mswitch-tiny` as its teacher, over a step without: CPU seconds in
turns, and memory as the compiler counts it. About ten CPU minutes.
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import jax
import numpy as np
from mapping_students import ARMS, NO_ROOM, ROOM, Students
from mappings import Languages

from mswitch.models.capacity import batch_groups
from mswitch.models.config import TrainConfig
from mswitch.models.presets import preset
from mswitch.models.training.optimizer import optimizer_of
from mswitch.models.training.state import Skeleton
from mswitch.models.training.step import Teaching, make_train_step

#: Rows, inputs and targets of the demo's batch.
ROWS, INPUTS, TARGETS = 32, 64, 18
#: Most a step with a teacher may take: of the student's own step in time, and in memory of that
#: step and the teacher's parameters together.
MOST_TIME, MOST_MEMORY = 1.45, 1.1


def table(students: Students, setting: tuple[int, float], seeds: int) -> None:
    """Print losses and shares, a row a seed, and the means."""
    found = [students.learn(Languages(seed, *setting)) for seed in range(seeds)]
    print(f"\n| seed | dense | teacher | {' | '.join(ARMS)} |\n{'|---' * (3 + len(ARMS))}|")
    for seed, kept in enumerate(found):
        shares = " | ".join(f"{kept.shares[arm]:.1%}" for arm in ARMS)
        print(f"| {seed} | {kept.dense:.3f} | {kept.teacher:.3f} | {shares} |")
    columns = [[kept.shares[arm] for kept in found] for arm in ARMS]
    means = " | ".join(
        f"{statistics.mean(one):.1%} ({statistics.stdev(one) / len(one) ** 0.5 * 100:.1f})"
        for one in columns
    )
    losses = (statistics.mean(values) for values in zip(*(kept[:2] for kept in found), strict=True))
    print(f"| mean | {' | '.join(f'{loss:.3f}' for loss in losses)} | {means} |\n", flush=True)


def batch(vocabulary: int) -> dict[str, np.ndarray]:
    """Random tokens without padding."""
    rng = np.random.default_rng(0)
    source = rng.integers(3, vocabulary, (ROWS, INPUTS)).astype(np.int32)
    targets = rng.integers(3, vocabulary, (ROWS, TARGETS)).astype(np.int32)
    return {
        "encoder_input_tokens": source,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": np.ones(targets.shape, np.float32),
    }


class Side:
    """Steps of `mt5-tiny`, with a teacher or without."""

    def __init__(self, *, taught: bool, loss_chunks: int):
        train = TrainConfig(batch_size=ROWS, dtype="float32", loss_chunks=loss_chunks)
        model, optimizer = preset("mt5-tiny").model, optimizer_of(train)
        skeleton = Skeleton.of(model, train)
        sparse = Skeleton.of(preset("mswitch-tiny").model, train)
        self.teacher = jax.jit(sparse.initial_parameters)() if taught else None
        teaching = Teaching(sparse, 0.25, 1.0) if taught else None
        groups = batch_groups(model, ROWS, INPUTS, TARGETS)
        self.state = skeleton.initial_state(optimizer)
        self.batch: dict[str, Any] = batch(model.vocabulary_size)
        step = make_train_step(skeleton, optimizer, groups, teaching=teaching)
        self.compiled = step.lower(self.state, self.batch, np.inf, self.teacher).compile()

    def cpu_secs(self) -> float:
        """Those of ten steps."""
        begin = time.process_time()
        for _ in range(10):
            self.state, metrics = self.compiled(self.state, self.batch, np.inf, self.teacher)
        jax.block_until_ready(metrics)
        return time.process_time() - begin

    def memory(self) -> int:
        """Bytes that a step needs, its arguments among them."""
        found = self.compiled.memory_analysis()
        assert found is not None
        made = found.output_size_in_bytes - found.alias_size_in_bytes
        return found.argument_size_in_bytes + made + found.temp_size_in_bytes

    @property
    def teacher_bytes(self) -> int:
        """Bytes of the teacher's parameters."""
        return sum(value.nbytes for value in (self.teacher or {}).values())


def costs(rounds: int) -> bool:
    """Print what a teacher costs; tell whether that is within the bounds."""
    for_time = [Side(taught=taught, loss_chunks=1) for taught in (True, False)]
    for side in for_time:
        side.cpu_secs()
    secs = [[side.cpu_secs() for side in for_time] for _ in range(rounds)]
    time_ratio = statistics.median(taught / alone for taught, alone in secs)
    print(f"a step with a teacher over one without: {time_ratio:.3f} of the CPU time")
    taught, alone = (Side(taught=taught, loss_chunks=8) for taught in (True, False))
    memory_ratio = taught.memory() / (alone.memory() + taught.teacher_bytes)
    print(
        f"with --loss-chunks 8: {memory_ratio:.3f} of the memory of one without and the teacher's "
        f"parameters ({taught.memory() / 2**20:.1f} MiB)"
    )
    return time_ratio <= MOST_TIME and memory_ratio <= MOST_MEMORY


def main() -> int:
    """Run all; 1 if a step costs too much."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    within = costs(arguments.rounds)
    students = Students()
    for setting in (ROOM, NO_ROOM):
        table(students, setting, arguments.seeds)
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
