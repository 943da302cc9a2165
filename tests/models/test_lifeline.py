import os
import signal
import subprocess
import sys
import time

from processes import is_alive, wait_for

CHILD = """
import subprocess, sys, time
from mswitch.models.lifeline import exit_with_parent
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
exit_with_parent()
print(grandchild.pid, flush=True)
time.sleep(600)
"""


def test_a_group_leader_dies_with_its_whole_group_when_the_pipe_closes():
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    grandchild = int(child.stdout.readline())
    time.sleep(0.2)
    assert child.poll() is None
    assert is_alive(grandchild)
    child.stdin.close()
    assert child.wait(10) == -signal.SIGKILL
    wait_for(lambda: not is_alive(grandchild), 10)


def test_another_process_of_the_group_is_spared_by_one_that_does_not_lead_it():
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time; from mswitch.models.lifeline import exit_with_parent; "
            "exit_with_parent(); time.sleep(600)",
        ],
        stdin=subprocess.PIPE,
    )
    assert os.getpgid(child.pid) == os.getpgrp()
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(10) == -signal.SIGKILL  # and this test goes on
