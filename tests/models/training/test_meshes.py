"""On 8 forced CPU devices: a run on four meshes is that of a single device (`sharded_child.py`)."""

import json
import math
from pathlib import Path

import pytest
from processes import output_of

SCRIPT = Path(__file__).parents[2] / "support" / "sharded_child.py"
SAVING = {"scan_layers": True, "remat": "layers", "microbatches": 2, "loss_chunks": 3}
#: Dense layers between the sparse ones, and loops of more than one period.
PERIODS = {"encoder_layers": 4, "decoder_layers": 2, "sparse_every": 2}
TOKEN = PERIODS | {"routing": "token"}
#: Mesh, changes of the model, the moments of matrices, and settings that save memory.
CASES = [
    [[1, 2, 2], TOKEN, "full", SAVING],
    [[4, 1, 2], {"experts": 0}, "full", {"remat": "attention"}],
    [[2, 2, 2], {}, "full", {"attention": "kernel"}],
    [[2, 4, 1], {"balance_scope": "global"}, "factored", {}],
]


#: Eight programs are compiled.
pytestmark = [pytest.mark.training, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def reports() -> list[dict]:
    # Compiled as trainings are: without XLA's usual passes rounding differs so much between meshes
    # that an element without a gradient, which Adafactor scales up, moves another way.
    printed = output_of(SCRIPT, json.dumps(CASES), XLA_FLAGS="")
    return [json.loads(line) for line in printed.splitlines()]


def test_sharded_runs_equal_a_single_device(reports):
    """Jitter, dropout and expert dropout are on: randomness too is the same on every mesh."""
    assert [report["case"] for report in reports] == CASES
    for report in reports:
        dense = report["case"][1].get("experts") == 0
        assert dense or report["drops"] > 0.05  # capacity matters, and drops the same tokens
        assert report["start"] == 0.0
        for name in ("loss", "gradients", "metrics", "state"):
            assert report[name] < 1e-5, (name, report)


def test_nothing_large_is_replicated(reports):
    for report in reports:
        shape, *_ = report["case"]
        assert report["shares"] == pytest.approx([1 / math.prod(shape)] * 2)
        assert report["large"] > 15
        assert report["whole"] == 0
