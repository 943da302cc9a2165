"""`make test-plan`: real compiles for small TPU slices and for GPUs, some minutes of them."""

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import pytest
from processes import run_mswitch

from mswitch.flows.chains.machine_settings import find_setting
from mswitch.models.config import TrainConfig, pad_vocabulary
from mswitch.models.hardware import GIB
from mswitch.models.nn.flops import count_recomputed_flops, count_training_step_flops
from mswitch.models.planning.compile import ENVIRONMENT, CompileRequest
from mswitch.models.planning.environment import COMPILERS, ROOT, compile_elsewhere, find_python
from mswitch.models.planning.parts import PARTS
from mswitch.models.planning.topology import parse_topology
from mswitch.models.presets import preset
from mswitch.pipelines.errors import UserError

pytestmark = pytest.mark.tpu

ROWS, INPUTS, TARGETS = 32, 128, 32
SUPPORT = Path(__file__).parents[2] / "support"


def need_compiler(topology: str) -> None:
    try:
        find_python(COMPILERS[parse_topology(topology).platform])
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
        ("mt5-tiny", "h100:4", {"data_parallel": 4}),
        ("mswitch-tiny", "h100:4x2", {"expert_parallel": 8}),
        ("mt5-tiny", "h100:4", {"model_parallel": 4, "attention": "cudnn"}),
        ("mt5-tiny", "a100:2", {"data_parallel": 2}),
        ("mt5-tiny", "b200:2", {"model_parallel": 2}),
    ],
)
def test_a_step_compiles_fits_and_has_the_analytic_flops(name, topology, mesh):
    need_compiler(topology)
    model = small(name, layers=6)
    train = TrainConfig(batch_size=ROWS, scan_layers=True, **{"attention": "xla", **mesh})
    result = compile_elsewhere(CompileRequest(topology, model, train, INPUTS, TARGETS))
    assert result.fits
    assert result.costs is not None
    assert result.peak_bytes is not None
    where = parse_topology(topology)
    assert 0 < result.peak_bytes < where.chip.hbm_bytes
    analytic = count_training_step_flops(model, ROWS, INPUTS, TARGETS)
    analytic += count_recomputed_flops(model, train, INPUTS, TARGETS)
    assert result.costs["flops"] * train.devices == pytest.approx(analytic, rel=0.01)
    sent = {kind for kind, one in result.costs["collectives"].items() if one["bytes"]}
    assert "all-reduce" in sent
    assert ("all-to-all" in sent) or not model.sparse
    left = any(one.get("bytes_between_hosts") for one in result.costs["collectives"].values())
    assert left == (where.devices > where.linked)
    parts = result.costs["parts"]
    assert parts.keys() == {*PARTS, "rest"} - (set() if model.sparse else {"dispatch"})
    moved = sum(part["memory_bytes"] for part in parts.values())
    assert parts["rest"]["memory_bytes"] < 0.2 * moved == 0.2 * result.costs["memory_bytes"]


@pytest.mark.parametrize("topology", ["v5p:2x2x1", "v5e:2x2", "v6e:2x2", "v4:2x2x1"])
def test_kernels_compile_and_no_array_of_logits_is_left(topology):
    need_compiler(topology)
    done = subprocess.run(
        [find_python(COMPILERS["tpu"]), SUPPORT / "compile_kernels.py", topology],
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    *cases, step, experts = map(json.loads, done.stdout.splitlines())
    assert len(cases) == (4 if topology.startswith("v4:") else 5)
    assert [case["kernels"] for case in cases] == [2] * len(cases)
    assert step["kernels"] == 2 * 3  # self-attention of encoder and decoder, and cross-attention
    assert experts["kernels"] == 3
    assert not any(case["logits"] for case in (*cases, step))


def test_what_does_not_fit_is_said_by_the_command():
    """The state alone would fit, so it is compiled; with its gradients it does not."""
    need_compiler("v5e:2x2")
    options = "--preset mswitch-base --topology v5e:2x2 --batch-size 12 --json"
    done = run_mswitch("plan", *options.split())
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout.splitlines()[-1])
    assert not plan["fits"]
    assert plan["peak_bytes_per_device"] > plan["hbm_bytes_per_device"]
    assert plan["compile_secs"] > 0


@pytest.mark.parametrize(
    ("name", "topology"), [("gpu", "a100:1"), ("large-gpu", "h100:1"), ("slice", "h100:4")]
)
def test_settings_of_evidence_fit_the_gpus_that_they_are_for(name, topology):
    need_compiler(topology)
    setting = find_setting(name)
    model = setting.models["sparse"].config(pad_vocabulary(setting.vocabulary.size))
    train = dataclasses.replace(setting.train, expert_parallel=setting.devices)
    spans = setting.examples.lengths()
    request = CompileRequest(topology, model, train, spans.inputs_length, spans.targets_length)
    result = compile_elsewhere(request)
    assert result.peak_bytes is not None
    assert result.peak_bytes < setting.memory_gib * GIB


KERNEL = """
import os
from mswitch.models.planning.compile import ENVIRONMENT, describe_devices
os.environ.update(ENVIRONMENT)
import dataclasses, json, jax, jax.numpy as jnp
from jax.experimental import pallas as pl
from mswitch.models.planning.costs import count_costs
from mswitch.models.planning.parts import PARTS
from mswitch.models.planning.topology import parse_topology

def multiply(x, y, out):
    out[...] = jnp.dot(x[...], y[...], preferred_element_type=jnp.float32)

topology = parse_topology("v5e:2x2")
where = jax.sharding.SingleDeviceSharding(describe_devices(topology)[0])
call = pl.pallas_call(
    multiply,
    out_shape=jax.ShapeDtypeStruct((256, 128), jnp.float32),
    cost_estimate=pl.CostEstimate(flops=2 * 256 * 512 * 128, transcendentals=7, bytes_accessed=3),
    name="multiplied",
)
# What depends on the step before stays in the loop.
step = jax.jit(
    lambda x, y: jax.lax.scan(lambda c, _: (c.at[:, :128].add(call(c, y)), None), x, None, 5)
)
arrays = [
    jax.ShapeDtypeStruct(shape, "float32", sharding=where) for shape in ((256, 512), (512, 128))
]
text = step.lower(*arrays).compile().as_text()
print(json.dumps(dataclasses.asdict(count_costs(text, topology))))
"""


def test_a_kernel_in_a_loop_counts_as_often_as_it_runs():
    need_compiler("v5e:2x2")
    python = find_python(COMPILERS["tpu"])
    done = subprocess.run(
        [python, "-c", KERNEL], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    costs = json.loads(done.stdout.splitlines()[-1])
    assert costs["flops"] == 5 * (2 * 256 * 512 * 128)
