"""Run the trainings of a flow at the same time, and evaluate their checkpoints meanwhile."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.futures import PrefectFuture, wait
from prefect.runtime import flow_run as this_flow_run

from mswitch.flows.jobs.job import Job, Launcher
from mswitch.flows.jobs.record import read_record
from mswitch.flows.prefect.approval import work_within_limit
from mswitch.flows.prefect.cost import CostGuard, OverBudgetError
from mswitch.flows.prefect.follow import end_tasks_with_flow, follow_job
from mswitch.flows.prefect.form_defaults import ComparisonSettings
from mswitch.flows.prefect.operators_toml import Operators
from mswitch.flows.prefect.owners import name_owner, withdraw
from mswitch.flows.prefect.planned import Planned, make_training_job
from mswitch.flows.prefect.preflight import check_trainings
from mswitch.flows.prefect.show import (
    Sides,
    TrainingProgress,
    index_reports,
    locate_so_far,
    report_runs,
    show_report,
    write_page,
)
from mswitch.models.training.run_files import EVALUATION
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.objects import BucketError
from mswitch.pipelines.outputs import MARKER, read_manifest
from mswitch.pipelines.progress import lines_to, say

REPORT_SECS = 60.0
#: Seconds between reports on unfinished runs in a bucket. Each report downloads the runs again,
#: because they change with each checkpoint.
BUCKET_REPORT_SECS = 600.0
#: Seconds between checks whether a training or evaluation can start.
LOOK_SECS = 5.0


def compare(
    settings: ComparisonSettings,
    planned: Sequence[Planned],
    reports: Mapping[Path, Sides],
    operators: Operators,
    at_a_time: int | None = None,
) -> dict[Path, str]:
    """Train and evaluate all planned runs, and write reports; return each report's verdict.

    Trainings start in the order of `planned`. `reports` has the runs to compare, by directory of
    the report. `at_a_time` is the number of trainings at a time; None for the launcher's number.
    """
    examples = operators.locate_output("examples", settings.examples)
    check_trainings(settings, planned, examples, operators)
    evaluator = operators.find_evaluator(settings.launcher)
    guard = CostGuard(planned, settings, operators, read_manifest(examples, "examples"))

    def train() -> None:
        with end_tasks_with_flow():
            trainings = Trainings(planned, settings, examples, evaluator, reports, guard)
            trainings.train(at_a_time or operators.count_trainings_at_a_time(guard.launcher))
            trainings.evaluate()

    work_within_limit(guard, train)
    verdicts = {out: write_page(sides, out, settings.report) for out, sides in reports.items()}
    index_reports(operators.storage)
    return verdicts


@dataclasses.dataclass
class Trainings:
    """Trainings and evaluations of `compare`, which run as Prefect tasks in their own threads.

    Attributes:
        planned: as for `compare`, as also `settings` and `reports`.
        examples: their data.
        evaluator: the launcher of their evaluations.
        guard: the guard of their cost, with their launcher.
    """

    planned: Sequence[Planned]
    settings: ComparisonSettings
    examples: Path | str
    evaluator: Launcher
    reports: Mapping[Path, Sides]
    guard: CostGuard

    def __post_init__(self) -> None:
        self.trainings: dict[Path, PrefectFuture[Any]] = {}
        self.evaluations: dict[Path, PrefectFuture[Any]] = {}
        self._done: set[PrefectFuture[Any]] = set()
        self._next_report = 0.0
        self._problems: dict[Path, str] = {}

    def train(self, at_a_time: int) -> None:
        """Train all planned runs, and evaluate their checkpoints meanwhile if the settings say so.

        Raises:
            OverBudgetError: all were paused because their cost reached its limit.
        """
        try:
            while self._next() or self._list_running():
                while (following := self._next()) and len(self._list_running()) < at_a_time:
                    title = f"train {following.path.name}"
                    job = make_training_job(following, self.settings, self.examples)
                    progress = TrainingProgress(job, following.config.steps, self.guard.note)
                    self.trainings[following.path] = follow_job.submit(
                        title, job, self.guard.launcher, self.guard.refuse, progress
                    )
                if self.settings.evaluate_while_training:
                    self._start_evaluations()
                    self._report_so_far()
                self._done = wait(list(self.trainings.values()), timeout=LOOK_SECS).done
                for future in self._done:
                    future.wait()  # so its state is known later without a request to the server
            for future in self.trainings.values():
                future.result()
        except OverBudgetError:
            # Wait until each evaluation task has paused its job.
            wait(list(self.evaluations.values()))
            raise
        except Exception:
            # After a failed training, evaluations would wait for checkpoints that never come.
            for training in self.planned:
                if training.path in self.evaluations:
                    job = self._evaluation(training, watch=True)
                    withdraw(job, self.evaluator, name_owner(this_flow_run.id))
            raise

    def evaluate(self) -> None:
        """Evaluate every run to its end, except runs that are already evaluated."""
        for training in self.planned:
            if training.path in self.evaluations:
                self.evaluations[training.path].result()
            elif not self._is_evaluated(training):
                self._evaluate(training, follow_job, watch=False)

    def _list_running(self) -> list[PrefectFuture[Any]]:
        return [future for future in self.trainings.values() if future not in self._done]

    def _next(self) -> Planned | None:
        """Return the next training to start; None if one failed: comparisons need all trainings."""
        if any(future.state.is_failed() for future in self._done):
            return None
        return next(
            (training for training in self.planned if training.path not in self.trainings), None
        )

    def _start_evaluations(self) -> None:
        for training in self.planned:
            to_evaluate = training.path in self.trainings and training.path not in self.evaluations
            if to_evaluate and _read_description(training) and not self._is_evaluated(training):
                self.evaluations[training.path] = self._evaluate(
                    training, follow_job.submit, watch=True
                )

    def _is_evaluated(self, training: Planned) -> bool:
        job = self._evaluation(training, watch=False)
        record = read_record(job.path)
        if record is None or record.last is None or record.last.outcome != "done":
            return False
        if tuple(word for word in record.job.argv if word != "--watch") != job.argv:
            return False
        with contextlib.suppress(BucketError):
            steps = training.read_description().get("eval_steps", ())
            evaluated = (f"{EVALUATION}/{step}.parquet" for step in steps)
            return bool(steps) and all(map(training.has, (MARKER, *evaluated)))
        return False

    def _evaluation(self, training: Planned, *, watch: bool) -> Job:
        return training.evaluation(self.examples, self.settings.evaluation, watch=watch)

    def _evaluate(self, training: Planned, start: Callable[..., Any], *, watch: bool) -> Any:
        job, title = self._evaluation(training, watch=watch), f"evaluate {training.path.name}"
        return start(title, job, self.evaluator, self.guard.refuse)

    def _report_so_far(self) -> None:
        """Report on the evaluated steps, once all runs of a report have begun."""
        if time.monotonic() < self._next_report:
            return
        here = isinstance(self.planned[0].out, Path)
        self._next_report = time.monotonic() + (REPORT_SECS if here else BUCKET_REPORT_SECS)
        for out, sides in self.reports.items():
            runs = {run for side in sides for run in side}
            if not all(
                _read_description(training) for training in self.planned if training.out in runs
            ):
                continue
            try:
                place, of = locate_so_far(out), self.settings.report
                with lines_to(lambda lines: None):
                    summary = report_runs(sides, place, of, unfinished=True)
                if not summary["reused"]:
                    show_report(place, summary["verdict"])
            except Exception as error:  # trainings continue after any failure of a report
                problem = str(error) if isinstance(error, UserError) else repr(error)
                if problem != self._problems.get(out):
                    say("report", f"no report on the steps so far: {problem}")
                self._problems[out] = problem


def _read_description(training: Planned) -> dict[str, Any]:
    with contextlib.suppress(BucketError):
        return training.read_description()
    return {}
