"""Ctrl-C, as a terminal sends it: to the command and to every process it started."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from processes import run_python, wait_for

LINE = "mswitch: interrupted; the same command continues"


@contextlib.contextmanager
def started(*words: str) -> Iterator[Any]:
    """Python in a group of its own, which heeds SIGINT, as in the foreground of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    try:
        process = psutil.Popen([sys.executable, *words], process_group=0, **pipes)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def workers_began(command: psutil.Process) -> bool:
    """Tell whether the server of workers has forked some, and each has its second thread.

    That thread waits for the end of the parent. A worker that has none yet would report it.
    """
    try:
        workers = [worker for child in command.children() for worker in child.children()]
        threads = [worker.num_threads() for worker in workers]
    except psutil.NoSuchProcess:  # one has ended since
        return False
    return min(threads, default=0) > 1


@pytest.mark.parametrize("moment", ["worker server starts", "phases run"])
def test_a_build_ends_with_one_line(tmp_path, moment):
    page = {"url": "http://a.example", "text": "A page of a few words, and then some more.\n" * 20}
    (tmp_path / "pages.jsonl").write_text(
        "".join(json.dumps({**page, "url": f"http://a.example/{n}"}) + "\n" for n in range(20_000))
    )
    arguments = ["--input", str(tmp_path / "pages.jsonl"), "--out", str(tmp_path / "corpus")]
    with started("-m", "mswitch.flows.cli.main", "corpus", "build", *arguments) as process:
        if moment == "phases run":
            wait_for(lambda: list(tmp_path.glob(".corpus.partial-*/work/pages")))
            wait_for(lambda: workers_began(process))
        else:
            wait_for(lambda: len(process.children()) == 2)
            time.sleep(0.3)  # in the midst of its imports
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert [line for line in errors.splitlines() if not line.startswith("[")] == [LINE]


BUSY = """
import hashlib
from mswitch.flows.cli.interrupts import end_on_interrupt
end_on_interrupt()
print("busy", flush=True)
hashlib.pbkdf2_hmac("sha512", b"", b"", 10 ** 9)  # one instruction of Python, many minutes
"""

TRAINING = """
import time
from mswitch.flows.cli.interrupts import end_on_interrupt
from mswitch.models.training.signals import stop_requests
end_on_interrupt()
with stop_requests() as due:
    print("busy", flush=True)
    while not due(1):
        time.sleep(0.01)
    time.sleep(0.3)
    print("saved", flush=True)
    time.sleep(60)
"""


def test_nothing_waits_for_a_compilation():
    with started("-c", BUSY) as process:
        assert process.stdout.readline() == "busy\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == f"{LINE}\n"


def test_a_training_saves_first_and_leaves_on_the_second():
    with started("-c", TRAINING) as process:
        assert process.stdout.readline() == "busy\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "saved\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == f"[train] SIGINT: saving after this step\n{LINE}\n"


def test_it_stays_ignored_where_it_is_ignored():
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from mswitch.flows.cli.interrupts import end_on_interrupt; end_on_interrupt()\n"
        "signal.raise_signal(signal.SIGINT)"
    )
    assert run_python("-c", code).returncode == 0
