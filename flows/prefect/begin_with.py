"""Check a pair that continues from the runs of another pair, before anything starts."""

import dataclasses
from pathlib import Path

from mswitch.flows.prefect.planned import Planned
from mswitch.flows.prefect.steps import step
from mswitch.models.training.run_directory import CONFIG, check_vocabulary, read_run
from mswitch.models.training.run_files import open_files
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import MARKER, read_manifest


@step("origin of {planned.path.name}")
def add_origin(planned: Planned, origin: Path | str, examples: Path | str) -> Planned:
    """Add the origin to a training, and the step of the origin at which the training begins.

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
