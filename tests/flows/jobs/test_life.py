"""One life of a job: pure functions, over all combinations of record, process and marker."""

import dataclasses
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mswitch.flows.jobs.job import Job, Status
from mswitch.flows.jobs.life import (
    FINAL,
    PREEMPTIONS,
    STALLED,
    State,
    Timing,
    classify,
    compute_next_start,
    decide_state,
)
from mswitch.flows.jobs.local import Local
from mswitch.flows.jobs.record import Attempt, Record, prepare_record
from mswitch.flows.jobs.slurm import Slurm, _Entry

START = "2100-01-01T00:00:00"


@pytest.mark.parametrize(
    ("codes", "reason", "marker", "outcome"),
    [
        ([0], "", True, "done"),
        ([137], "NODE_FAIL", True, "done"),
        ([2, 75], "", True, "done"),
        ([0], "", None, "done"),
        ([0, 0], "COMPLETED", None, "done"),
        ([0], "", False, "failed"),
        ([2], "", False, "refused"),
        ([75, 2], "PREEMPTED", False, "refused"),
        ([75], "", False, "resume"),
        ([0, 75], "", False, "resume"),
        ([134], "", False, "resume"),
        ([137, 75], "FAILED", False, "resume"),
        ([143], "TIMEOUT", False, "resume"),
        ([130], "", False, "resume"),
        ([], "", False, "resume"),
        ([], "", None, "resume"),
        ([], "NODE_FAIL", False, "resume"),
        ([], "PREEMPTED", None, "resume"),
        ([137], "DisruptionTarget", False, "resume"),
        ([1], "NODE_FAIL", False, "resume"),
        ([1], "", False, "failed"),
        ([1, 75], "FAILED", False, "failed"),
        ([137], "OUT_OF_MEMORY", False, "failed"),
        ([137], "OOMKilled", None, "failed"),
        ([143], "CANCELLED by 0", False, "cancelled"),
        ([], "CANCELLED", False, "cancelled"),
    ],
)
def test_what_an_end_means(codes, reason, marker, outcome):
    assert classify(codes, reason, marker)[0] == outcome


@pytest.mark.parametrize(
    ("codes", "line"),
    [
        ([137], "killed (signal 9)"),
        ([137, 137, 143], "killed (signal 9, signal 15)"),
        ([75, 137, 0], "interrupted (code 75, signal 9)"),
        ([1, 75, 75], "failed (code 1, code 75)"),
    ],
)
def test_an_end_is_told_in_words(codes, line):
    assert classify(codes, "", False)[1] == line


def test_no_order_of_the_codes_matters():
    for codes in itertools.combinations_with_replacement([0, 1, 2, 75, 137], 3):
        found = {classify(some, "", False)[0] for some in itertools.permutations(codes)}
        assert len(found) == 1


def test_a_lack_of_memory_comes_with_advice():
    assert "--microbatches" in classify([137], "OUT_OF_MEMORY", False)[1]


def record_of(ends, *, counted_after=0, alive=False, intent="run", marked=True, had_marker=False):
    """A record of attempts that ended so, with what they made; then perhaps one to judge."""
    attempts = [
        Attempt(n, 0.0, 0, ended=1.0, outcome=outcome, message=f"end {n}", made=made)
        for n, (outcome, made) in enumerate(ends, 1)
    ]
    attempts += [Attempt(len(ends) + 1, 0.0, 0)] if alive else []
    for attempt in attempts:
        attempt.had_marker = had_marker
    job = Job(("x",), Path("/nowhere/out"), marked=marked)
    after = min(counted_after, len(attempts))
    return Record(job, {}, intent=intent, attempts=attempts, counted_after=after)


def test_budgets():
    def state(ends, **changes):
        return decide_state(record_of(ends, **changes), None, False)

    assert state([("resume", 1)] * 100) == State("waiting", "end 100")
    spent = "interrupted 101 times, more than its budget: end 101"
    assert state([("resume", 1)] * 101) == State("failed", spent)
    assert state([("resume", 1)] * 101, counted_after=1).name == "waiting"
    assert state([("resume", 0)] * 3).name == "waiting"
    stalled = "started again 3 times in a row without progress: end 4"
    assert state([("resume", 0)] * 4) == State("failed", stalled)
    assert state([("resume", 0), ("resume", 0), ("resume", 1), ("resume", 0)]).name == "waiting"
    assert state([("resume", 1), ("failed", 1)]) == State("failed", "end 2")


ENDS = st.lists(
    st.tuples(
        st.sampled_from(["done", "resume", "resume", "refused", "cancelled", "failed"]),
        st.integers(0, 2),
    ),
    max_size=8,
)
RECORDS = st.builds(
    record_of,
    ENDS,
    counted_after=st.integers(0, 9),
    alive=st.booleans(),
    intent=st.sampled_from(["run", "pause", "cancel"]),
    marked=st.booleans(),
    had_marker=st.booleans(),
)
STATUSES = (None, Status("pending"), Status("running", where="here"), Status("ended", codes=(0,)))
MARKERS = (None, False, True)


