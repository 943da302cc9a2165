"""`follow` under any sequence of kills, lost answers, ends and wishes, on a modelled scheduler."""

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from job_world import ask

from mswitch.flows.jobs import doors, launchers
from mswitch.flows.jobs.job import Job, Status, Unreachable
from mswitch.flows.jobs.life import State, Timing
from mswitch.flows.jobs.record import read_record
from mswitch.pipelines.outputs import MARKER

#: What may happen when a launcher is called.
CALLS = ("killed", "killed after", "unreachable", "reply lost")
ENDS = {"end 0": 0, "end 1": 1, "end 2": 2, "end 75": 75, "end -9": 137, "lost": None}
#: What may happen while the loop sleeps.
MEANWHILE = (*ENDS, "finish", "progress", "pause", "cancel", "run", "killed")
EVENTS = st.lists(st.sampled_from(sorted({*CALLS, *MEANWHILE, "nothing"})), max_size=40)


class Killed(BaseException):
    """The process that follows the job is no more."""


@dataclasses.dataclass
class Scheduler:
    """A launcher whose jobs end, and whose answers fail, as `events` say; then all goes well."""

    out: Path
    events: Iterator[str]
    jobs: dict[int, Status] = dataclasses.field(default_factory=dict)
    log: dict[int, list[str]] = dataclasses.field(default_factory=dict)
    may_submit: bool = True
    calm: bool = False
    clock: float = 0.0

    profile = {"launcher": "model"}  # noqa: RUF012
    poll_secs = 1.0

    def event(self) -> str:
        event = "nothing" if self.calm else next(self.events, None)
        self.calm = self.calm or event is None
        return event or "nothing"

    def alive(self) -> list[int]:
        return [number for number, status in self.jobs.items() if status.phase != "ended"]

    def call(self, effect):
        event = self.event()
        if event == "killed":
            raise Killed
        if event == "unreachable":
            raise Unreachable("timed out")
        result = effect()
        if event == "killed after":
            raise Killed
        if event == "reply lost":
            raise Unreachable("timed out")
        return result

    def submit(self, job: Job, attempt: int) -> None:
        def effect() -> None:
            if attempt in self.jobs:
                return
            assert not self.alive(), "two living jobs"
            assert self.may_submit, "submitted after a refusal, a failure or a cancellation"
            self.jobs[attempt] = Status("running")
            self.log[attempt] = [f"start {attempt}"]

        self.call(effect)

    def find(self, job: Job) -> Sequence[int]:
        return self.call(lambda: sorted(self.jobs))

    def poll(self, job: Job, attempt: int) -> Status:
        return self.call(lambda: self.jobs[attempt])

    def logs(self, job: Job, attempt: int, start: int) -> tuple[list[str], int]:
        lines = self.log[attempt][start:]
        return lines, start + len(lines)

    def end(self, job: Job, attempt: int, *, kill: bool = False) -> None:
        self.call(lambda: self.record_end(attempt, 137 if kill else 75))

    def record_end(self, attempt: int, code: int | None) -> None:
        if self.jobs[attempt].phase != "ended":
            self.jobs[attempt] = Status("ended", codes=() if code is None else (code,))
            if code in (1, 2) or (code == 0 and not (self.out / MARKER).exists()):
                self.may_submit = False

    def finish(self, attempt: int) -> None:
        self.out.mkdir(exist_ok=True)
        (self.out / MARKER).touch()
        self.record_end(attempt, 0)

    def ask(self, job: Job, intent) -> None:
        try:
            ask(job, self, intent)
        except (Unreachable, Killed):
            # As a person would, until it is heard; nothing is drawn meanwhile.
            self.calm = True
            ask(job, self, intent)
            self.calm = False
        self.may_submit = intent == "run"

    def sleep(self, job: Job, secs: float) -> None:
        self.clock += secs
        event = self.event()
        for attempt in self.alive():
            if event in ENDS:
                self.record_end(attempt, ENDS[event])
            elif event == "finish" or self.calm:
                self.finish(attempt)
            elif event == "progress":
                self.out.mkdir(exist_ok=True)
                (self.out / f"{self.clock}").touch()
        if event in ("pause", "cancel", "run"):
            self.ask(job, event)
        if event == "killed":
            raise Killed


@settings(max_examples=100)
@given(events=EVENTS)
def test_no_sequence_of_events_makes_two_living_jobs_or_repeats_what_failed(events):
    with tempfile.TemporaryDirectory() as top, pytest.MonkeyPatch.context() as patch:
        out = Path(top) / "out"
        scheduler = Scheduler(out, iter(events))
        patch.setitem(launchers.LAUNCHERS, "model", lambda: scheduler)
        patch.setattr("os.fsync", lambda _: None)  # no machine fails here
        job = Job(("train",), out)
        lines: list[str] = []

        def follow() -> State | None:
            try:
                return doors.follow(
                    job,
                    scheduler,
                    on_lines=lines.extend,
                    timing=Timing(poll_secs=1, first_wait_secs=1, longest_wait_secs=4),
                    sleep=lambda secs: scheduler.sleep(job, secs),
                    clock=lambda: scheduler.clock,
                )
            except Killed:
                return None

        for _ in range(6):
            result = follow()
            if result is not None and result.name == "done":
                assert (out / MARKER).exists()
                break
        # From here on nothing goes wrong: whatever happened, the job can be brought to its end.
        scheduler.calm = True
        scheduler.ask(job, "run")
        last = follow()
        assert last == State("done", "done")
        assert not scheduler.alive()
        record = read_record(out)
        assert record is not None
        assert len(record.attempts) == len(scheduler.jobs)
        assert lines == [f"start {number}" for number in sorted(scheduler.jobs)]


def test_a_scheduler_that_does_not_answer_for_a_minute_is_not_a_restart(tmp_path, monkeypatch):
    scheduler = Scheduler(tmp_path / "out", iter(["nothing"] * 5 + ["unreachable"] * 60))
    monkeypatch.setitem(launchers.LAUNCHERS, "model", lambda: scheduler)
    told: list[str] = []

    def sleep(secs: float) -> None:
        scheduler.clock += secs
        if scheduler.clock > 120:
            scheduler.calm = True
            scheduler.finish(1)

    job = Job(("train",), tmp_path / "out")
    result = doors.follow(
        job,
        scheduler,
        on_poll=told.append,
        timing=Timing(poll_secs=1, longest_wait_secs=10),
        sleep=sleep,
        clock=lambda: scheduler.clock,
    )
    assert result.name == "done"
    assert list(scheduler.jobs) == [1]
    assert any(line.startswith("not reachable since") for line in told)


def test_what_is_asked_is_written_down_though_the_scheduler_does_not_answer(tmp_path, monkeypatch):
    scheduler = Scheduler(tmp_path / "out", iter(["nothing", "unreachable"]))
    monkeypatch.setitem(launchers.LAUNCHERS, "model", lambda: scheduler)
    job = Job(("train",), tmp_path / "out")
    ask(job, scheduler, "run")
    with pytest.raises(Unreachable):
        ask(job, scheduler, "cancel")
    assert doors.follow(job, scheduler, sleep=lambda secs: None).name == "cancelled"
    assert not scheduler.jobs
