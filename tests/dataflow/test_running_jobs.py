"""A job on Dataflow outlives its command, which finds it again, leaves it alone, or cancels it."""

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dataflow_builds import IN_IMAGE, PHASES, ROOT, RULES, beam_options, phases_of, refusal
from example_files import vocabulary
from processes import run_mswitch, start_mswitch, wait_for
from supervised_files import json_lines, rows, write_task
from trees import data_bytes, send

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.stats import load_stats

pytestmark = pytest.mark.dataflow


@pytest.fixture
def orphan(
    command: Callable[..., list[str]], peer: Any, waiting: Callable[[str], threading.Event]
) -> Callable[[str], Any]:
    """Give a function that leaves the waiting job of a phase, whose command was killed."""

    def leave(phase: str) -> Any:
        waiting(f"-{phase}-")
        before = len(peer.jobs)
        process = subprocess.Popen(command(IN_IMAGE), cwd=ROOT)
        started = f"mswitch-corpus-{phase}-"
        wait_for(lambda: any(started in job.spec["name"] for job in peer.jobs[before:]), 120)
        process.kill()
        process.wait()
        return peer.jobs[-1]

    return leave


@pytest.fixture
def again(
    command: Callable[..., list[str]], tmp_path: Path
) -> Iterator[Callable[[], tuple[subprocess.Popen[bytes], Path]]]:
    """Give a function that starts the command, up to where it waits for a job that was there."""
    started = []

    def start() -> tuple[subprocess.Popen[bytes], Path]:
        said = tmp_path / "said.txt"
        with open(said, "wb") as file:
            started.append(subprocess.Popen(command(IN_IMAGE), cwd=ROOT, stderr=file))
        wait_for(lambda: "of this build is already running" in said.read_text())
        return started[-1], said

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("phase", ["ingest", "finish"])
def test_a_killed_command_finds_its_job(phase, orphan, again, waiting, peer, bucket, local_data):
    before = len(peer.jobs)
    job = orphan(phase)
    process, said = again()
    assert not job.finished.is_set()
    waiting(f"-{phase}-").set()
    assert process.wait() == 0, said.read_text()
    assert phases_of(peer.jobs[before:]) == [*PHASES]
    assert data_bytes(f"{bucket}/corpus/data") == local_data
    # The counters of the job that was found are among these.
    shuffled = load_stats(f"{bucket}/corpus")["shuffled_bytes"]
    assert shuffled == {"url_dedup": 27 * 40 + 4, "line_dedup": 81 * 24 + 11}


@pytest.mark.parametrize("conflict", [True, False])
def test_a_job_that_shows_up_at_submission_is_waited_for_and_fails_as_its_own(
    conflict, orphan, again, waiting, peer, monkeypatch
):
    peer.worker_environment["-ingest-"] = {"MSWITCH_FAULT": "corpus.after_ingest"}
    orphan("ingest")
    before = len(peer.jobs)
    peer.unlisted = 1
    monkeypatch.setattr(peer, "answers_conflict", conflict)
    process, said = again()
    waiting("-ingest-").set()
    assert process.wait() == 2
    assert "the worker ended with exit code -9" in said.read_text()
    assert len(peer.jobs) == before


def test_a_job_of_another_build_is_left_alone(orphan, build, peer, bucket):
    job = orphan("ingest")
    storage.remove_tree(f"{bucket}/corpus")
    line = refusal(build(IN_IMAGE, settings=RULES[1:]))
    assert job.spec["name"] in line
    assert f"/dataflow/jobs/europe-west4/{job.spec['id']}?project=test-project" in line
    assert job.state == "JOB_STATE_RUNNING"


def test_a_job_is_cancelled(orphan, again, build, peer):
    job = orphan("ingest")
    process, said = again()
    other = f"{job.spec['name'][:-8]}00000000"
    peer.submit(json.dumps({**job.spec, "name": other, "clientRequestId": "2"}).encode())
    cancelled = build(rules=("--cancel",))
    assert cancelled.returncode == 0, cancelled.stderr
    assert f"{job.spec['name']} cancelled" in cancelled.stdout
    assert job.state == "JOB_STATE_CANCELLED"
    assert peer.jobs[-1].state == "JOB_STATE_RUNNING"
    assert process.wait() == 2
    assert f"job {job.spec['name']} was cancelled" in said.read_text()
    assert "Traceback" not in said.read_text()
    assert "no job runs" in build(rules=("--cancel",)).stdout


def test_the_job_of_supervised_examples_is_cancelled(peer, bucket, waiting, tmp_path):
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "rows.jsonl").write_bytes(json_lines(rows(100)))
    write_task(folder, '"rows.jsonl"\nsplit = "hash"')
    (tmp_path / "sentencepiece.model").write_bytes(vocabulary(1000))
    words = [
        *("examples", "supervised", "--runner=dataflow"),
        f"--task={send(folder, f'{bucket}/task')}/task.toml",
        *(f"--vocab={tmp_path}/sentencepiece.model", f"--out={bucket}/reviews"),
    ]
    options = ["--", *beam_options(peer, bucket, IN_IMAGE)]
    waiting("-rows-")
    before = len(peer.jobs)
    process = start_mswitch(*words, *options)
    wait_for(lambda: len(peer.jobs) > before, 120)
    process.kill()
    process.communicate()
    [job] = peer.jobs[before:]
    cancelled = run_mswitch(*words, "--cancel", *options)
    assert cancelled.returncode == 0, cancelled.stderr
    assert f"{job.spec['name']} cancelled" in cancelled.stdout
    assert job.state == "JOB_STATE_CANCELLED"
