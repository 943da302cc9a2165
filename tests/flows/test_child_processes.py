"""Commands that supervise themselves, with real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import wait_for

from mswitch.flows import child_processes

#: A stand-in for `python -m mswitch.flows.cli.main`: the first argument says what it does.
CHILD = """
import os, pathlib, signal, subprocess, sys, time
from mswitch.models.lifeline import exit_with_parent
exit_with_parent()
what, folder = sys.argv[1], pathlib.Path(sys.argv[2])
with (folder / 'pids').open('a') as file:
    print(os.getpid(), file=file)
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


def supervised(child: Path, lasts: float) -> subprocess.Popen[bytes]:
    """Supervise with the real `flows`; only the child finds the stand-in."""
    root = str(Path(child_processes.__file__).resolve().parents[1])
    start = (
        f"import sys; sys.path.insert(0, {root!r})\n"
        "from mswitch.flows.child_processes import supervise\n"
        f"sys.exit(supervise(['with-server', {str(child)!r}, '{lasts}']))"
    )
    return subprocess.Popen([sys.executable, "-c", start])


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
