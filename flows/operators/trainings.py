"""Trainings of a flow, beside each other, with evaluations as their checkpoints appear."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.futures import PrefectFuture, wait
from prefect.runtime import flow_run as this_flow_run

from flows.launch.controller import ask
from flows.launch.job import Launcher
from flows.operators.approval import approve
from flows.operators.artifacts import LivePage, TrainingProgress, key_of
from flows.operators.cost import CostGuard, OverBudgetError
from flows.operators.planned import Planned, evaluation, training
from flows.operators.profile import Operators
from flows.operators.settings import ExperimentSettings, PairSettings
from flows.operators.steps import SERVER_ERRORS, follow, jobs_followed, owner_of, step
from flows.report.live import live_markdown
from models.config import EvaluateConfig
from models.training.run_directory import CONFIG
from pipelines.errors import UserError
from pipelines.outputs import read_manifest
from pipelines.progress import say

#: How often a pair's live page is made again.
LIVE_SECS = 60.0
#: How often a pair is looked at for what to start next.
LOOK_SECS = 5.0


def train_within_limit(
    settings: PairSettings | ExperimentSettings,
    planned: Sequence[Planned],
    examples: Path,
    operators: Operators,
    live: Mapping[str, tuple[Path, Path]],
    at_a_time: int,
) -> None:
    """Train and evaluate all, for at most what they may cost.

    Raises:
        UserError: a training or evaluation was refused or failed.
    """
    launcher, limit = operators.launcher(settings.launcher), settings.max_cost_usd
    price = operators.price(settings.launcher, limited=limit is not None)
    manifest = read_manifest(examples, "examples")
    guard = CostGuard(planned, settings.hosts, launcher, operators, manifest, price, limit)
    while True:
        approve(guard)
        try:
            with jobs_followed():
                evaluator = operators.evaluator(settings.launcher)
                trainings = Trainings(planned, settings, examples, launcher, evaluator, live, guard)
                trainings.train(at_a_time)
                return trainings.evaluate()
        except OverBudgetError as error:
            say("cost", str(error))


class Trainings:
    """Trainings that run beside the flow's thread, with the evaluations of their checkpoints.

    Args:
        planned: in the order in which they start.
        settings: what they have in common.
        examples: their data.
        launcher: where they run.
        evaluator: where their evaluations run.
        live: the runs that a live page compares, by its key.
        guard: of what they cost.
    """

    def __init__(
        self,
        planned: Sequence[Planned],
        settings: PairSettings | ExperimentSettings,
        examples: Path,
        launcher: Launcher,
        evaluator: Launcher,
        live: Mapping[str, tuple[Path, Path]],
        guard: CostGuard,
    ):
        self.planned, self.settings, self.live, self.guard = planned, settings, live, guard
        self.examples, self.launcher, self.evaluator = examples, launcher, evaluator
        self.trainings: dict[Path, PrefectFuture[Any]] = {}
        self.evaluations: dict[Path, PrefectFuture[Any]] = {}
        self._done: set[PrefectFuture[Any]] = set()
        self._shown = 0.0
        self._pages = {name: LivePage(key_of("live", name)) for name in live}

    def train(self, at_a_time: int) -> None:
        """Train all, and evaluate what they save, if asked for.

        Raises:
            UserError: a training was refused or failed.
        OverBudgetError: all were paused because they have cost what they may.
        """
        try:
            while self._next() or self._going_on():
                while (following := self._next()) and len(self._going_on()) < at_a_time:
                    self.trainings[following.out] = train.submit(
                        following, self.settings, self.examples, self.launcher, self.guard
                    )
                if self.settings.evaluate_while_training:
                    self._evaluate_what_is_there()
                if time.monotonic() - self._shown > LIVE_SECS:
                    self._show()
                self._done = wait(list(self.trainings.values()), timeout=LOOK_SECS).done
                for one in self._done:
                    one.wait()  # from here on its state is known without asking the server
            for training in self.trainings.values():
                training.result()
        except OverBudgetError:
            # Their followers pause evaluations as well, as long as this process lives.
            wait(list(self.evaluations.values()))
            raise
        except Exception:
            # They would wait for checkpoints that do not come.
            for run in self.evaluations:
                job = evaluation(run, self.examples, self.settings.evaluate, watch=True)
                ask(job, self.evaluator, "cancel", owner_of(this_flow_run.id))
            raise

    def evaluate(self) -> None:
        """Evaluate what is not evaluated yet, to the end.

        Raises:
            UserError: an evaluation was refused or failed.
        """
        for one in self.planned:
            if one.out in self.evaluations:
                self.evaluations[one.out].result()
            else:
                config = self.settings.evaluate
                evaluate(one.out, self.examples, config, self.evaluator, guard=self.guard)
        self._show()

    def _going_on(self) -> list[PrefectFuture[Any]]:
        return [one for one in self.trainings.values() if one not in self._done]

    def _next(self) -> Planned | None:
        """What to train next; nothing where one failed, since nothing is compared without it."""
        if any(one.state.is_failed() for one in self._done):
            return None
        return next((one for one in self.planned if one.out not in self.trainings), None)

    def _evaluate_what_is_there(self) -> None:
        for run in self.trainings:
            if run not in self.evaluations and (run / CONFIG).exists():
                self.evaluations[run] = evaluate.submit(
                    *(run, self.examples, self.settings.evaluate, self.evaluator),
                    watch=True,
                    guard=self.guard,
                )

    def _show(self) -> None:
        self._shown = time.monotonic()
        for name, runs in self.live.items():
            try:
                self._pages[name].show(live_markdown(*runs))
            except UserError as error:  # the trainings themselves say what is wrong
                say("live", str(error))


@step("train {planned.out.name}")
def train(
    planned: Planned,
    settings: PairSettings | ExperimentSettings,
    examples: Path,
    launcher: Launcher,
    guard: CostGuard,
) -> None:
    """Pretrain one model, as a job."""
    progress = TrainingProgress(planned.out, planned.config.steps, guard.note)
    follow(training(planned, settings, examples), launcher, progress.update, guard.refuse)
    with contextlib.suppress(*SERVER_ERRORS):
        progress.update()


@step("evaluate {run.name}")
def evaluate(
    run: Path,
    examples: Path,
    config: EvaluateConfig,
    launcher: Launcher,
    watch: bool = False,
    guard: CostGuard | None = None,
) -> None:
    """Evaluate one model's checkpoints, as a job."""
    job = evaluation(run, examples, config, watch=watch)
    if guard is None:
        follow(job, launcher)
    else:
        follow(job, launcher, refuse=guard.refuse)
