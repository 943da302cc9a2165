"""Kill the demo with -9 wherever it could hurt, run it again, compare bytes (make test-kill).

Not part of `make test`: it runs the whole demo three times. MSWITCH_KILL_STEPS sets the training
steps of each model (the demo's default otherwise), MSWITCH_KILL_SEED the random moments.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
from processes import MSWITCH, run_to_fault, wait_for

from mswitch.pipelines.faults import FAULT_POINTS

pytestmark = pytest.mark.kill

STEPS = os.environ.get("MSWITCH_KILL_STEPS")
SEED = int(os.environ.get("MSWITCH_KILL_SEED", "0"))
RANDOM_KILLS = 5
#: Other tests compile more than they compute.
ENVIRONMENT = {"XLA_FLAGS": ""}
#: What must not depend on how often the demo was killed; timings may.
COMPARED = ("sample", "corpus", "vocabulary", "examples", "runs/*/eval")


def command(out: Path) -> list[str]:
    sample = ["--sample", "gflanguages"]  # needs no network
    return ["demo", "--out", str(out), *sample, *(["--steps", STEPS] if STEPS else [])]


def run(out: Path, fault: str = "") -> int:
    return run_to_fault(fault, *command(out), **ENVIRONMENT)


def fingerprints(out: Path) -> dict[str, str]:
    """SHA-256 of every file that must be equal, and both models' final losses."""
    found = {}
    for pattern in COMPARED:
        for folder in out.glob(pattern):
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path.relative_to(out))] = digest
    for marker in out.glob("runs/*/_COMPLETED"):
        found[f"{marker.parent.name} final loss"] = json.loads(marker.read_text())["final_loss"]
    return found


def writers(out: Path) -> list[psutil.Process]:
    """Processes whose command line names `out`."""
    found = psutil.process_iter(["cmdline"])
    return [one for one in found if any(str(out) in word for word in one.info["cmdline"] or ())]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "demo"
    start = time.monotonic()
    assert run(out) == 0
    print(f"undisturbed run: {time.monotonic() - start:.0f} s")
    return fingerprints(out)


def test_killed_at_every_fault_point(undisturbed, tmp_path):
    out = tmp_path / "demo"
    for point in FAULT_POINTS:
        assert run(out, point) == -signal.SIGKILL, f"the run was not killed at {point}"
        print(f"killed at {point}", flush=True)
    assert run(out) == 0
    assert fingerprints(out) == undisturbed


def test_killed_at_random_moments(undisturbed, tmp_path):
    out = tmp_path / "demo"
    moments = random.Random(SEED)
    kill = 0
    while kill < RANDOM_KILLS:
        process = psutil.Popen([*MSWITCH, *command(out)], env={**os.environ, **ENVIRONMENT})
        time.sleep(moments.uniform(15, 60))
        if process.poll() is not None:
            # With few steps, or most of the work done, it can end first: begin again.
            assert process.returncode == 0
            shutil.rmtree(out)
            continue
        below = process.children(recursive=True)
        whole_tree = kill % 2 == 0
        # Alternately everything at once, and the command's own process alone.
        for one in (process, *below) if whole_tree else [process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait(30)
        wait_for(lambda: not writers(out), 10)
        print(f"killed {'the whole tree' if whole_tree else 'the command alone'}", flush=True)
        kill += 1
    assert run(out) == 0
    assert fingerprints(out) == undisturbed
