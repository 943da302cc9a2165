"""Train a model of any size, and compare runs: states, and lines of metrics without times."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mswitch.models.config import JobConfig, ModelConfig, TrainConfig
from mswitch.models.training.checkpoint import Checkpoints, restore_parameters
from mswitch.models.training.optimizer import make_optimizer
from mswitch.models.training.run_directory import parse_model, parse_train_config, read_run
from mswitch.models.training.run_files import RunFiles
from mswitch.models.training.state import Parameters, Skeleton, TrainState
from mswitch.models.training.train import make_plan, train_prepared
from mswitch.pipelines import storage
from mswitch.tasks.batches.mixtures import Mixture

#: Ends of the names of metrics that differ from run to run.
TIMES = ("_secs", "_per_sec")


def train_model(
    preset: str, model: ModelConfig, examples: Path, out: Path, config: TrainConfig
) -> dict[str, Any]:
    """Train a model that is called as a preset."""
    return train_prepared(
        lambda: make_plan(preset, model, examples, config, Mixture()), examples, out, JobConfig()
    )


def skeleton_of(run: Path) -> Skeleton:
    described = read_run(run)
    return Skeleton.build(parse_model(described), parse_train_config(described))


def state(run: Path, step: int) -> TrainState:
    skeleton = skeleton_of(run)
    like = skeleton.abstract_state(make_optimizer(skeleton.train))
    return Checkpoints(run / "checkpoints", ()).restore(step, like)


def parameters_of(run: Path, step: int) -> Parameters:
    like = skeleton_of(run).abstract_parameters()
    return restore_parameters(RunFiles(run, run), step, like)


def equal(one: Any, other: Any) -> bool:
    same = jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), np.asarray(b)), one, other)
    return all(jax.tree.leaves(same))


def lines(run: str | Path) -> list[dict[str, Any]]:
    def refuse(constant: str):
        raise AssertionError(f"{constant} is not JSON")

    text = storage.read_bytes(storage.join(run, "metrics.jsonl"))
    found = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith(TIMES)} for line in found]


def assert_same(run: Path, other: Path, step: int) -> None:
    """Compare metrics, and the state after the last step, to the bit."""
    assert lines(run) == lines(other)
    assert equal(state(run, step), state(other, step))


def assert_close(run: Path, other: Path, rtol: float = 1e-4, atol: float = 1e-6) -> None:
    """Compare metrics up to rounding."""
    for one, wanted in zip(lines(run), lines(other), strict=True):
        for name, value in wanted.items():
            said = f"{name}, step {one['step']}"
            np.testing.assert_allclose(one[name], value, rtol=rtol, atol=atol, err_msg=said)
