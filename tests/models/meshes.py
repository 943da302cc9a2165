"""On 8 forced CPU devices: a run on six meshes is that of a single device (`sharded_child.py`)."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("sharded_child.py")
SAVING = {"scan_layers": True, "remat": "layers", "microbatches": 2, "loss_chunks": 3}
#: Mesh, what the balance loss balances, the moments of matrices, and settings that save memory.
CASES = [
    [[2, 1, 1], "group", "full", {}],
    [[1, 2, 2], "group", "full", SAVING],
    [[4, 1, 1], "group", "full", {"remat": "attention"}],
    [[1, 8, 1], "group", "full", {}],
    [[2, 2, 2], "group", "full", {}],
    [[2, 4, 1], "global", "factored", {}],
]


#: Nine programs are compiled.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def reports() -> list[dict]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(CASES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_sharded_runs_equal_a_single_device(reports):
    """Jitter, dropout and expert dropout are on: randomness too is the same on every mesh."""
    assert [report["case"] for report in reports] == CASES
    for report in reports:
        assert report["drops"] > 0.05  # capacity matters, and drops the same tokens
        assert report["start"] == 0.0
        for name in ("loss", "gradients", "metrics", "state"):
            assert report[name] < 1e-5, (name, report)


def test_nothing_large_is_replicated(reports):
    for report in reports:
        shape, *_ = report["case"]
        assert report["shares"] == pytest.approx([1 / math.prod(shape)] * 2)
        assert report["large"] > 15
        assert report["whole"] == 0
