"""`make test-plan`: real compiles for small TPU slices, some minutes of them."""

import dataclasses
import json

import pytest
from processes import run_mswitch

from mswitch.models.config import TrainConfig
from mswitch.models.hardware import CHIPS
from mswitch.models.nn.flops import training_step_flops
from mswitch.models.planning.compile import CompileRequest
from mswitch.models.planning.environment import compile_elsewhere, planning_python
from mswitch.models.presets import preset
from mswitch.pipelines.errors import UserError

pytestmark = pytest.mark.tpu

ROWS, INPUTS, TARGETS = 32, 128, 32


@pytest.fixture(scope="module", autouse=True)
def _libtpu():
    try:
        planning_python()
    except UserError as error:
        pytest.skip(str(error))


def small(name: str, layers: int):
    """The preset at a width that tiles of a TPU divide."""
    return dataclasses.replace(
        preset(name).model,
        vocabulary_size=2048,
        d_model=256,
        d_ff=512,
        heads=4,
        d_kv=64,
        encoder_layers=layers,
        decoder_layers=layers,
        group_size=INPUTS,  # groups of both stacks, one at least for each of 8 devices
    )


@pytest.mark.parametrize(
    ("name", "topology", "mesh"),
    [
        ("mt5-tiny", "v5e:2x2", {"data_parallel": 4}),
        ("mswitch-tiny", "v3:2x2", {"expert_parallel": 8}),
    ],
)
def test_a_step_compiles_fits_and_has_the_analytic_flops(name, topology, mesh):
    model = small(name, layers=6)
    train = TrainConfig(batch_size=ROWS, scan_layers=True, **mesh)
    result = compile_elsewhere(CompileRequest(topology, model, train, INPUTS, TARGETS))
    assert result.fits
    assert result.costs is not None
    assert result.peak_bytes is not None
    hbm = CHIPS[topology.partition(":")[0]].hbm_bytes
    assert 0 < result.peak_bytes < hbm
    analytic = training_step_flops(model, ROWS, INPUTS, TARGETS)
    assert result.costs["flops"] * train.devices == pytest.approx(analytic, rel=0.01)
    sent = {kind for kind, one in result.costs["collectives"].items() if one["bytes"]}
    assert "all-reduce" in sent
    assert ("all-to-all" in sent) or not model.sparse


def test_what_does_not_fit_is_said_by_the_command():
    """The state alone would fit, so it is compiled; with its gradients it does not."""
    options = "--preset mswitch-base --topology v5e:2x2 --batch-size 12 --json"
    done = run_mswitch("plan", *options.split())
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout.splitlines()[-1])
    assert not plan["fits"]
    assert plan["peak_bytes_per_device"] > plan["hbm_bytes_per_device"]
    assert plan["compile_secs"] > 0
