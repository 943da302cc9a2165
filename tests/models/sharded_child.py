"""On 8 forced CPU devices: meshes of several shapes against one device, in float32.

Prints one JSON line per mesh: largest differences of loss, gradients, moments and metrics.
"""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from models.config import TrainConfig  # noqa: E402
from models.partitioning import make_mesh, put_batch  # noqa: E402
from models.presets import preset  # noqa: E402
from models.state import Skeleton, TrainState  # noqa: E402
from models.step import batch_groups, batch_loss, optimizer_of  # noqa: E402

ROWS = 16


def batches():
    spec = importlib.util.spec_from_file_location(
        "train_child", Path(__file__).with_name("train_child.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.MemoryBatches(ROWS)


def largest_difference(one, other) -> float:
    return max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max())
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def compute(model, train: TrainConfig, batch):
    mesh = make_mesh(train)
    skeleton, optimizer = Skeleton.of(model, train, mesh), optimizer_of(train)
    groups = batch_groups(model, ROWS, 12)
    state = skeleton.initial_state(optimizer)

    @jax.jit
    def first_step(state: TrainState, batch):
        def loss(parameters):
            return batch_loss(
                skeleton,
                parameters,
                batch,
                groups=groups,
                target_tokens=batch["decoder_loss_weights"].sum(),
                key=jax.random.key(3),
            )

        (value, parts), gradient = jax.value_and_grad(loss, has_aux=True)(state.parameters)
        _, moments = optimizer.update(
            state.parameters, gradient, state.moments, state.step, skeleton.axes
        )
        return value, parts, gradient, moments

    value, parts, gradient, moments = first_step(state, put_batch(batch, mesh))
    wi = state.parameters["encoder.periods.blocks.0.switch.wi_0"]
    table = state.parameters["embedding.table"]
    return {
        "loss": jax.device_get(value),
        "drops": float(parts.routing["drop_fraction"]),
        "gradients": jax.device_get(gradient),
        "start": jax.device_get(state),
        "moments": jax.device_get(moments),
        "metrics": jax.device_get(parts),
        "expert_share": wi.addressable_shards[0].data.size / wi.size,
        "table_share": table.addressable_shards[0].data.size / table.size,
    }


def main() -> None:
    model = dataclasses.replace(
        preset("mswitch-tiny").model,
        vocabulary_size=128,
        d_model=64,
        d_ff=64,
        heads=4,
        d_kv=16,
        encoder_layers=1,
        decoder_layers=1,
        sparse_every=1,
        group_size=2 * 12,
        expert_dropout_rate=0.1,
        dropout_rate=0.1,
    )
    train = TrainConfig(batch_size=ROWS, dtype="float32", warmup_steps=100)
    batch = batches().batch(0)
    batch.pop("language")
    singles = {}
    for shape, scope in json.loads(sys.argv[1]):
        model = dataclasses.replace(model, balance_scope=scope)
        if scope not in singles:
            singles[scope] = compute(model, train, batch)
        single = singles[scope]
        data, expert, width = shape
        sharded = compute(
            model,
            dataclasses.replace(
                train, data_parallel=data, expert_parallel=expert, model_parallel=width
            ),
            batch,
        )
        report = {
            name: largest_difference(single[name], sharded[name])
            for name in ("loss", "start", "gradients", "moments", "metrics")
        }
        report |= {name: sharded[name] for name in ("expert_share", "table_share", "drops")}
        print(json.dumps({"case": [shape, scope], **report}), flush=True)
        assert jnp.isfinite(single["loss"])


if __name__ == "__main__":
    main()
