"""Write a run that is not trained: one checkpoint, at step 0, with parameters from elsewhere."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from mswitch.models.training.checkpoint import Checkpoints
from mswitch.models.training.optimizer import make_optimizer
from mswitch.models.training.run_directory import CHECKPOINTS, CONFIG, METADATA
from mswitch.models.training.run_files import RunFiles, open_files
from mswitch.models.training.state import Parameters, Skeleton, TrainState, count_parameters
from mswitch.pipelines import storage
from mswitch.pipelines.identities import identifying_settings
from mswitch.pipelines.outputs import RemoteOutput, StagedOutput, stage_output


class BucketRun(RemoteOutput):
    """A run that is made locally, and uploaded to a bucket when it is published."""

    def __init__(self, files: RunFiles, stage: str, config: Mapping[str, Any]):
        super().__init__(files.place, stage, config)
        self._files = files
        self.directory = files.directory

    def claim(self) -> None:
        """Do nothing: until `publish`, the run's lease keeps out writers with other settings."""

    def publish(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Upload the files, config.json first, metadata last; then publish like other outputs."""
        super().claim()
        metadata = f"{CHECKPOINTS}/0/{METADATA}"
        self._files.publish(CONFIG)
        self._files.publish(*storage.file_sizes(self.directory).keys() - {CONFIG, metadata})
        self._files.publish(metadata)
        return super().publish(manifest)


@contextlib.contextmanager
def stage_run(
    out: str | Path, *, stage: str, config: Mapping[str, Any]
) -> Iterator[StagedOutput | BucketRun]:
    """Yield the output of a stage that makes a run, on a file system or in a bucket.

    `config` is everything that the output's bytes depend on.
    """
    if not storage.is_remote(out):
        with stage_output(out, stage=stage, config=config) as staged:
            yield staged
        return
    with open_files(out, "") as files:
        output = BucketRun(files, stage, config)
        if output.complete:
            yield output
            return
        with files.lock():
            # Another process may have finished the run meanwhile.
            yield BucketRun(files, stage, config)


def write_step_zero(
    directory: Path,
    run_hash: str,
    skeleton: Skeleton,
    parameters: Parameters,
    *,
    preset: str,
    examples: Mapping[str, Any] | None = None,
    languages: Mapping[str, Any] | None = None,
    **notes: Any,
) -> None:
    """Fill a run directory, which can then be evaluated, exported and trained like any other.

    The directory may hold files of a killed writer. `run_hash` is the run's `config_hash`. The
    optimizer starts fresh. `examples` and `languages` are as in the config.json of a run, None if
    unknown; `notes` are further entries of config.json.
    """
    counts = count_parameters(skeleton)
    storage.write_json(
        directory / CONFIG,
        {
            "preset": preset,
            "model": identifying_settings(skeleton.config),
            "train": identifying_settings(skeleton.train),
            "examples": examples,
            "languages": languages or {},
            "eval_steps": [0],
            "config_hash": run_hash,
            "parameters": sum(counts.values()),
            "parameters_by_group": counts,
            **notes,
        },
    )
    moments = make_optimizer(skeleton.train).init(parameters, skeleton.axes)
    checkpoints = Checkpoints(directory / CHECKPOINTS, (0,), run_hash)
    checkpoints.remove_leftovers()
    if checkpoints.latest() is None:
        checkpoints.save(TrainState(parameters, moments, jnp.zeros((), jnp.int32)), 0)
        checkpoints.wait()
