"""One run on 8 devices, on two processes of 4 each, and on 4; killed and told to stop between.

Its checkpoints are evaluated on 8 devices, on two processes of 4 each, and on one device.
"""

import json
import shutil
import signal
import subprocess
from pathlib import Path

import evaluate_child
import numpy as np
import processes
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from processes import end, free_port, on_devices, output_of
from trained_runs import assert_close, lines

from mswitch.models.training.checkpoint import list_complete_steps
from mswitch.pipelines.exit_codes import RESUME

SCRIPT = Path(__file__).parents[2] / "support" / "train_child.py"
#: Seven processes begin, each of which has a program of eight devices to trace.
pytestmark = [pytest.mark.training, pytest.mark.timeout(900)]
STEPS = 12
MESH = ("data_parallel=2", "expert_parallel=2", "model_parallel=2", "batch_size=16")
HALF = ("data_parallel=1", "expert_parallel=2", "model_parallel=2", "batch_size=16")


#: Restores a checkpoint on 8, 4, 2 devices and 1, and prints the bytes' hash each time.
RESTORE = """
import dataclasses, hashlib, json, pathlib, sys
sys.path.insert(0, sys.argv[1])
import jax, numpy, train_child
from mswitch.models.training.checkpoint import Checkpoints
from mswitch.models.partitioning import make_mesh
from mswitch.models.training.state import Skeleton
from mswitch.models.training.optimizer import make_optimizer

run = pathlib.Path(sys.argv[2])
plan = train_child.plan("mswitch-tiny", 12, batch_size=16)
for data, expert, model in ((2, 2, 2), (1, 4, 1), (2, 1, 1), (1, 1, 1)):
    train = dataclasses.replace(
        plan.train, data_parallel=data, expert_parallel=expert, model_parallel=model
    )
    skeleton = Skeleton.build(plan.model, train, make_mesh(train))
    like = skeleton.abstract_state(make_optimizer(train))
    state = Checkpoints(run / "checkpoints", ()).restore(12, like)
    digest, devices = hashlib.sha256(), set()
    for x in jax.tree.leaves(state):
        devices |= x.devices()
        digest.update(numpy.asarray(x).tobytes())
    print(json.dumps([len(devices), digest.hexdigest()]))
"""

#: Process 1 dies; process 0 then calls a program that has run before.
LOSE = """
import json, os, signal, sys
from mswitch.models.config import JobConfig
from mswitch.models.training.distributed import is_first, membership, on_first

with membership(JobConfig(**json.loads(sys.argv[1])), saves_on_sigterm=False):
    assert [on_first(lambda: 5) for _ in range(2)] == [5, 5]
    if not is_first():
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        on_first(lambda: 5)
"""


def start(out: Path, devices: int, *options: str, **variables: str):
    words = (SCRIPT, "mswitch-tiny", out, STEPS, *options)
    return processes.start(*words, devices=devices, **variables)


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    end(start(out, 8, *MESH))
    return out


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """A run on 8 devices that was killed while it saved its first checkpoint but one."""
    out = tmp_path_factory.mktemp("killed") / "run"
    end(start(out, 8, *MESH, MSWITCH_FAULT="train.after_checkpoint"), -9)
    [first] = list_complete_steps(out / "checkpoints")
    end(start(out, 8, *MESH, MSWITCH_FAULT="train.during_checkpoint"), -9)
    assert list_complete_steps(out / "checkpoints") == [first]
    return out


def test_a_run_on_eight_devices_that_was_killed_goes_on_to_the_bit(undisturbed, killed, tmp_path):
    out = shutil.copytree(killed, tmp_path / "run")
    errors = end(start(out, 8, *MESH), 0)
    assert "continuing after step" in errors
    assert lines(out) == lines(undisturbed)


def test_what_eight_devices_saved_is_the_same_on_four_two_and_one(undisturbed):
    printed = output_of("-c", RESTORE, SCRIPT.parent, undisturbed, **on_devices(8))
    devices, digests = zip(*map(json.loads, printed.splitlines()), strict=True)
    assert devices == (8, 4, 2, 1)
    assert len(set(digests)) == 1


