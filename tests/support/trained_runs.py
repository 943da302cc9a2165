"""What tests compare of trained runs: states, and lines of metrics without times."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mswitch.models.training.checkpoint import Checkpoints, restore_parameters
from mswitch.models.training.optimizer import optimizer_of
from mswitch.models.training.run_directory import model_of, read_run, train_config_of
from mswitch.models.training.run_files import RunFiles
from mswitch.models.training.state import Parameters, Skeleton, TrainState
from mswitch.pipelines import storage

#: Ends of the names of metrics that differ from run to run.
TIMES = ("_secs", "_per_sec")


def skeleton_of(run: Path) -> Skeleton:
    described = read_run(run)
    return Skeleton.of(model_of(described), train_config_of(described))


def state(run: Path, step: int) -> TrainState:
    skeleton = skeleton_of(run)
    like = skeleton.abstract_state(optimizer_of(skeleton.train))
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