@given(record=RECORDS)
def test_each_record_is_in_one_state_whatever_is_known_of_process_and_marker(record):
    before = record.as_json()
    for status, marker in itertools.product(STATUSES, MARKERS):
        name = decide_state(record, status, marker).name
        lives = record.alive is not None and status is not None and status.phase != "ended"
        unknown = marker is None if record.alive is None else status is None
        assert (name in ("pending", "running")) == lives
        assert name != "ended" or (record.alive is not None and status is not None)
        assert name != "waiting" or (record.alive is None and record.intent == "run")
        assert name != "unreachable" or unknown
        assert name != "done" or marker or not record.job.marked
        if name in FINAL and name != "done":
            assert record.alive is None
    assert record.as_json() == before


@given(record=RECORDS, marker=st.booleans())
def test_only_asking_anew_or_a_newer_marker_leads_out_of_a_final_state(record, marker):
    state = decide_state(record, None, marker)
    if state.name not in FINAL:
        return
    if record.alive is None:
        assert {decide_state(record, status, marker) for status in STATUSES} == {state}
    if not marker:
        assert decide_state(record, None, True).name in (state.name, "done")
    if state.name in ("paused", "cancelled") and record.intent != "run":
        other = {"pause": "cancel", "cancel": "pause"}[record.intent]
        ended = decide_state(dataclasses.replace(record, intent=other), None, marker).name
        assert ended == {"pause": "paused", "cancel": "cancelled"}[other]
    anew = dataclasses.replace(record, intent="run", counted_after=len(record.attempts))
    assert record.alive is not None or decide_state(anew, None, marker).name in ("waiting", "done")


@given(ends=st.lists(st.integers(0, 1), max_size=PREEMPTIONS + 9), asked=st.integers(0, 50))
def test_no_sequence_of_interruptions_exceeds_a_budget(ends, asked):
    """Each attempt starts only in state waiting; it starts later the longer nothing was made."""
    record = record_of([])
    record.counted_after = 0
    for number, made in enumerate(ends, 1):
        if number == asked:
            record.counted_after = len(record.attempts)
        if decide_state(record, None, False).name != "waiting":
            break
        wait = compute_next_start(record, Timing()) - 1.0
        assert wait < 0 or wait in (10, 20, 40)  # as docs/how-to/jobs.md says
        record.attempts.append(Attempt(number, 0.0, 0, ended=1.0, outcome="resume", made=made))
    counted = [attempt.made for attempt in record.attempts[record.counted_after :]]
    assert len(counted) <= PREEMPTIONS + 1
    in_a_row = [len([*run]) for made, run in itertools.groupby(counted) if not made]
    assert max(in_a_row, default=0) <= STALLED + 1


@given(
    codes=st.lists(st.sampled_from([0, 1, 2, 75, 127, 130, 134, 137, 143]), max_size=4),
    reason=st.sampled_from(["", "NODE_FAIL", "CANCELLED by 0", "OUT_OF_MEMORY", "FAILED"]),
    marker=st.sampled_from(MARKERS),
)
def test_an_end_is_one_outcome_and_only_a_marker_or_code_0_is_done(codes, reason, marker):
    outcome, line = classify(codes, reason, marker)
    assert line
    if outcome == "done":
        assert marker or (marker is None and codes and not any(codes))
    if outcome == "resume":
        assert not marker
        assert 2 not in codes
    if not marker and not reason and {1, 127} & {*codes} and 2 not in codes:
        assert outcome == "failed"


def test_a_job_that_waits_in_slurm_has_not_started(monkeypatch, tmp_path):
    """Its queue tells when it expects to start one."""
    job = Job(("x",), tmp_path / "out")
    states = iter(["PENDING", "RUNNING"])
    monkeypatch.setattr(
        Slurm,
        "_read_queue",
        lambda self: [_Entry("1", next(states), "None", "", START, job.name(1))],
    )
    statuses = [Slurm().poll(job, 1) for _ in range(2)]
    assert [(one.phase, one.started is None) for one in statuses] == [
        ("pending", True), ("running", False),
    ]  # fmt: skip


def test_hours_are_never_less_than_none(tmp_path):
    attempts = [Attempt(1, 0, 0, started=7200, ended=3600), Attempt(2, 0, 0, started=0.5)]
    record = Record(Job(("x",), tmp_path / "out", hosts=2), {}, attempts=attempts)
    assert record.host_hours(until=3600.5) == 2


def test_attempts_keep_their_hosts_if_the_job_is_submitted_with_others(tmp_path, monkeypatch):
    monkeypatch.setattr(Local, "find", lambda self, job: [1])
    job = Job(("x",), tmp_path / "out", hosts=8)
    record = prepare_record(job, Local(), Record(job, Local().profile))
    first = record.attempts[0]
    first.started, first.ended, first.outcome = 1.0, 1.0 + 10 * 3600, "resume"
    record = prepare_record(dataclasses.replace(job, hosts=2), Local(), record)
    assert record.job.hosts == 2
    assert record.host_hours(until=0.0) == 80
