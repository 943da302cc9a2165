"""Commands that supervise themselves, and trainers that a flow starts, with real processes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import wait_for

from mswitch.flows import child_processes
from mswitch.flows.child_processes import run_with_restarts
from mswitch.pipelines.errors import UserError

#: A stand-in for `python -m mswitch.flows.cli.main`: the first argument says what it does.
CHILD = """
import os, pathlib, signal, subprocess, sys, time
from mswitch.models.lifeline import exit_with_parent
exit_with_parent()
what, folder = sys.argv[1], pathlib.Path(sys.argv[2])
with (folder / 'pids').open('a') as file:
    print(os.getpid(), file=file)
attempt = len((folder / 'pids').read_text().split())
if what == 'exit':
    sys.exit(int(sys.argv[3]))
if what == 'resume-once':
    sys.exit(75 if attempt == 1 else 0)
if what == 'beat':
    while True:
        (folder / 'beat').write_text(str(time.time()))
        time.sleep(0.02)
if what == 'saves':
    def save(*_):
        time.sleep(0.5)
        (folder / 'saved').touch()
        sys.exit(75)
    signal.signal(signal.SIGTERM, save)
    (folder / 'beat').touch()
    time.sleep(60)
if what == 'with-server':
    server = subprocess.Popen([sys.executable, '-c',
        "import pathlib, sys, time\\n"
        "while True:\\n"
        "    pathlib.Path(sys.argv[1]).write_text(str(time.time())); time.sleep(0.02)",
        str(folder / 'beat')])
    time.sleep(float(sys.argv[3]))
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Make children run CHILD, with their own `mswitch.flows.cli.main` first on the path."""
    package = tmp_path / "path" / "mswitch" / "flows" / "cli"
    package.mkdir(parents=True)
    for directory in (package, package.parent):
        (directory / "__init__.py").write_text("")
    rest = str(Path(child_processes.__file__).parents[1])
    (package.parents[1] / "__init__.py").write_text(f"__path__.append({rest!r})\n")
    (package / "main.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def is_still(path: Path) -> bool:
    """Whether nothing writes to `path` any more."""
    before = path.read_text()
    time.sleep(0.2)
    return path.read_text() == before


@pytest.mark.parametrize(
    ("what", "code", "ends", "starts"),
    [
        ("exit", 0, contextlib.nullcontext(), 1),
        ("resume-once", 0, contextlib.nullcontext(), 2),
        ("exit", 2, pytest.raises(UserError, match="cannot go on"), 1),
        ("exit", 1, pytest.raises(RuntimeError, match="ended with code 1"), 1),
        ("exit", 75, pytest.raises(RuntimeError, match="ended with code 75"), 3),
    ],
)
def test_only_what_was_preempted_is_started_again_and_not_for_ever(what, code, ends, starts, child):
    with ends:
        run_with_restarts([what, str(child), str(code)], max_restarts=2)
    assert len((child / "pids").read_text().split()) == starts


def script_that(body: str) -> subprocess.Popen[bytes]:
    """Run `body` with the real `flows`; only its children find the stand-in.

    It heeds SIGINT, which a shell has its background jobs ignore.
    """
    root = str(Path(child_processes.__file__).resolve().parents[1])
    start = (
        f"import signal, sys; sys.path.insert(0, {root!r})\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    )
    return subprocess.Popen([sys.executable, "-c", start + body])


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_flow_that_is_ended_leaves_no_trainer_that_writes(how, child):
    launcher = script_that(
        "from mswitch.flows.child_processes import run_with_restarts\n"
        f"run_with_restarts(['beat', {str(child)!r}])"
    )
    wait_for((child / "beat").exists)
    launcher.send_signal(how)
    launcher.wait(30)
    if how == signal.SIGKILL:  # the trainer finds out by itself
        wait_for(lambda: is_still(child / "beat"))
    assert is_still(child / "beat")


def test_ctrl_c_ends_a_flow_after_its_trainer_has_saved(child):
    flow = script_that(
        "from mswitch.flows.cli.interrupts import leave_on_interrupt\n"
        "from mswitch.flows.child_processes import run_with_restarts\n"
        "leave_on_interrupt()\n"
        f"run_with_restarts(['saves', {str(child)!r}])"
    )
    wait_for((child / "beat").exists)
    flow.send_signal(signal.SIGINT)
    assert flow.wait(30) == 130
    assert (child / "saved").exists()


def supervised(child: Path, lasts: float) -> subprocess.Popen[bytes]:
    return script_that(
        "from mswitch.flows.child_processes import supervise\n"
        f"sys.exit(supervise(['with-server', {str(child)!r}, '{lasts}']))"
    )


def test_what_a_flow_started_ends_with_it(child):
    supervisor = supervised(child, 1.5)
    wait_for((child / "beat").exists)
    assert supervisor.wait(20) == 0
    assert is_still(child / "beat")


@pytest.mark.parametrize("victim", ["supervisor", "flow"])
def test_killed_with_9_nothing_goes_on_writing(child, victim):
    supervisor = supervised(child, 60)
    wait_for((child / "beat").exists)
    flow = int((child / "pids").read_text().split()[0])
    os.kill(supervisor.pid if victim == "supervisor" else flow, signal.SIGKILL)
    code = supervisor.wait(20)
    assert code == (-signal.SIGKILL if victim == "supervisor" else 128 + signal.SIGKILL)
    wait_for(lambda: is_still(child / "beat"))
