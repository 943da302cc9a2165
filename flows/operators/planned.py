"""Trainings that a flow is to make, and the jobs of which they consist."""

import dataclasses
from pathlib import Path

from flows.launch.job import Job
from flows.operators.parameters import options_of
from flows.operators.settings import ExperimentSettings, PairSettings
from models.config import EvaluateConfig, TrainConfig


@dataclasses.dataclass(frozen=True)
class Planned:
    """A training that a flow is to make.

    Attributes:
        out: the run directory.
        preset: the model.
        config: how it is trained.
        mixture: how often each language comes.
    """

    out: Path
    preset: str
    config: TrainConfig
    mixture: str


def training(planned: Planned, settings: PairSettings | ExperimentSettings, examples: Path) -> Job:
    """The job that pretrains one model."""
    options = [*options_of(planned.config), f"--mixture={planned.mixture}"]
    options += ["--distributed"] if settings.hosts > 1 else []
    words = (f"--preset={planned.preset}", f"--examples={examples}", f"--out={planned.out}")
    return Job(("train", *words, *options), planned.out, hosts=settings.hosts)


def evaluation(run: Path, examples: Path, config: EvaluateConfig, *, watch: bool) -> Job:
    """The job that evaluates a run; it watches the run until its training ends."""
    argv = ("evaluate", f"--run={run}", f"--examples={examples}", *options_of(config))
    argv += ("--watch",) if watch else ()
    return Job(argv, run / "eval", marked=False)