def test_two_processes_and_half_the_devices_go_on_with_a_run_of_eight(
    undisturbed, killed, tmp_path
):
    """SIGTERM at one process makes both save the same step; losses are those of 8 devices."""
    out = shutil.copytree(killed, tmp_path / "run")
    [begun] = list_complete_steps(out / "checkpoints")
    job = [f"coordinator_address={free_address()}", "num_processes=2"]
    first = start(out, 4, *MESH, *job, "process_id=0")
    second = start(out, 4, *MESH, *job, "process_id=1", f"terminate_at={begun + 5}")
    errors = end(first, RESUME)
    assert "the same command continues" in errors
    assert "[train]" not in end(second, RESUME)  # process 0 speaks for all
    stopped = list_complete_steps(out / "checkpoints")[-1]
    assert begun < stopped == lines(out)[-1]["step"] < STEPS
    errors = end(start(out, 4, *HALF, "remat=layers"), 0)
    assert "continues with other settings: data_parallel, remat" in errors
    assert json.loads((out / "config.json").read_text())["train"]["data_parallel"] == 1
    assert_close(out, undisturbed, rtol=1e-5, atol=1e-7)


def start_evaluation(runs: list[Path], **config) -> list[subprocess.Popen[str]]:
    """Evaluate in as many processes as there are paths of the run, on 8 devices in all."""
    job = {"coordinator_address": free_address(), "num_processes": len(runs)}
    started = []
    for number, run in enumerate(runs):
        member = {**job, "process_id": number} if len(runs) > 1 else {}
        words = (evaluate_child.__file__, run, json.dumps(config), json.dumps(member))
        started.append(processes.start(*words, devices=8 // len(runs)))
    return started


def evaluation_of(run: Path, out: Path, config: dict, count: int = 1) -> tuple[dict, pa.Table, str]:
    """The last step of a copy of a run, evaluated: losses, routing, and what process 0 said."""
    shutil.copytree(run, out)
    said = [end(process, 0) for process in start_evaluation([out] * count, **config)]
    assert all("[evaluate]" not in errors for errors in said[1:])
    losses = pq.read_table(out / "eval" / f"{STEPS}.parquet").to_pydict()
    return losses, pq.read_table(out / "routing" / f"{STEPS}.parquet"), said[0]


def test_devices_and_processes_evaluate_as_one_device_does(undisturbed, tmp_path):
    alone = {"data_parallel": 1, "dispatch": "queues"}
    wanted, routing, said = evaluation_of(undisturbed, tmp_path / "one", alone)
    assert "2 checkpoints on 1 of 8 x cpu" in said
    for name, config, count, devices in (
        ("as trained", {}, 1, 8),
        ("on half", {"expert_parallel": 4}, 1, 4),
        ("in two processes", {}, 2, 8),
    ):
        made, routed, said = evaluation_of(undisturbed, tmp_path / name, config, count)
        assert f"2 checkpoints on {devices} of 8 x cpu" in said
        np.testing.assert_allclose(made["nats"], wanted["nats"], rtol=1e-5, err_msg=name)
        assert {**made, "nats": wanted["nats"]} == wanted
        assert routed.equals(routing)


def test_what_one_process_cannot_read_is_said_by_all_at_once(undisturbed, tmp_path):
    """As where a file system is mounted on one machine of two."""
    out = shutil.copytree(undisturbed, tmp_path / "run")
    alone = shutil.copytree(undisturbed, tmp_path / "alone")
    shutil.rmtree(alone / "checkpoints")
    for process in start_evaluation([out, alone]):
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1
        message = errors.splitlines()[-1]
        assert message.startswith("mswitch.models.training.distributed.JobError: process 1: ")
        assert message.endswith("restore it from a copy, or train again into another --out")


def test_a_process_that_is_lost_between_two_steps_ends_the_other():
    """There JAX raises an error of another class than in the first step."""
    job = {"coordinator_address": free_address(), "num_processes": 2, "heartbeat_timeout_secs": 10}
    first, lost = (
        processes.start("-c", LOSE, json.dumps({**job, "process_id": number}))
        for number in range(2)
    )
    errors = end(first, RESUME)
    assert "another process may be lost; start again" in errors
    end(lost, -signal.SIGKILL)
