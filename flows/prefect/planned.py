"""Trainings that a flow plans, and their jobs."""

import dataclasses
from pathlib import Path
from typing import Any

from mswitch.flows.jobs.job import Job
from mswitch.flows.prefect.form_defaults import ComparisonSettings
from mswitch.flows.stages import evaluate, finetune, train
from mswitch.models.config import (
    EvaluateConfig,
    JobConfig,
    TrainConfig,
    TuningChanges,
    TuningConfig,
)
from mswitch.models.presets import preset
from mswitch.models.training.run_directory import CONFIG
from mswitch.pipelines import objects, storage
from mswitch.pipelines.outputs import MARKER


@dataclasses.dataclass(frozen=True)
class Planned:
    """A training that a flow plans.

    Attributes:
        out: the run directory, or its URL.
        preset: the model's preset.
        config: settings of the training.
        mixture: sampling rate of each language.
        origin: the run and checkpoint that it continues from, with moments and count of steps;
            None to begin with random parameters.
        record: `Job.record`, if `out` is a URL.
    """

    out: Path | str
    preset: str
    config: TrainConfig
    mixture: str
    record: Path | None = None
    origin: tuple[Path | str, int] | None = None

    @property
    def path(self) -> Path:
        """`Job.path` of the job that trains."""
        return self.record or Path(self.out)

    def read_description(self) -> dict[str, Any]:
        """Return the run's config.json; empty if the file is missing or states too few steps.

        Raises:
            BucketError: the bucket does not answer.
        """
        if not self.has(CONFIG):
            return {}
        with objects.reaching(str(self.out)):
            config = storage.read_json(storage.join(self.out, CONFIG))
        return config if config["train"]["steps"] >= self.config.steps else {}

    @property
    def is_trained(self) -> bool:
        """Whether the run is finished, with all planned steps."""
        return self.has(MARKER) and bool(self.read_description())

    def has(self, name: str) -> bool:
        """Return whether the run has a file of this name.

        Raises:
            BucketError: the bucket does not answer.
        """
        with objects.reaching(str(self.out)):
            return storage.exists(storage.join(self.out, name))

    def evaluation(self, examples: Path | str, config: EvaluateConfig, *, watch: bool) -> Job:
        """Return the job that evaluates the run; with `watch`, it evaluates until training ends."""
        return evaluate.evaluate.job(
            record=self.record, run=self.out, examples=examples, config=config, watch=watch
        )


def make_training_job(planned: Planned, settings: ComparisonSettings, examples: Path | str) -> Job:
    """Return the job that pretrains a model, from random parameters or from a checkpoint."""
    known: dict[str, Any] = {
        "hosts": settings.hosts,
        "record": planned.record,
        "out": planned.out,
        "mixture": planned.mixture,
        "job": JobConfig(distributed=settings.hosts > 1),
    }
    if planned.origin is None:
        return train.train.job(
            preset=planned.preset, examples=examples, config=planned.config, **known
        )
    origin, step = planned.origin
    model = preset(planned.preset).model
    rates = {"dropout_rate": model.dropout_rate}
    if model.sparse:
        rates["expert_dropout_rate"] = model.expert_dropout_rate
    values = {of.name: getattr(planned.config, of.name) for of in dataclasses.fields(TrainConfig)}
    return finetune.finetune.job(
        from_=origin,
        step=step,
        tasks=examples,
        keep_moments=True,
        config=TuningConfig(**values),
        changes=TuningChanges(**rates),
        **known,
    )
