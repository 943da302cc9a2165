import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.local_pool import PRELOAD, call, local_pool

CHILD = """
import os, pathlib, sys, time
from pipelines.local_pool import call, local_pool
if __name__ == "__main__":
    with local_pool(2):
        pathlib.Path(sys.argv[1]).write_text(str(call(os.getpid)))
        time.sleep(60)
"""


def test_work_is_done_by_processes():
    assert call(os.getpid) == os.getpid()
    with local_pool(2):
        assert call(os.getpid) != os.getpid()
        assert call(divmod, 7, 2) == (3, 1)
        with local_pool(2):
            assert call(os.getpid) != os.getpid()
    assert call(os.getpid) == os.getpid()


def test_one_worker_needs_no_process():
    with local_pool(1):
        assert call(os.getpid) == os.getpid()


def test_workers_have_the_environment_of_their_pool(monkeypatch: pytest.MonkeyPatch):
    for value in ("one", "two"):
        monkeypatch.setenv("MSWITCH_TEST", value)
        with local_pool(2):
            assert call(os.getenv, "MSWITCH_TEST") == value


@pytest.mark.parametrize(("seconds", "stays"), [(3600.0, True), (-1.0, False)])
def test_a_next_job_has_new_workers_once_they_are_old(
    monkeypatch: pytest.MonkeyPatch, seconds: float, stays: bool
):
    monkeypatch.setattr("pipelines.local_pool._RENEW_SECS", seconds)
    with local_pool(2):
        before = {call(os.getpid) for _ in range(20)}
        with local_pool(1):
            after = {call(os.getpid) for _ in range(20)}
            assert os.getpid() not in after
        assert bool(before & after) == stays


def test_errors_come_back():
    with local_pool(2), pytest.raises(ZeroDivisionError):
        call(divmod, 1, 0)


def test_a_killed_worker_is_an_error_that_says_what_to_do():
    with local_pool(2), pytest.raises(RuntimeError, match="run the same command again"):
        call(os.kill, call(os.getpid), signal.SIGKILL)


def test_workers_end_with_a_killed_parent(tmp_path: Path):
    script, noted = tmp_path / "child.py", tmp_path / "pid"
    script.write_text(CHILD)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, str(script), str(noted)], env=environment)
    deadline = time.monotonic() + 60
    while not noted.exists() or not noted.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    worker = int(noted.read_text())
    parent.kill()
    parent.wait()
    while Path(f"/proc/{worker}/stat").exists() and is_alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_workers_start_without_beam():
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: importlib.import_module(name)\n"
        "print('apache_beam' in sys.modules)"
    )
    command = [sys.executable, "-c", code, *PRELOAD]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
