"""`mswitch train` and `evaluate` as two processes, as a person or a cluster would start them."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import end, free_port, has_steps, start_mswitch, wait_for

from mswitch.pipelines.errors import UserError
from mswitch.pipelines.exit_codes import RESUME

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> Path:
    import example_files

    return example_files.write_examples(
        tmp_path_factory.mktemp("job") / "examples", {"de": [40]}, 16, 512, 9
    )


@pytest.fixture
def port() -> int:
    return free_port()


def start(number: int, port: int, examples: Path, out: Path) -> subprocess.Popen[str]:
    run = [*training(examples, out), "--steps", "100000", "--data-parallel", "2"]
    return start_mswitch(*run, *member(number, port), JAX_PLATFORMS="cpu")


def training(examples: Path, out: Path) -> list[str]:
    run = ["train", "--preset", "mt5-tiny", "--examples", str(examples), "--out", str(out)]
    return [*run, "--batch-size", "4"]


def member(number: int, port: int) -> list[str]:
    job = ["--coordinator-address", f"127.0.0.1:{port}", "--num-processes", "2"]
    return [*job, "--process-id", str(number), "--heartbeat-timeout-secs", "10"]


def test_a_lost_process_ends_the_others_and_asks_for_the_job_to_be_resumed(
    tmp_path, examples, port
):
    out = tmp_path / "run"
    first, second = (start(number, port, examples, out) for number in range(2))
    wait_for(has_steps(out / "metrics.jsonl", first, second), 200)
    second.kill()
    second.communicate()
    assert "another process" in end(first, RESUME).splitlines()[-1]
    assert not (out / "_COMPLETED").exists()


def test_what_is_wrong_for_one_process_is_said_by_all(tmp_path, examples, port):
    nowhere = tmp_path / "nowhere"
    first = start(0, port, examples, tmp_path / "run")
    second = start(1, port, nowhere, tmp_path / "run")
    for process in (first, second):
        assert f"process 1: {nowhere} does not exist" in end(process, 2)
    assert not (tmp_path / "run").exists()


def test_a_port_that_is_in_use_is_named(tmp_path, examples):
    with socket.create_server(("", 0)) as taken:
        process = start(0, taken.getsockname()[1], examples, tmp_path / "run")
        assert "process 0 cannot use that port" in end(process, 2)


def test_sigterm_while_a_job_is_joined_asks_for_it_to_be_resumed(tmp_path, examples):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = start(1, silent.getsockname()[1], examples, tmp_path / "run")
        silent.settimeout(200)
        connection, _ = silent.accept()
        with connection:
            process.terminate()
            errors = end(process, RESUME)
    assert errors.splitlines()[-1].startswith("[train] ended by SIGTERM at once: start the same")


def test_two_processes_evaluate_a_run_and_a_lost_one_ends_the_other(tmp_path, examples, port):
    out = tmp_path / "run"
    end(start_mswitch(*training(examples, out), "--steps", "2", "--evaluations", "2"))
    command = ["evaluate", "--run", str(out), "--examples", str(examples), "--data-parallel", "2"]
    first, lost = (start_mswitch(*command, *member(number, port)) for number in range(2))
    while not (out / "eval").exists():
        assert first.poll() is None
        time.sleep(0.05)
    lost.kill()
    lost.communicate()
    assert "another process" in end(first, RESUME).splitlines()[-1]
    for process in [start_mswitch(*command, *member(number, port)) for number in range(2)]:
        end(process)
    assert {path.name for path in (out / "eval").glob("*.parquet")} == {"1.parquet", "2.parquet"}


def test_half_a_description_of_a_job_is_refused():
    from mswitch.models.config import JobConfig

    with pytest.raises(UserError, match="--num-processes and --process-id need"):
        JobConfig(num_processes=2)
    with pytest.raises(UserError, match="--coordinator-address machine is not HOST:PORT"):
        JobConfig(coordinator_address="machine")
    assert JobConfig(distributed=True).shared
    assert not JobConfig().shared


FULL_DISK = """
mount -t tmpfs -o size=2m tmpfs "$1" || exit 77
disk="$1"; shift
"$@"
echo "exit code $?" >&2
mount -o remount,size=500m "$disk"
"$@"
"""


def test_a_disk_that_is_full_when_saving_is_one_line_and_with_room_the_run_goes_on(
    tmp_path, examples
):
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare to mount a small disk")
    run = [*training(examples, tmp_path / "disk" / "run"), "--steps", "3"]
    (tmp_path / "disk").mkdir()
    command = ["sh", "-c", FULL_DISK, "sh", str(tmp_path / "disk"), sys.executable, "-m"]
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", *command, "mswitch.flows.cli.main", *run],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "exit code" not in done.stderr:
        pytest.skip(f"this kernel lets no user mount a small disk: {done.stderr.strip()}")
    full, resumed = done.stderr.split("exit code 2\n")
    said = r"mswitch: no space left on the disk of \S+/checkpoints \(\S+/disk, \d of 2 MiB free\): "
    said += r"free \d+ MiB, and give the same command again, or Retry its flow run; it continues"
    assert re.fullmatch(said, full.splitlines()[-1])
    assert "Traceback" not in full
    assert done.returncode == 0, resumed
    assert "complete: step 3" in resumed
