"""Builds on Dataflow as jobs: a death here leaves Dataflow's job alone, a person ends it."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dataflow_builds import IN_IMAGE, PHASES, phases_of
from processes import is_alive, wait_for
from trees import data_bytes

from mswitch.flows.cli.main import main
from mswitch.flows.jobs.record import read_record
from mswitch.pipelines import storage

pytestmark = [pytest.mark.dataflow, pytest.mark.timeout(600)]


class Build:
    """A build that is a job of `mswitch jobs`, and the peer that it is sent to."""

    def __init__(self, words: list[str], place: Path, peer: Any, url: str):
        self.words, self.path, self.peer, self.url = words, place, peer, url
        self._first = len(peer.jobs)

    @property
    def jobs(self) -> list[Any]:
        """Those that Dataflow has got for it."""
        return self.peer.jobs[self._first :]

    def submit(self) -> None:
        assert main(["jobs", "submit", f"--record={self.path}", "--", *self.words]) == 0
        wait_for(lambda: self.jobs, 120)

    def host(self) -> int:
        """The process that leads the group of the living attempt."""
        record = read_record(self.path)
        lock = record.job.file(record.alive.number, ".lock")
        return json.loads(lock.read_bytes())["pid"]

    def kill(self) -> None:
        os.killpg(self.host(), signal.SIGKILL)

    def kill_follower(self) -> None:
        found = subprocess.run(
            ["pgrep", "-f", f"jobs adopt {self.path}"], capture_output=True, text=True, check=True
        )
        follower = int(found.stdout)
        os.kill(follower, signal.SIGKILL)
        # On a busy machine it lives on for a moment, and with it the lock by which it follows.
        wait_for(lambda: not is_alive(follower))

    def log(self) -> str:
        record = read_record(self.path)
        return "".join(record.job.file(one.number, ".log").read_text() for one in record.attempts)

    def shown(self, capfd: Any) -> dict[str, Any]:
        capfd.readouterr()
        assert main(["jobs", "show", str(self.path), "--json"]) == 0
        return json.loads(capfd.readouterr().out)


@pytest.fixture
def build(command: Callable[..., list[str]], peer: Any, bucket: str, tmp_path: Path, waiting):
    words = command(IN_IMAGE)[3:]
    made = Build(words, tmp_path / "jobs" / "corpus", peer, f"{bucket}/corpus")
    waiting("-ingest-")
    yield made
    record = read_record(made.path)
    if record is not None and record.alive is not None:
        main(["jobs", "cancel", str(made.path)])


def test_the_job_of_a_build_that_is_killed_is_found_and_waited_for(
    build, waiting, local_data, capfd
):
    build.submit()
    build.kill_follower()
    build.kill()
    assert not storage.exists(f"{build.url}/_COMPLETED")
    assert main(["jobs", "adopt", str(build.path)]) == 0
    wait_for(lambda: "of this build is already running" in build.log(), 120)
    [job] = build.jobs
    assert not job.finished.is_set()
    waiting("-ingest-").set()
    assert main(["jobs", "adopt", "--wait", str(build.path)]) == 0
    assert phases_of(build.jobs) == [*PHASES]
    shown = build.shown(capfd)
    assert (shown["state"], shown["out"]) == ("done", build.url)
    assert [one["outcome"] for one in shown["record"]["attempts"]] == ["resume", "done"]
    assert storage.exists(f"{build.url}/_COMPLETED")
    assert data_bytes(f"{build.url}/data") == local_data


@pytest.mark.parametrize("intent", ["pause", "cancel"])
def test_what_a_person_ends_ends_on_dataflow_too_and_goes_on_when_asked(
    intent, build, waiting, local_data, capfd
):
    build.submit()
    host, [job] = build.host(), build.jobs
    assert main(["jobs", intent, str(build.path)]) == 0
    assert job.state == "JOB_STATE_CANCELLED"
    assert not is_alive(host)
    ended = {"pause": "paused", "cancel": "cancelled"}[intent]
    assert build.shown(capfd)["state"] == ended
    waiting("-ingest-").set()
    assert main(["jobs", "resume", "--wait", str(build.path)]) == 0
    assert len(build.jobs) == 1 + len(PHASES)
    assert build.shown(capfd)["state"] == "done"
    assert data_bytes(f"{build.url}/data") == local_data


def test_a_build_is_cancelled_though_nothing_of_it_lives_here(build, capfd):
    build.submit()
    build.kill_follower()
    build.kill()
    [job] = build.jobs
    assert job.state == "JOB_STATE_RUNNING"
    assert main(["jobs", "cancel", str(build.path)]) == 0
    assert job.state == "JOB_STATE_CANCELLED"
    assert build.shown(capfd)["state"] == "cancelled"


def test_a_build_that_was_refused_is_cancelled_at_once(build, capfd):
    build.words = [word for word in build.words if not word.startswith("--region")]
    words = ["jobs", "submit", "--wait", f"--record={build.path}", "--", *build.words]
    assert main(words) == 2
    assert "runner dataflow needs, after --, --region" in capfd.readouterr().out
    assert main(["jobs", "cancel", str(build.path)]) == 0
    assert build.shown(capfd)["state"] == "cancelled"
