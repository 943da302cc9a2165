"""Trainings that a flow is to make, and the jobs of which they consist."""

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
    """A training that a flow is to make.

    Attributes:
        out: the run directory, or its URL.
        preset: the model.
        config: how it is trained.
        mixture: how often each language comes.
        origin: the run that it goes on from, with its moments and count of steps, if any, and
            from which checkpoint.
        record: where `out` is a URL, as `Job.record`.
    """

    out: Path | str
    preset: str
    config: TrainConfig
    mixture: str
    record: Path | None = None
    origin: tuple[Path | str, int] | None = None

    @property
    def place(self) -> Path:
        """As `Job.place`."""
        return self.record or Path(self.out)

    def described(self) -> dict[str, Any]:
        """Return config.json of the run; nothing before it began, or is extended to its steps.

        Raises:
            BucketError: the bucket does not answer.
        """
        if not self.has(CONFIG):
            return {}
        with objects.reaching(str(self.out)):
            found = storage.read_json(storage.join(self.out, CONFIG))
        return found if found["train"]["steps"] >= self.config.steps else {}

    @property
    def is_trained(self) -> bool:
        """Whether the run is finished, with all the steps that are planned."""
        return self.has(MARKER) and bool(self.described())

    def has(self, name: str) -> bool:
        """Return whether the run has a file of this name.

        Raises:
            BucketError: the bucket does not answer.
        """
        with objects.reaching(str(self.out)):
            return storage.exists(storage.join(self.out, name))

    def evaluation(self, examples: Path | str, config: EvaluateConfig, *, watch: bool) -> Job:
        """Return the job that evaluates it; with `watch`, each checkpoint until training ends."""
        return evaluate.evaluate.job(
            record=self.record, run=self.out, examples=examples, config=config, watch=watch
        )


def training(planned: Planned, settings: ComparisonSettings, examples: Path | str) -> Job:
    """Return the job that pretrains one model, from random parameters or on from another run."""
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
