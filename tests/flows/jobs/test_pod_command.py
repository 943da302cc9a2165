"""The process of a pod, without a cluster."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mswitch.flows.jobs.host import read_code


@pytest.fixture
def start(tmp_path):
    prefix = tmp_path / "mswitch-key-1"

    def start(code: str, prefix=prefix, program=sys.executable):
        words = (
            "-m",
            "mswitch.flows.jobs.pod_command",
            str(prefix),
            str(program),
            "-u",
            "-c",
            code,
        )
        return subprocess.Popen(
            [sys.executable, *words],
            env={**os.environ, "JOB_COMPLETION_INDEX": "3"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


def test_a_pod_leaves_its_log_and_code_and_says_the_same_itself(start, tmp_path):
    log, code = (tmp_path / f"mswitch-key-1.task3{end}" for end in (".log", ""))
    for times in (1, 2):
        pod = start("import sys; print('out'); print('err', file=sys.stderr); sys.exit(75)")
        assert pod.communicate(timeout=60)[0] == "out\nerr\n"
        assert pod.returncode == 75
        assert read_code(code)["code"] == 75
        assert log.read_text() == "out\nerr\n" * times


def test_a_pod_passes_sigterm_on_and_its_code_of_an_earlier_start_is_gone(start, tmp_path):
    code = tmp_path / "mswitch-key-1.task3"
    code.write_text("{}")
    pod = start(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('saved') or 75))\n"
        "print('ready')\n"
        "time.sleep(60)"
    )
    assert pod.stdout.readline() == "ready\n"
    assert not code.exists()
    pod.terminate()
    assert pod.communicate(timeout=60)[0] == "saved\n"
    assert (pod.returncode, read_code(code)["code"]) == (75, 75)


@pytest.mark.slow
def test_what_a_command_leaves_running_does_not_keep_its_code_back(start, tmp_path):
    pod = start(
        f"import subprocess; subprocess.Popen([{sys.executable!r}, '-c', "
        "'import time; time.sleep(40)'])"
    )
    started = time.monotonic()
    assert pod.wait(timeout=30) == 0
    assert time.monotonic() - started < 30
    assert read_code(tmp_path / "mswitch-key-1.task3")["code"] == 0
    os.killpg(pod.pid, signal.SIGKILL)


def test_a_command_that_cannot_start_leaves_log_and_code(start, tmp_path):
    pod = start("", program=tmp_path / "nowhere")
    said = pod.communicate(timeout=60)[0]
    assert said.startswith("mswitch: cannot start the command: [Errno 2] No such file")
    assert (tmp_path / "mswitch-key-1.task3.log").read_text() == said
    assert (pod.returncode, read_code(tmp_path / "mswitch-key-1.task3")["code"]) == (127, 127)


def test_a_pod_without_its_volume_refuses(start, tmp_path):
    pod = start("print('never')", prefix=tmp_path / "nowhere" / "mswitch-key-1")
    said = pod.communicate(timeout=60)[0]
    assert pod.returncode == 2
    assert said.startswith(f"mswitch: {tmp_path}/nowhere does not exist: mount the volume")
