import itertools

import pytest

from mswitch.flows.jobs.job import Job
from mswitch.flows.jobs.outcomes import classify, exhausted, stalled
from mswitch.flows.jobs.record import Attempt, Record
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


def test_budgets():
    assert exhausted([("resume", 1)] * 100) is None
    assert exhausted([("resume", 1)] * 101) == (
        "interrupted 101 times, which is more than its budget"
    )
    assert exhausted([("resume", 0)] * 3) is None
    assert "3 times in a row" in (exhausted([("resume", 0)] * 4) or "")
    assert exhausted([("resume", 0), ("resume", 0), ("resume", 1), ("resume", 0)]) is None
    assert exhausted([("resume", 1), ("failed", 1)]) == "failed"
    assert stalled([("resume", 0), ("done", 0), ("resume", 0)]) == 1


def test_a_job_that_waits_in_slurm_has_not_started(monkeypatch, tmp_path):
    """Its queue tells when it expects to start one."""
    job = Job(("x",), tmp_path / "out")
    states = iter(["PENDING", "RUNNING"])
    monkeypatch.setattr(
        Slurm, "_queue", lambda self: [_Entry("1", next(states), "None", "", START, job.name(1))]
    )
    statuses = [Slurm().poll(job, 1) for _ in range(2)]
    assert [(one.phase, one.started is None) for one in statuses] == [
        ("pending", True), ("running", False),
    ]  # fmt: skip


def test_hours_are_never_less_than_none(tmp_path):
    attempts = [Attempt(1, 0, 0, started=7200, ended=3600), Attempt(2, 0, 0, started=0.5)]
    record = Record(Job(("x",), tmp_path / "out", hosts=2), {}, attempts=attempts)
    assert record.host_hours(until=3600.5) == 2
