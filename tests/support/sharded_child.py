"""On 8 forced CPU devices: meshes of several shapes against one device, in float32.

Each mesh does a run of `STEPS` steps, of 16 routing groups in the
encoder and 8 in the decoder, with unequal padding. Prints one JSON
line per mesh: relative differences of the first loss and its gradients, and of the whole run's
metrics, parameters and moments.
"""

import dataclasses
import json
import sys

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")

import numpy as np  # noqa: E402
import train_child  # noqa: E402

from mswitch.models.capacity import group_batch  # noqa: E402
from mswitch.models.config import ModelConfig, TrainConfig  # noqa: E402
from mswitch.models.partitioning import make_mesh, put_batch  # noqa: E402
from mswitch.models.presets import preset  # noqa: E402
from mswitch.models.training.optimizer import Adafactor, make_optimizer  # noqa: E402
from mswitch.models.training.state import Skeleton  # noqa: E402
from mswitch.models.training.step import make_train_step  # noqa: E402
from mswitch.models.training.total_loss import FEATURES  # noqa: E402

ROWS, STEPS = 64, 10
#: Elements of an array that no device may hold as a whole.
LARGE = 4096


def relative_difference(one, other) -> float:
    """Largest difference within an array, as a share of its largest value; the worst array's."""

    def of_array(a, b) -> float:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30))

    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(of_array(a, b) for a, b in pairs)


def compute(model: ModelConfig, train: TrainConfig, factored: bool, start=None) -> dict:
    """A run from the state it draws itself, or from one that another mesh drew."""
    mesh = make_mesh(train)
    skeleton, optimizer = Skeleton.build(model, train, mesh), make_optimizer(train)
    if factored:  # as the matrices of all presets but the smallest are
        assert isinstance(optimizer, Adafactor)
        optimizer = dataclasses.replace(optimizer, min_dim_size_to_factor=16)
    groups = group_batch(model, ROWS, 12, 8)
    assert groups == ((16, 8) if model.sparse else (ROWS, ROWS))
    source = train_child.MemoryBatches(ROWS)

    def batch(step: int):
        made = source.batch(step)
        return put_batch({name: made[name] for name in FEATURES}, mesh)

    if start is None:
        state = skeleton.initial_state(optimizer)
    else:
        state = jax.device_put(start, skeleton.state_shardings(optimizer))
    start = jax.device_get(state)
    first = "encoder.periods" if train.scan_layers else "encoder.periods.0"
    wi = "switch.wi_0" if model.sparse else "feed_forward.wi_0.kernel"
    sharded = (f"{first}.blocks.{model.period - 1}.{wi}", "embedding.table")
    shares = [
        x.addressable_shards[0].data.size / x.size for x in map(state.parameters.get, sharded)
    ]
    large = [x for x in jax.tree.leaves(state) if x.size >= LARGE]
    whole = sum(x.addressable_shards[0].data.size == x.size for x in large)
    step_function = make_train_step(skeleton, optimizer, groups)
    metrics, gradients = [], None
    for step in range(STEPS):
        state, of_step = step_function(state, batch(step))
        metrics.append(jax.device_get(of_step))  # waits: more than 32 steps in flight hang
        if step == 0:
            # Decay is 0 at Adafactor's first step: its moments are the gradients' squares.
            gradients = jax.tree.map(np.sqrt, jax.device_get(state.moments))
    return {
        "start": start,
        "loss": metrics[0]["train/loss"],
        "gradients": gradients,
        "metrics": metrics,
        "state": jax.device_get(state),
        "drops": min(float(line.get("router/drop_fraction", 0.0)) for line in metrics),
        "shares": shares,
        "large": len(large),
        "whole": whole,
    }


def main() -> None:
    tiny = dataclasses.replace(
        preset("mswitch-tiny").model,
        vocabulary_size=128,
        d_model=64,
        d_ff=64,
        heads=4,
        d_kv=16,
        encoder_layers=1,
        decoder_layers=1,
        sparse_every=1,
        group_size=64,
        capacity_factor=0.75,
        expert_dropout_rate=0.1,
        dropout_rate=0.1,
    )
    train = TrainConfig(batch_size=ROWS, dtype="float32", warmup_steps=100)
    singles = {}
    for case in json.loads(sys.argv[1]):
        shape, changes, moments, saving = case
        model, factored = dataclasses.replace(tiny, **changes), moments == "factored"
        # Microbatches draw other numbers than a whole batch; remat alone changes none.
        settings = saving if "microbatches" in saving else {}
        alone = (*changes.items(), moments, *settings.items())
        if alone not in singles:
            singles[alone] = compute(model, dataclasses.replace(train, **settings), factored)
        single = singles[alone]
        data, expert, width = shape
        sharded = compute(
            model,
            dataclasses.replace(
                train, data_parallel=data, expert_parallel=expert, model_parallel=width, **saving
            ),
            factored,
            # To draw it takes long to compile: one mesh is enough to show that all draw the same.
            None if min(shape) > 1 else single["start"],
        )
        report = {
            name: relative_difference(single[name], sharded[name])
            for name in ("start", "loss", "gradients", "metrics", "state")
        }
        report |= {name: sharded[name] for name in ("drops", "shares", "large", "whole")}
        print(json.dumps({"case": case, **report}), flush=True)


if __name__ == "__main__":
    main()
