"""A teacher's predictions for the batches of students that are to come.

For each target position ids are drawn from what the teacher predicts. The mean of a student's loss
over them is in expectation its cross-entropy with the teacher; that with the likeliest ids alone,
which also take more room, is not (Random Sampling Knowledge Distillation, arXiv 2503.16870). The
draws of a row follow from the seed, the step and the row's number in the batch, as its examples do.
"""

import contextlib
import functools
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from mswitch.models.config import JobConfig, TrainConfig, as_json
from mswitch.models.nn.losses import drawn_tokens
from mswitch.models.partitioning import make_mesh, put_batch
from mswitch.models.training.distributed import agree, meet, membership, on_first, together
from mswitch.models.training.run_directory import Teacher
from mswitch.models.training.state import Parameters
from mswitch.models.training.step import FEATURES, SEGMENTS, Batch, Teaching
from mswitch.models.training.teaching import draws_file, packed, skeleton_of, teacher_parameters
from mswitch.models.training.train import ALONE, make_plan
from mswitch.models.transfer.config import DistillConfig, DrawConfig
from mswitch.models.transfer.teacher import find_teacher
from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.faults import fault_point
from mswitch.pipelines.outputs import (
    RemoteOutput,
    StagedOutput,
    canonical_json,
    read_manifest,
    stage_output_anywhere,
    write_atomically,
)
from mswitch.pipelines.progress import Progress
from mswitch.tasks.batches import TaskBatches
from mswitch.tasks.mixtures import Mixture

STAGE = "distill-cache"
FIFTY = DrawConfig()


def make_cache(
    teacher: str | Path,
    examples: str | Path,
    out: str | Path,
    config: TrainConfig,
    draws: DrawConfig = FIFTY,
    mixture: Mixture | None = None,
    job: JobConfig = ALONE,
    *,
    step: int | None = None,
) -> dict[str, Any]:
    """Draw from a sparse run's predictions for all batches of a training.

    A call after a kill continues with the step that was not finished.

    Args:
        teacher: the sparse run directory, also in a bucket.
        examples: what students are to be trained on.
        out: the new directory, also in a bucket.
        config: how they are to be trained; only what batches depend on, precision, loss chunks and
            mesh matter here.
        draws: what is drawn.
        mixture: how often each language comes.
        job: the processes that draw together.
        step: the teacher's checkpoint; by default its last.

    Returns:
        Summary: stage, out, reused, steps, samples.
    """
    settings = DistillConfig(temperature=draws.temperature)
    mixture = mixture or Mixture()

    def prepare() -> tuple[Teacher, TaskBatches]:
        found = find_teacher(
            teacher, examples, config, settings, mixture, step=step, shared=job.shared
        )
        preset = found.origin.chain["preset"]
        return found, make_plan(preset, found.model, examples, config, mixture)[1]

    # SIGTERM ends this process at once, and with it the others: a finished step is not done again.
    with membership(job, saves_on_sigterm=False), contextlib.ExitStack() as stack:
        found, batches = together(prepare)
        identity = {
            **_drawn_for(found, batches, config),
            "steps": config.steps,
            "samples": draws.samples,
            "dtype": config.dtype,
        }
        agree(canonical_json([identity, as_json(config)]))
        opened: list[StagedOutput | RemoteOutput] = []  # by process 0

        def begin() -> list[int] | None:
            """Which steps are missing; None if the cache is complete."""
            output = stack.enter_context(stage_output_anywhere(out, stage=STAGE, config=identity))
            opened.append(output)
            there = storage.list_names(output.directory)
            missing = [n for n in range(config.steps) if draws_file(n) not in there]
            return None if output.complete else missing

        def write(number: int, ids: Int[np.ndarray, "B T S"]) -> None:
            data = io.BytesIO()
            np.save(data, packed(ids, found.model.vocabulary_size))
            path = storage.join(opened[0].directory, draws_file(number))
            write_atomically(path, data.getvalue())
            fault_point(f"{STAGE}.after_step")
            progress.add()

        summary = {"stage": STAGE, "out": str(out), "steps": config.steps, "samples": draws.samples}
        missing = on_first(begin)
        if missing is None:
            return {**summary, "reused": True}
        mesh = make_mesh(config)
        parameters = teacher_parameters(found, mesh)
        teaching = Teaching(skeleton_of(found, config.dtype, mesh), 1.0, draws.temperature)
        draw, compiled = _drawer(teaching, config, draws.samples, mesh), None
        progress = Progress(STAGE, str(teacher), config.steps, "steps")
        progress.start_at(config.steps - len(missing))
        features = FEATURES + (SEGMENTS if config.pack != 1 else ())
        for number in missing:
            batch = batches.batch(number)
            rows = put_batch({name: batch[name] for name in features}, mesh)
            if compiled is None:
                compiled = draw.lower(parameters, rows, number).compile()
                meet("compiled")
            ids = np.asarray(compiled(parameters, rows, number))
            on_first(functools.partial(write, number, ids))
        on_first(lambda: opened[0].publish({}))
        return {**summary, "reused": False}


def check_cache(
    cache: str | Path, teacher: Teacher, batches: TaskBatches, config: TrainConfig
) -> int:
    """Check that a cache is of this teacher and of the batches of this training.

    Returns:
        The number of samples for each target position.
    """
    made = read_manifest(cache, STAGE)["config"]
    wanted = json.loads(canonical_json(_drawn_for(teacher, batches, config)))
    other = [name for name, value in wanted.items() if made[name] != value]
    if other:
        raise UserError(
            f"--cache {cache} is of another {', another '.join(other)}: make one with "
            "`mswitch distill cache` and the options of this training, or leave --cache out"
        )
    if made["steps"] < config.steps:
        raise UserError(
            f"--cache {cache} has {made['steps']:,} steps: give --steps {made['steps']} or fewer"
        )
    return made["samples"]


def _drawn_for(teacher: Teacher, batches: TaskBatches, config: TrainConfig) -> Mapping[str, Any]:
    """What a cache and the training that reads it must have in common, as a user calls it."""
    return {
        "teacher": {"step": teacher.origin.step, **teacher.origin.chain},
        "temperature": teacher.temperature,
        "examples": batches.identity,
        "mixture": {"definition": batches.mixture.definition, "rates": batches.rates},
        "batch size": config.batch_size,
        "pack": config.pack,
        "seed": config.seed,
    }


def _drawer(teaching: Teaching, config: TrainConfig, samples: int, mesh: Mesh | None) -> Any:
    """Compile-ready `(parameters, batch, step) -> ids [B, T, samples]`, all on every device."""
    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())

    @functools.partial(jax.jit, out_shardings=everywhere)
    def draw(parameters: Parameters, batch: Batch, step: Int[Array, ""]) -> Int[Array, "B T S"]:
        assert teaching.skeleton is not None
        rows, length = batch["decoder_target_tokens"].shape
        key = jax.random.fold_in(jax.random.key(config.seed), step)
        keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(rows))
        uniform = jax.vmap(lambda key: jax.random.uniform(key, (length, samples)))(keys)
        head = teaching.head(parameters, batch)
        with teaching.skeleton.matmul_precision():
            return drawn_tokens(head, uniform, teaching.temperature, config.loss_chunks)

    return draw
