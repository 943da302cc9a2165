"""A training of two processes into a bucket: each saves its own part; members die, and it goes on.

Each process is on a machine of its own, which has no file in common with the other's.
"""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import processes
import pytest
from bucket_runs import SCRIPT, assert_same_runs, copied, has_saved, steps_in
from example_files import write_examples
from processes import end, free_port, wait_for
from trained_runs import lines

from mswitch.models.training.checkpoint import list_complete_steps
from mswitch.pipelines import objects, storage
from mswitch.pipelines.exit_codes import RESUME

#: Who follows a lease notices renewals later than its holder sends them.
LEASE_SECS = 24
PRESET, STEPS = "mswitch-tiny", 7
#: Experts are divided, so that no process has all of the state.
MESH = ("expert_parallel=2",)
#: Of a process that JAX ends because another is lost; `mswitch` makes RESUME of it.
ENDED = (RESUME, -signal.SIGABRT)

Pair = tuple[subprocess.Popen[str], subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path_factory) -> Callable[..., Pair]:
    """Start both processes of a job, on two machines."""

    def begin(out: str | Path, *options: str, steps: int = STEPS, faults: tuple = ("", "")) -> Pair:
        address = f"127.0.0.1:{free_port()}"
        words = (SCRIPT, PRESET, out, steps, f"lease_secs={LEASE_SECS}", *MESH)
        job = (f"coordinator_address={address}", "num_processes=2", "heartbeat_timeout_secs=10")
        one, other = (
            processes.start(
                *(*words, *job, f"process_id={number}", *options),
                JAX_PLATFORMS="cpu",
                TMPDIR=str(tmp_path_factory.mktemp("machine")),
                MSWITCH_FAULT=fault,
            )
            for number, fault in enumerate(faults)
        )
        return one, other

    return begin


def end_both(members: Pair, *codes: tuple[int, ...]) -> list[str]:
    said = [process.communicate(timeout=300)[1] for process in members]
    found = [process.returncode for process in members]
    right = all(code in wanted for code, wanted in zip(found, codes, strict=True))
    assert right, "\n".join([str(found), *said])
    return said


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    """The same run by one process on a disk, which nothing happens to."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    end(processes.start(SCRIPT, PRESET, out, STEPS, *MESH, devices=2))
    return out


@pytest.mark.kill
@pytest.mark.timeout(900)
def test_members_are_killed_anywhere_and_the_run_is_the_undisturbed_one(
    bucket, start, undisturbed, tmp_path
):
    run, lost, killed = f"{bucket}/run", ENDED, (-signal.SIGKILL,)
    cases = [
        (("", "train.during_checkpoint"), (lost, killed)),
        (("train.during_upload", ""), (killed, lost)),
        (("", "train.during_upload"), (lost, killed)),
        # The second one to be killed may have learnt of the first by then.
        (("train.during_upload", "train.during_upload"), ((*killed, *lost),) * 2),
        (("train.after_metrics", "train.after_checkpoint"), (killed, (*killed, *lost))),
        (("train.before_marker", ""), (killed, lost)),
    ]
    for number, (faults, codes) in enumerate(cases):
        end_both(start(run, faults=faults), *codes)
        assert not storage.exists(f"{run}/_COMPLETED")
        complete = list_complete_steps(copied(run, tmp_path / str(number)) / "checkpoints")
        if "train.during_upload" in faults:
            assert steps_in(run).keys() - set(complete)
        if complete:
            assert len(lines(tmp_path / str(number))) >= complete[-1]
    said, _ = end_both(start(run), (0,), (0,))
    assert f"continuing after step {STEPS}, from {run}/checkpoints/{STEPS}" in said
    made = copied(run, tmp_path / "made")
    assert_same_runs(made, undisturbed, STEPS)
    kept = {path.name for path in (undisturbed / "checkpoints").iterdir()}
    assert {path.name for path in (made / "checkpoints").iterdir()} == kept


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sigterm_saves_all_parts_and_a_lost_lease_stops_all_members(bucket, start, tmp_path):
    run = f"{bucket}/run"
    members = start(run, steps=5000)
    wait_for(has_saved(run, *members), 200)
    second = processes.start(SCRIPT, PRESET, run, 5000, f"lease_secs={LEASE_SECS}")
    assert f"in use by another run (process {members[0].pid} on " in end(second, 2)
    members[1].terminate()
    said, _ = end_both(members, (RESUME,), (RESUME,))
    saved = max(steps_in(run))
    assert f"stopped after step {saved:,}" in said
    assert list_complete_steps(copied(run, tmp_path / "stopped") / "checkpoints")[-1] == saved
    assert json.loads(storage.read_bytes(f"{run}/_LEASE.json"))["holder"] == ""

    members = start(run, steps=5000)
    wait_for(has_saved(run, *members, after=saved), 200)
    lease = f"{run}/_LEASE.json"
    while True:
        found = objects.read_version(lease)
        assert found is not None
        try:
            objects.replace_version(lease, b'{"holder": "another", "renewal": "1"}', found[1])
            break
        except objects.ChangedError:
            continue
    said = end_both(members, ENDED, ENDED)
    assert any("the same command continues" in errors for errors in said)
    left = copied(run, tmp_path / "left")
    assert json.loads((left / "_LEASE.json").read_bytes())["holder"] == "another"


def command(*words: str) -> Pair:
    """A command of `mswitch` as two processes."""
    job = ["--coordinator-address", f"127.0.0.1:{free_port()}", "--num-processes", "2"]
    one, other = (
        processes.start_mswitch(*words, *job, "--process-id", number, JAX_PLATFORMS="cpu")
        for number in range(2)
    )
    return one, other


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_train_tune_and_evaluate_in_a_bucket(bucket, tmp_path):
    examples = write_examples(tmp_path / "examples", {"de": [40]}, 16, 512, 9)
    common = ["--batch-size", "4", "--data-parallel", "2", "--dtype", "float32"]
    found = []
    for place in (bucket, str(tmp_path)):
        train = ["train", "--preset", "mt5-tiny", "--examples", str(examples), "--steps", "2"]
        end_both(command(*train, *common, "--out", f"{place}/run"), (0,), (0,))
        tune = ["finetune", "--from", f"{place}/run", "--tasks", str(examples), "--steps", "1"]
        end_both(command(*tune, *common, "--out", f"{place}/tuned"), (0,), (0,))
        evaluation = ["evaluate", "--run", f"{place}/tuned", "--examples", str(examples)]
        end_both(command(*evaluation, "--data-parallel", "2"), (0,), (0,))
        found.append(storage.read_bytes(f"{place}/tuned/eval/1.parquet"))
    assert found[0] == found[1]
    assert storage.list_names(f"{bucket}/tuned/eval") == {"1.parquet", "_LEASE.json"}


@pytest.mark.slow
def test_what_one_member_cannot_reach_is_said_by_both(bucket, start):
    run = "gs://mswitch-nowhere/run"
    for errors in end_both(start(run), (2,), (2,)):
        assert "cannot list gs://mswitch-nowhere/run" in errors
