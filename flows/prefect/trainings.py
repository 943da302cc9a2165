"""Trainings of a flow, beside each other, with evaluations as their checkpoints appear."""

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
from mswitch.flows.prefect.approval import within_limit
from mswitch.flows.prefect.cost import CostGuard, OverBudgetError
from mswitch.flows.prefect.follow import follow_job, jobs_followed
from mswitch.flows.prefect.form_defaults import ComparisonSettings
from mswitch.flows.prefect.operators_toml import Operators
from mswitch.flows.prefect.owners import cancel, owner_of
from mswitch.flows.prefect.planned import Planned, training
from mswitch.flows.prefect.preflight import check_trainings
from mswitch.flows.prefect.show import (
    TrainingProgress,
    index_reports,
    report_runs,
    show_report,
    so_far,
    write_page,
)
from mswitch.models.training.run_files import EVALUATION
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.objects import BucketError
from mswitch.pipelines.outputs import MARKER, read_manifest
from mswitch.pipelines.progress import lines_to, say

#: How often it is seen whether there is more to report.
REPORT_SECS = 60.0
#: Of runs in a bucket, which are fetched for it, and new there with each checkpoint.
BUCKET_REPORT_SECS = 600.0
#: The runs of a report: of the baseline, and of its candidates.
Sides = tuple[Sequence[Path | str], Sequence[Path | str]]
#: How often a pair is looked at for what to start next.
LOOK_SECS = 5.0


def compare(
    settings: ComparisonSettings,
    planned: Sequence[Planned],
    reports: Mapping[Path, Sides],
    operators: Operators,
    at_a_time: int | None = None,
) -> dict[Path, str]:
    """Train and evaluate all, and report; return the verdict of each report.

    Args:
        settings: what the trainings have in common.
        planned: in the order in which they start.
        reports: what is compared, by where the report goes.
        operators: with the launchers.
        at_a_time: how many trainings run at a time; None for what the launcher gets.
    """
    examples = operators.output("examples", settings.examples)
    check_trainings(settings, planned, examples, operators)
    evaluator = operators.evaluator(settings.launcher)
    guard = CostGuard(planned, settings, operators, read_manifest(examples, "examples"))

    def train() -> None:
        with jobs_followed():
            trainings = Trainings(planned, settings, examples, evaluator, reports, guard)
            trainings.train(at_a_time or operators.trainings_at_a_time(guard.launcher))
            trainings.evaluate()

    within_limit(guard, train)
    verdicts = {out: write_page(*sides, out, settings.report) for out, sides in reports.items()}
    index_reports(operators.storage)
    return verdicts


@dataclasses.dataclass
class Trainings:
    """Trainings that run beside the flow's thread, with the evaluations of their checkpoints.

    Attributes:
        planned: in the order in which they start.
        settings: what they have in common.
        examples: their data.
        evaluator: where their evaluations run.
        reports: what is compared, by where the report goes.
        guard: of what they cost, with the launcher that runs them.
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
        """Train all, and evaluate what they save, if asked for.

        Raises:
            OverBudgetError: all were paused because they have cost what they may.
        """
        try:
            while self._next() or self._going_on():
                while (following := self._next()) and len(self._going_on()) < at_a_time:
                    title = f"train {following.place.name}"
                    job = training(following, self.settings, self.examples)
                    progress = TrainingProgress(job, following.config.steps, self.guard.note)
                    self.trainings[following.place] = follow_job.submit(
                        title, job, self.guard.launcher, self.guard.refuse, progress
                    )
                if self.settings.evaluate_while_training:
                    self._evaluate_what_is_there()
                    self._report_so_far()
                self._done = wait(list(self.trainings.values()), timeout=LOOK_SECS).done
                for one in self._done:
                    one.wait()  # from here on its state is known without asking the server
            for one in self.trainings.values():
                one.result()
        except OverBudgetError:
            # Their followers pause evaluations as well, as long as this process lives.
            wait(list(self.evaluations.values()))
            raise
        except Exception:
            # They would wait for checkpoints that do not come.
            for one in self.planned:
                if one.place in self.evaluations:
                    job = self._evaluation(one, watch=True)
                    cancel(job, self.evaluator, owner_of(this_flow_run.id))
            raise

    def evaluate(self) -> None:
        """Evaluate what is not evaluated yet, to the end."""
        for one in self.planned:
            if one.place in self.evaluations:
                self.evaluations[one.place].result()
            elif not self._is_evaluated(one):
                self._evaluate(one, follow_job, watch=False)

    def _going_on(self) -> list[PrefectFuture[Any]]:
        return [one for one in self.trainings.values() if one not in self._done]

    def _next(self) -> Planned | None:
        """Return the trainings to start next; none if one failed: all are compared with it."""
        if any(one.state.is_failed() for one in self._done):
            return None
        return next((one for one in self.planned if one.place not in self.trainings), None)

    def _evaluate_what_is_there(self) -> None:
        for one in self.planned:
            to_evaluate = one.place in self.trainings and one.place not in self.evaluations
            if to_evaluate and _described(one) and not self._is_evaluated(one):
                self.evaluations[one.place] = self._evaluate(one, follow_job.submit, watch=True)

    def _is_evaluated(self, one: Planned) -> bool:
        """Return whether a finished run was already evaluated in this way."""
        job = self._evaluation(one, watch=False)
        record = read_record(job.place)
        if record is None or record.last is None or record.last.outcome != "done":
            return False
        if tuple(word for word in record.job.argv if word != "--watch") != job.argv:
            return False
        with contextlib.suppress(BucketError):
            steps = one.described().get("eval_steps", ())
            evaluated = (f"{EVALUATION}/{step}.parquet" for step in steps)
            return bool(steps) and all(map(one.has, (MARKER, *evaluated)))
        return False

    def _evaluation(self, one: Planned, *, watch: bool) -> Job:
        return one.evaluation(self.examples, self.settings.evaluation, watch=watch)

    def _evaluate(self, one: Planned, start: Callable[..., Any], *, watch: bool) -> Any:
        """Evaluate a run by `follow_job`, or its `submit`."""
        job, title = self._evaluation(one, watch=watch), f"evaluate {one.place.name}"
        return start(title, job, self.evaluator, self.guard.refuse)

    def _report_so_far(self) -> None:
        """Report on what is evaluated, once all runs of a report have begun; never raise."""
        if time.monotonic() < self._next_report:
            return
        here = isinstance(self.planned[0].out, Path)
        self._next_report = time.monotonic() + (REPORT_SECS if here else BUCKET_REPORT_SECS)
        for out, sides in self.reports.items():
            runs = {run for side in sides for run in side}
            if not all(_described(one) for one in self.planned if one.out in runs):
                continue
            try:
                place, of = so_far(out), self.settings.report
                with lines_to(lambda lines: None):
                    summary = report_runs(*sides, place, of, unfinished=True)
                if not summary["reused"]:
                    show_report(place, summary["verdict"])
            except Exception as error:  # whatever it is, trainings go on
                problem = str(error) if isinstance(error, UserError) else repr(error)
                if problem != self._problems.get(out):
                    say("report", f"nothing of the steps so far: {problem}")
                self._problems[out] = problem


def _described(one: Planned) -> dict[str, Any]:
    """`Planned.described`; nothing while its bucket does not answer."""
    with contextlib.suppress(BucketError):
        return one.described()
    return {}
