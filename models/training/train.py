"""Pretraining that can be killed at any moment and continues.

A run continues to the bit after its last complete checkpoint, which has parameters and moments.
The batch and all randomness of step n follow from (seed, n). A run without a complete checkpoint
begins at step 0. A finished run does nothing. After SIGTERM or Ctrl-C everything is saved, and the
process exits with code 75.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mswitch.models.capacity import group_batch, warn_of_small_groups
from mswitch.models.config import (
    JobConfig,
    ModelChanges,
    ModelConfig,
    TrainConfig,
    pad_vocabulary,
)
from mswitch.models.nn.sharded_attention import choose_kernel, find_device_kind, name_attention
from mswitch.models.partitioning import check_divisible, find_fed_part, make_mesh
from mswitch.models.presets import preset as find_preset
from mswitch.models.training.distributed import agree, membership, on_first, say_once, together
from mswitch.models.training.loop import run_training
from mswitch.models.training.run_directory import (
    CONFIG,
    claim_run,
    describe_run,
    finish_run,
)
from mswitch.models.training.run_files import open_files
from mswitch.models.training.run_plan import RunPlan
from mswitch.models.training.state import Skeleton, count_parameters
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.faults import fault_point
from mswitch.pipelines.outputs import MARKER, canonical_json, read_manifest
from mswitch.tasks.batches.mixtures import Mixture
from mswitch.tasks.batches.multitask import open_task_mixture
from mswitch.tasks.batches.training import TaskBatches

NO_CHANGES = ModelChanges()
ALONE = JobConfig()


def train(
    preset: str,
    examples: str | Path,
    out: str | Path,
    config: TrainConfig,
    mixture: Mixture | None = None,
    changes: ModelChanges = NO_CHANGES,
    job: JobConfig = ALONE,
) -> dict[str, Any]:
    """Train a preset on an examples directory, or continue a killed run.

    In a job of several processes, each calls this with the same arguments. All must reach
    `examples` and `out`: on a shared file system, or in a bucket.

    Args:
        preset: name of the model (`mswitch.models.presets`).
        examples: a finished examples directory, here or in a bucket, or a TOML file of several
            (`mswitch.tasks.batches.multitask`).
        out: the run directory, on a file system or in a bucket.
        config: training settings.
        mixture: sampling rate of each language; by default n ** 0.3 over all languages.
        changes: changes to the preset.
        job: the processes that train together.

    Returns:
        Summary: stage, out, reused, preset, step, final_loss, parameters.
    """
    chosen = mixture or Mixture()
    return train_prepared(
        lambda: prepare(preset, examples, config, chosen, changes), examples, out, job
    )


def train_prepared(
    prepare: Callable[[], tuple[RunPlan, TaskBatches]],
    examples: str | Path,
    out: str | Path,
    job: JobConfig,
) -> dict[str, Any]:
    """Train a planned run or continue it, like `train`; each process calls `prepare` once."""
    with membership(job), contextlib.ExitStack() as stack:
        plan, batches = together(prepare)
        agree(canonical_json([plan.identity, dataclasses.asdict(plan.train)]))
        files = stack.enter_context(open_files(out, "", shared=job.shared))
        stack.enter_context(files.lock())
        finished, horizons, extends = on_first(lambda: claim_run(files.directory, plan))
        plan = dataclasses.replace(plan, horizons=tuple(horizons))
        summary = {
            "stage": "train",
            "out": str(out),
            "reused": finished is not None,
            "preset": plan.preset,
            "step": plan.train.steps,
        }
        if finished is not None:
            say_once(
                "train", f"already complete: {out} reached step {plan.train.steps:,}; nothing to do"
            )
            return {**summary, "final_loss": finished["final_loss"]}
        if extends:
            files.reopen()
        lengths = (batches.inputs_length, batches.targets_length)
        groups = group_batch(plan.model, plan.train.rows, *lengths)
        together(lambda: check_divisible(plan.model, plan.train, groups))
        mesh, model = make_mesh(plan.train), plan.model
        way, kind = plan.train.attention, find_device_kind(mesh)
        used = together(lambda: name_attention(choose_kernel(way, model.d_kv, lengths, kind)))
        # `auto` would choose for encoder and decoder separately, by their lengths. If one of them
        # needs XLA's attention, both use it.
        settled = dataclasses.replace(plan.train, attention="xla" if used == "xla" else way)
        skeleton = Skeleton.build(model, settled, mesh)
        counts = count_parameters(skeleton)
        measured = {
            "parameters": sum(counts.values()),
            "parameters_by_group": counts,
            "flops_per_step": float(plan.flops_per_step(*lengths)),
            "tokens_per_step": plan.train.rows * sum(lengths),
            "device": kind,
            "attention": used,
        }

        def describe() -> None:
            describe_run(files.directory, plan, examples, measured, is_copy=files.is_copy)
            files.publish(CONFIG)

        on_first(describe)
        for line in _introduce(plan, measured, lengths):
            say_once("train", line)
        say_once("train", f"metrics, checkpoints and TensorBoard events go to {out}")
        final_loss = run_training(plan, batches, files, skeleton, groups)
        fault_point("train.before_marker")

        def finish() -> None:
            files.publish_records()
            finish_run(files.directory, plan, final_loss)
            files.publish(MARKER)

        on_first(finish)
        say_once("train", f"complete: step {plan.train.steps:,}, loss {final_loss:.4f} · {out}")
        return {**summary, "final_loss": final_loss, "parameters": measured["parameters"]}


def prepare(
    preset: str,
    examples: str | Path,
    config: TrainConfig,
    mixture: Mixture,
    changes: ModelChanges,
) -> tuple[RunPlan, TaskBatches]:
    """Plan the training of a preset with its data's vocabulary, and open the data."""
    model = changes.apply_to(find_preset(preset).model)
    first = open_task_mixture(examples, mixture).directories[0]
    rows = pad_vocabulary(read_manifest(first, "examples")["vocabulary_size"])
    model = dataclasses.replace(model, vocabulary_size=rows)
    return make_plan(preset, model, examples, config, mixture)


