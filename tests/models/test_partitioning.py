import dataclasses
import math

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from mswitch.models.capacity import Groups
from mswitch.models.config import TrainConfig
from mswitch.models.partitioning import AXES, check_divisible, find_part, make_mesh, shard_parameter
from mswitch.models.presets import preset
from mswitch.models.training.state import Skeleton
from mswitch.pipelines.errors import UserError

MESH = AbstractMesh((2, 4, 2), ("data", "expert", "model"))


@pytest.mark.parametrize(
    ("axes", "shape", "wanted"),
    [
        (("expert", "embed", "mlp"), (8, 64, 128), PartitionSpec("expert", "data", "model")),
        (("vocab", "embed"), (1024, 64), PartitionSpec("model", ("data", "expert"))),
        (("layers", "embed", "mlp"), (3, 64, 64), PartitionSpec(None, ("data", "expert"), "model")),
        # 6 experts do not divide by 4: the width takes that axis too.
        (
            ("expert", "embed", "mlp"),
            (6, 64, 128),
            PartitionSpec(None, ("data", "expert"), "model"),
        ),
        # A width of 6 or 5 divides by no more: the other dimension takes what is left.
        (("embed", "mlp"), (6, 4096), PartitionSpec("data", ("model", "expert"))),
        (("vocab", "embed"), (1024, 5), PartitionSpec(("model", "data", "expert"))),
        (("expert", "embed", "mlp"), (8, 5, 128), PartitionSpec("expert", None, ("model", "data"))),
        (("embed",), (64,), PartitionSpec()),  # too small to be worth it
    ],
)
def test_parameters_take_the_axes_that_are_free_and_divide_them(axes, shape, wanted):
    made = shard_parameter(axes, shape, MESH)

    def flat(spec):
        parts = [part if isinstance(part, tuple) or part is None else (part,) for part in spec]
        while parts and parts[-1] is None:
            parts.pop()
        return parts

    assert flat(made) == flat(wanted)


def test_impossible_meshes_are_refused(sparse):
    with pytest.raises(UserError, match=r"^--expert-parallel 64 needs 64 devices, and there are"):
        make_mesh(TrainConfig(expert_parallel=64), jax.devices())
    narrow = dataclasses.replace(sparse, heads=32)
    whole = dataclasses.replace(sparse, balance_scope="global")
    for model, rows, settings, groups, message in (
        (
            sparse,
            10,
            {"data_parallel": 4},
            (10, 10),
            r"--batch-size 10 is not a multiple of .* = 4",
        ),
        (sparse, 12, {"expert_parallel": 3}, (12, 12), "--expert-parallel 3 does not divide 4 exp"),
        (sparse, 8, {"expert_parallel": 4}, (4, 2), "4 routing groups in the encoder and 2 in the"),
        (sparse, 8, {"model_parallel": 4}, (4, 4), r"--model-parallel 4 does not .* 2 \(att"),
        (narrow, 8, {"model_parallel": 32}, (4, 4), r"--model-parallel 32 does not .* 48 \(d_ff"),
        (whole, 8, {"microbatches": 2}, (4, 4), "--balance-scope global balances the batch as a"),
    ):
        with pytest.raises(UserError, match=message):
            check_divisible(model, TrainConfig(batch_size=rows, **settings), Groups(*groups))
    check_divisible(sparse, TrainConfig(batch_size=8, expert_parallel=4), Groups(4, 4))
    check_divisible(whole, TrainConfig(batch_size=8), Groups(4, 4))


@pytest.mark.parametrize(
    ("processes", "model", "parts"),
    [
        ([0, 0, 1, 1], 1, [(0, 2), (1, 2)]),
        ([0, 0, 1, 1], 2, [(0, 2), (1, 2)]),
        ([0, 0, 1, 1], 4, [(0, 1), (0, 1)]),  # only the width is divided: both feed all rows
        ([0, 0, 1, 1, 2, 2, 3, 3], 4, [(0, 2), (0, 2), (1, 2), (1, 2)]),
    ],
)
def test_a_process_feeds_the_rows_its_devices_need(processes, model, parts):
    owners = np.array(processes).reshape(-1, model)
    assert [find_part(owners, process) for process in range(len(parts))] == parts


def test_processes_that_share_rows_in_part_are_refused():
    with pytest.raises(UserError, match="--model-parallel 2 divides the devices of the processes"):
        find_part(np.array([0, 0, 0, 1, 1, 1]).reshape(-1, 2), 1)


@pytest.mark.parametrize(
    ("name", "shape", "kept"),
    [
        ("mt5-base", (32, 1, 1), []),
        ("mt5-base", (256, 1, 1), []),
        ("mt5-xxl", (16, 1, 4), []),
        ("mswitch-base", (1, 32, 1), []),
        ("mswitch-base", (2, 128, 1), []),
        ("switch-large", (1, 128, 1), []),
        ("switch-xxl", (4, 64, 1), []),
        ("switch-c", (2, 128, 1), []),
        ("switch-c", (64, 64, 1), []),
        # 256 divides neither 32,128 rows nor a width of 2,080.
        ("switch-c", (1, 256, 1), ["embedding.table"]),
    ],
)
def test_nothing_large_is_kept_by_several_devices(name, shape, kept):
    """Of the meshes in docs/reference/tpu.md, and others."""
    mesh = AbstractMesh(shape, AXES)
    skeleton = Skeleton.build(preset(name).model, TrainConfig(scan_layers=True))
    found = []
    for parameter, value in skeleton.shapes.items():
        spec = shard_parameter(skeleton.axes[parameter], value.shape, mesh)
        parts = [(part,) if isinstance(part, str) else part or () for part in spec]
        axes = [axis for part in parts for axis in part]
        split = math.prod(mesh.shape[axis] for axis in axes)
        if split < mesh.size and 4 * value.size / split > 50e6:
            found.append(parameter)
    assert found == kept
