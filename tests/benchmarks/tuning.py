"""A fine-tuning step against a pretraining step, and what `predict` does beside the device.

    python tests/benchmarks/tuning.py [--rounds 9]

The steps are those of `model_steps.py`, dense and with 8 experts, fine-tuning with T5's recipe:
a constant rate, dropout. Predictions are of 10,000 rows as short as those of `ui-translate` with
mt5-tiny, greedy ones and those of nine labels, read, scored and written. CPU time.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from model_steps import DENSE, ROWS, Training, compare, switch
from packing import ui_translate_lengths
from timing import Figure, options, show

from mswitch.models.config import (
    JobConfig,
    ModelConfig,
    PredictConfig,
    TrainConfig,
    TuningChanges,
    TuningConfig,
)
from mswitch.models.inference import predict as predicting
from mswitch.models.inference.decoding_batches import Generator
from mswitch.models.presets import preset
from mswitch.models.training.train import make_plan, train_prepared
from mswitch.tasks.batches.mixtures import Mixture

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from task_files import vocabulary, write_supervised

PREDICTED = 10_000
LABELS = tuple(f"{a}{b}" for a in "abc" for b in "def")


def step_ratio(name: str, config: ModelConfig, rounds: int) -> Figure:
    """A fine-tuning step over a pretraining step."""
    tuned = TuningChanges().applied_to(config)
    tuning = TuningConfig(batch_size=ROWS, dtype="float32")
    sides = {
        "fine-tuning": Training(tuned, tuning).steps(f"{name}, fine-tuning"),
        "pretraining": Training(config).steps(f"{name}, pretraining"),
    }
    found = compare(sides, rounds)
    pairs = zip(found["fine-tuning"], found["pretraining"], strict=True)
    ratio = statistics.median(ours.cpu / theirs.cpu for ours, theirs in pairs)
    return Figure(f"fine-tuning step over pretraining step, {name}", ratio, most=1.03)


class TimedGenerator(Generator):
    """Notes CPU seconds of the device's work, done alone, and of compiling."""

    device_secs = 0.0
    compiling_secs = 0.0

    def __call__(self, parameters, inputs: Sequence[Sequence[int]], what: str):
        """Answer twice: the first time compiles."""
        cls, compiled = type(self), self._compiled

        def waited_for(*arguments):
            begin = time.process_time()
            answer = jax.block_until_ready(compiled(*arguments))
            cls.device_secs += time.process_time() - begin
            return answer

        self._compiled = waited_for
        begin = time.process_time()
        super().__call__(parameters, inputs, what)
        cls.compiling_secs, cls.device_secs = time.process_time() - begin, 0.0
        return super().__call__(parameters, inputs, what)


def outside_share(decode: str, labels: Sequence[str] | None, metrics: Sequence[str]) -> Figure:
    """What part of predicting is beside the device's work, without compiling."""
    lengths = ui_translate_lengths(PREDICTED)
    # One token begins a text, one ends it.
    rows = [
        (str(number), "a" * (inputs - 2), LABELS[number % len(LABELS)])
        for number, (inputs, _) in enumerate(lengths.tolist())
    ]
    with tempfile.TemporaryDirectory() as directory:
        tasks = write_supervised(
            Path(directory) / "tasks",
            {"de": {"train": rows[:32], "validation": rows}},
            vocabulary(["a b c d e f", *LABELS]),
            labels=labels,
            metrics=metrics,
            lengths=(128, 32),
        )
        model = preset("mt5-tiny").model
        train = TrainConfig(steps=1, batch_size=4, dtype="float32")
        run = Path(directory) / "run"
        train_prepared(
            lambda: make_plan("mt5-tiny", model, tasks, train, Mixture()), tasks, run, JobConfig()
        )
        predicting.Generator = TimedGenerator
        begin = time.process_time()
        predicting.predict(run, tasks, "validation", PredictConfig(decode=decode))
        total = time.process_time() - begin - TimedGenerator.compiling_secs
    device = TimedGenerator.device_secs
    print(f"predict, {decode}: {total:.2f} CPU seconds, {device:.2f} of them on the device")
    name = f"share of predict beside the device, {decode}"
    return Figure(name, 1 - device / total, most=0.15)


def main() -> None:
    rounds = options(__doc__, rounds=9).rounds
    show(
        [
            step_ratio("dense", DENSE, rounds),
            step_ratio("8 experts", switch(8), rounds),
            outside_share("greedy", None, ("exact_match", "chrf")),
            outside_share("labels", LABELS, ("accuracy", "macro_f1")),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