def make_plan(
    preset: str, model: ModelConfig, examples: str | Path, config: TrainConfig, mixture: Mixture
) -> tuple[RunPlan, TaskBatches]:
    """Plan a run of a model, and open the part of its data that this process feeds."""
    if config.freeze != "none" and not model.sparse:
        raise UserError(
            f"--freeze {config.freeze} is for models with experts; {preset} has none: leave it out"
        )
    tasks = open_task_mixture(examples, mixture)
    host, hosts = find_fed_part(make_mesh(config))
    batches = TaskBatches(
        tasks,
        config.batch_size,
        config.seed,
        config.steps,
        host=host,
        hosts=hosts,
        pack=config.pack,
    )
    languages = {
        leaf: {
            **{f"train_{name}": counts.get(name, 0) for name in ("records", "tokens", "bytes")},
            "rate": batches.rates[leaf],
        }
        for leaf, counts in batches.counts.items()
    }
    for name in tasks.list_exceeding(batches.records, config.steps * config.batch_size):
        cap = tasks.tasks[name].mixture.max_epochs
        say_once(
            "train",
            f"{config.steps:,} steps are more than {cap:g} epochs of all text"
            f"{name and ' of '}{name}: the mixture's cap cannot hold (`mswitch mixture show`)",
        )
    definition, directories = tasks.definition, batches.directories
    plan = RunPlan(
        preset, model, config, batches.identity, languages, definition, directories=directories
    )
    return plan, batches


def _introduce(plan: RunPlan, measured: dict[str, Any], lengths: tuple[int, int]) -> Iterator[str]:
    model, config = plan.model, plan.train
    every = {1: "every", 2: "every second"}.get(model.sparse_every, f"every {model.sparse_every}th")
    kind = (
        f"{model.experts} experts in {every} layer, top-1, capacity factor {model.capacity_factor}"
        if model.sparse
        else "dense"
    )
    yield (
        f"{plan.preset}: {model.encoder_layers}+{model.decoder_layers} layers, d_model "
        f"{model.d_model}, d_ff {model.d_ff}, {kind}, vocabulary {model.vocabulary_size:,}"
    )
    groups = sorted(measured["parameters_by_group"].items())
    parts = ", ".join(f"{group} {count:,}" for group, count in groups)
    yield f"{measured['parameters']:,} parameters: {parts}"
    if plan.origin is not None:
        moments = "its moments" if plan.origin.keep_moments else "fresh moments"
        yield f"begins with step {plan.origin.step:,} of {plan.origin.path}, {moments}"
    if plan.teacher is not None:
        of = plan.teacher.origin
        begins = "; begins with its parameters except experts" if plan.teacher.init else ""
        yield (
            f"learns from step {of.step:,} of {of.path} ({of.chain['preset']}), soft weight "
            f"{plan.teacher.soft_weight}, temperature {plan.teacher.temperature}{begins}"
        )
    yield (
        f"{config.steps:,} steps of {config.rows} x ({lengths[0]} + {lengths[1]}) = "
        f"{measured['tokens_per_step']:,} tokens, {measured['flops_per_step'] / 1e9:,.1f} GFLOP a "
        f"step, {config.optimizer}, {config.dtype} on {config.devices} x {measured['device']}, "
        f"attention by {measured['attention']}, {len(plan.languages)} languages, seed {config.seed}"
    )
    yield from warn_of_small_groups(model, config.rows, *lengths)
