"""Trains a very small model on batches in memory: `train_child.py PRESET OUT STEPS [OPTION=N]`.

Tests start it as its own process, to kill it or to give it several devices; or as several
processes of one job. Options are those of TrainConfig and JobConfig; `terminate_at=N` sends this
process SIGTERM when it makes batch N, and slows it down, so that the run does not end before.
`lease_secs=N` is how long the lease of a run in a bucket lasts.
"""

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

INPUTS, TARGETS, VOCABULARY = 12, 8, 128


def features(inputs: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
    """What a model takes of inputs and targets that are padded with 0."""
    return {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        "decoder_target_tokens": targets,
        "decoder_loss_weights": (targets > 0).astype(np.float32),
    }


class MemoryBatches:
    """Batches as `mswitch.tasks.batches.training` gives them: a function of (seed, step)."""

    def __init__(self, batch_size: int, seed: int = 0, *, host: int = 0, hosts: int = 1):
        self.batch_size, self.seed = batch_size, seed
        self.mine = slice(host * batch_size // hosts, (host + 1) * batch_size // hosts)
        self.inputs_length, self.targets_length = INPUTS, TARGETS

    def batch(self, step: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, step))
        rows = self.batch_size
        inputs = rng.integers(3, VOCABULARY - 5, (rows, INPUTS)).astype(np.int32)
        targets = inputs[:, :TARGETS][:, ::-1].copy()
        inputs[np.arange(INPUTS) >= rng.integers(6, INPUTS + 1, (rows, 1))] = 0
        targets[np.arange(TARGETS) >= rng.integers(4, TARGETS + 1, (rows, 1))] = 0
        made = {**features(inputs, targets), "language": np.zeros(rows, np.int32)}
        return {name: values[self.mine] for name, values in made.items()}


class TerminatingBatches(MemoryBatches):
    """Batches of a process that is told to stop."""

    terminate_at = 0

    def batch(self, step: int) -> dict[str, np.ndarray]:
        if step == self.terminate_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if step >= self.terminate_at:
            time.sleep(0.5)
        return super().batch(step)


class MemoryValidation:
    """Three validation batches of two languages; the last one has padding rows."""

    languages = ("de", "sw")
    in_bytes = False
    #: The validation examples have no sentinels.
    vocabulary_size = VOCABULARY + 100

    def __init__(self, batch_size: int):
        self.batch_size = batch_size

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        batch = MemoryBatches(self.batch_size, seed=77).batch(index)
        row = np.arange(self.batch_size)
        padding = (index == 2) & (row >= self.batch_size - 2)
        for name, values in batch.items():
            values[padding] = -1 if name == "language" else 0
        batch["language"] = np.where(padding, -1, row % 2).astype(np.int32)
        batch["document"] = np.array([f"{index}{i // 4}" for i in row], dtype=object)
        batch["target_bytes"] = np.where(padding, 0, 10 + row).astype(np.int64)
        batch["denoiser"] = np.zeros(self.batch_size, np.int64)
        return batch


def plan(preset: str, steps: int, **options):
    """A run of one sparse (or dense) layer each in encoder and decoder."""
    from mswitch.models.config import TrainConfig
    from mswitch.models.presets import preset as find_preset
    from mswitch.models.training.run_plan import RunPlan

    model = find_preset(preset).model
    model = dataclasses.replace(
        model,
        vocabulary_size=VOCABULARY,
        d_model=32,
        d_ff=48,
        heads=2,
        d_kv=16,
        encoder_layers=1,
        decoder_layers=1,
        sparse_every=1,
        experts=min(model.experts, 4),
        group_size=4 * INPUTS,
    )
    train = TrainConfig(
        steps=steps,
        warmup_steps=100,
        dtype="float32",
        **{"batch_size": 8, "checkpoint_every": 2, "evaluations": 2, **options},
    )
    languages = {"de": {"train_records": 9, "train_tokens": 99, "train_bytes": 999, "rate": 1.0}}
    identity = {"config_hash": "c", "vocabulary_sha256": "v"}
    return RunPlan(preset, model, train, identity, languages, mixture={"alpha": 0.3})


def run(preset: str, out: str | Path, steps: int, **options) -> dict:
    """Train, as `mswitch.models.training.train.train` does with an examples directory."""
    from mswitch.models.config import JobConfig
    from mswitch.models.partitioning import find_fed_part, make_mesh
    from mswitch.models.training.train import train_prepared
    from mswitch.pipelines import lease
    from mswitch.pipelines.storage import is_remote

    of_job = {field.name for field in dataclasses.fields(JobConfig)} & options.keys()
    job = JobConfig(**{name: options.pop(name) for name in of_job})
    terminate_at = options.pop("terminate_at", None)
    lease.LEASE_SECS = options.pop("lease_secs", lease.LEASE_SECS)
    made = plan(preset, steps, **options)

    def prepare():
        host, hosts = find_fed_part(make_mesh(made.train))
        kind = MemoryBatches if terminate_at is None else TerminatingBatches
        batches = kind(made.train.batch_size, made.train.seed, host=host, hosts=hosts)
        batches.terminate_at = terminate_at
        return made, batches

    examples = "/examples" if is_remote(out) else Path(out).parent / "examples"
    return train_prepared(prepare, examples, out, job)


def parse(option: str) -> tuple[str, int | str]:
    name, _, value = option.partition("=")
    return name, int(value) if value.isdecimal() else value


if __name__ == "__main__":
    from mswitch.pipelines.errors import UserError

    try:
        run(sys.argv[1], sys.argv[2], int(sys.argv[3]), **dict(map(parse, sys.argv[4:])))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
