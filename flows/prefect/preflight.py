"""Check settings together, before anything is built; a form checks each field alone."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mswitch.flows.jobs.job import Job, Launcher, Unreachable
from mswitch.flows.prefect.form_defaults import ComparisonSettings
from mswitch.flows.prefect.operators_toml import Operators
from mswitch.flows.prefect.planned import Planned, make_training_job
from mswitch.flows.prefect.steps import step
from mswitch.flows.reports.runs import FEWEST_EVALUATIONS
from mswitch.flows.stages.disk_needed import check_disk, count_state_bytes
from mswitch.models.capacity import group_batch
from mswitch.models.config import pad_vocabulary
from mswitch.models.hardware import GIB
from mswitch.models.presets import preset
from mswitch.models.training.evaluation_steps import evaluation_steps
from mswitch.models.training.run_directory import CHECKPOINTS, CONFIG, check_vocabulary, read_run
from mswitch.models.training.run_files import open_files
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import MARKER, read_manifest
from mswitch.pipelines.progress import say
from mswitch.tasks.batches.mixtures import find_mixture


@step("preflight")
def check_trainings(
    settings: ComparisonSettings,
    planned: Sequence[Planned],
    examples: Path | str,
    operators: Operators,
) -> None:
    """Before training, check models, meshes, examples, mixtures, disk, launchers and prices."""
    manifest = read_manifest(examples, "examples")
    outs = [training.out for training in planned]
    for training in planned:
        if outs.count(training.out) > 1:
            raise UserError(
                f"{training.preset} with seed {training.config.seed} and mixture "
                f"{training.mixture} would be trained twice: leave out a preset, seed or mixture "
                "that is given twice"
            )
        find_mixture(training.mixture)
        evaluated = len(evaluation_steps(training.config))
        if evaluated < FEWEST_EVALUATIONS:
            option = "evaluations" if training.config.eval_every is None else "eval-every"
            raise UserError(
                f"--{option}: {evaluated} evaluated steps of {training.config.steps:,} are too "
                f"few; a report needs {FEWEST_EVALUATIONS}"
            )
        _check_mesh(training, manifest)
        with open_files(training.out) as files:
            files.refresh()
            _check_examples(files.directory, manifest, examples)
    launcher = operators.find_launcher(settings.launcher)
    evaluator = operators.find_evaluator(settings.launcher)
    evaluates = operators.evaluations.get(settings.launcher, settings.launcher)
    for name in {settings.launcher, evaluates}:
        operators.look_up_price(name, limited=settings.max_cost_usd is not None)
    check_capacity(
        launcher, (make_training_job(training, settings, examples) for training in planned)
    )
    evaluations = (
        training.evaluation(examples, settings.evaluation, watch=True) for training in planned
    )
    check_capacity(evaluator, evaluations)
    need = sum(count_missing_bytes(training, manifest["vocabulary_size"]) for training in planned)
    if isinstance(planned[0].out, Path):
        check_disk(planned[0].out, need, "checkpoints of these trainings", "--evaluations smaller")
    say(
        "preflight",
        f"{len(planned)} trainings of {planned[0].config.steps:,} steps, "
        f"{need / GIB:,.1f} GiB of checkpoints to come",
    )


def _check_mesh(training: Planned, manifest: Mapping[str, Any]) -> None:
    from mswitch.models.partitioning import check_divisible

    model, config = preset(training.preset).model, training.config
    keys = ("inputs_length", "targets_length")
    lengths = [config.row_examples * manifest[key] for key in keys]
    check_divisible(model, config, group_batch(model, config.rows, *lengths))


def _check_examples(run: Path, manifest: Mapping[str, Any], examples: Path | str) -> None:
    if not (run / CONFIG).exists():
        return
    before = read_run(run)["examples"]
    for key, kind in (("vocabulary_sha256", "vocabulary"), ("config_hash", "examples")):
        if before[key] != manifest[key]:
            raise UserError(
                f"{run} was begun with other {kind} than {examples}: choose another name"
            )


@step("origin of {planned.path.name}")
def add_origin(planned: Planned, origin: Path | str, examples: Path | str) -> Planned:
    """Return a planned training that begins with a checkpoint of the run `origin`.

    The step is the recorded one if the training has begun, else the origin's last step.
    """
    option = f"begin_with: {origin}"
    with open_files(origin) as files:
        files.refresh()
        if not (files.directory / CONFIG).exists():
            raise UserError(f"{option} does not exist: name a pair with both of these presets")
        before = read_run(files.directory)
        finished = (files.directory / MARKER).exists()
    manifest = read_manifest(examples, "examples")
    check_vocabulary(origin, before, examples, manifest)
    same_seed = before["train"]["seed"] == planned.config.seed
    if before["examples"]["config_hash"] == manifest["config_hash"] and same_seed:
        raise UserError(
            f"{option} was trained on {examples} with this seed: give that pair more steps, or "
            "other examples here"
        )
    if before["train"]["optimizer"] != planned.config.optimizer:
        raise UserError(
            f"{option} has moments of {before['train']['optimizer']}: choose that optimizer"
        )
    with open_files(planned.out) as files:
        files.refresh()
        if (files.directory / CONFIG).exists():
            begun = read_run(files.directory).get("origin")
            if begun is None:
                raise UserError(f"{planned.out} was begun without begin_with: choose another name")
            return dataclasses.replace(planned, origin=(origin, begun["step"]))
    if not finished:
        raise UserError(f"{option} is still in training: start this after its end")
    return dataclasses.replace(planned, origin=(origin, before["train"]["steps"]))


def check_capacity(launcher: Launcher, jobs: Iterable[Job]) -> None:
    """Check that the launcher could ever run these jobs."""
    try:
        for job in jobs:
            launcher.check(job)
    except Unreachable as error:  # perhaps the launcher can run the jobs, so continue
        say("preflight", f"the scheduler does not answer: its capacity is not checked ({error})")


def count_missing_bytes(training: Planned, vocabulary_size: int) -> int:
    """Return the size of the checkpoints that a training has still to write."""
    config = training.config
    if training.is_trained:
        return 0
    # Add one to the kept checkpoints: the newest stays while the next is written.
    count = len(evaluation_steps(config)) + 1
    places = training.out.glob(f"{CHECKPOINTS}/*") if isinstance(training.out, Path) else ()
    present = sum(path.name.isdecimal() for path in places)
    return max(0, count - present) * count_checkpoint_bytes(training, vocabulary_size)


def count_checkpoint_bytes(training: Planned, vocabulary_size: int) -> int:
    """Compute from shapes the size of a checkpoint: its parameters and the optimizer's moments."""
    model = dataclasses.replace(
        preset(training.preset).model, vocabulary_size=pad_vocabulary(vocabulary_size)
    )
    return count_state_bytes(model, training.config)
