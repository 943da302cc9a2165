"""Examples that share a row: none of them can tell."""

import dataclasses

import jax
import numpy as np
import pytest
import train_child as child
from trained_runs import lines

from mswitch.models.capacity import Groups
from mswitch.models.config import JobConfig, TrainConfig
from mswitch.models.nn.losses import Head, compute_token_losses
from mswitch.models.training.run_directory import read_run
from mswitch.models.training.state import Skeleton
from mswitch.models.training.total_loss import FEATURES, SEGMENTS, compute_batch_loss
from mswitch.models.training.train import train_prepared
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.examples.span_corruption import Lengths
from mswitch.tasks.batches.collate import pack_into, pack_rows

pytestmark = pytest.mark.training

FLOAT32 = TrainConfig(steps=8, batch_size=8, warmup_steps=100, dtype="float32")
EXAMPLES, PACK = 8, 4


@pytest.fixture(scope="module")
def padded() -> dict[str, np.ndarray]:
    return child.MemoryBatches(EXAMPLES).batch(0)


@pytest.fixture(scope="module")
def packed(padded) -> dict[str, np.ndarray]:
    return pack_rows(padded, PACK)


@pytest.fixture(scope="module", params=["dense", "kernel", "sparse", "scanned"])
def model(request) -> Skeleton:
    """A model whose experts have room for every token."""
    kind = request.param
    config = request.getfixturevalue({"scanned": "sparse", "kernel": "dense"}.get(kind, kind))
    config = dataclasses.replace(config, capacity_factor=4.0 if config.sparse else 1.0)
    train = dataclasses.replace(FLOAT32, attention="kernel" if kind == "kernel" else "auto")
    if kind == "scanned":
        train = dataclasses.replace(FLOAT32, scan_layers=True, remat="layers")
    return Skeleton.build(config, train)


def losses(skeleton: Skeleton, batch: dict[str, np.ndarray], names=FEATURES + SEGMENTS):
    """Loss of every target position, and what experts were chosen."""

    @jax.jit
    def compiled(parameters, batch):
        model = skeleton.merge(parameters)
        segments = {name: batch[name] for name in SEGMENTS if name in batch}
        x, stats = model(*(batch[name] for name in FEATURES[:3]), **segments)
        head = Head(x, *model.find_logits_kernel())
        found, _ = compute_token_losses(head, batch["decoder_target_tokens"], 1)
        return found, None if stats is None else [part.dropped.sum() for part in stats]

    parameters = jax.jit(skeleton.initial_parameters)()
    found, dropped = compiled(parameters, {n: batch[n] for n in names if n in batch})
    assert dropped is None or not any(map(int, dropped))
    return np.asarray(found)


def of_examples(packed: dict[str, np.ndarray], values: np.ndarray) -> list[np.ndarray]:
    """Values of real target positions, example by example."""
    segments = packed["decoder_segment_ids"]
    return [row[ids == n] for row, ids in zip(values, segments, strict=True) for n in range(1, 5)]


def test_losses_of_a_packed_row_are_those_of_its_examples_alone(model, padded, packed):
    alone = [
        row[kept > 0]
        for row, kept in zip(losses(model, padded), padded["decoder_loss_weights"], strict=True)
    ]
    together = of_examples(packed, losses(model, packed))
    assert sum(map(len, alone)) == padded["decoder_loss_weights"].sum()
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    # Without segment ids they would differ: examples would see each other.
    mixed = of_examples(packed, losses(model, packed, names=FEATURES))
    assert max(np.abs(one - other).max() for one, other in zip(alone, mixed, strict=True)) > 1e-2


def test_an_example_changes_no_other_of_its_row(model, padded, packed):
    before = of_examples(packed, losses(model, packed))
    changed = {name: values.copy() for name, values in padded.items()}
    inputs = changed["encoder_input_tokens"][1]
    inputs[inputs > 0] = 77
    changed["decoder_target_tokens"][1] = 55 * (changed["decoder_target_tokens"][1] > 0)
    after = of_examples(packed, losses(model, pack_rows(changed, PACK)))
    differences = [np.abs(a - b).max() for a, b in zip(before, after, strict=True)]
    assert differences[1] > 1e-2
    assert max(differences[:1] + differences[2:]) < 1e-6


@pytest.mark.parametrize("counts", [None, [3, 1, 4]], ids=["even", "uneven"])
def test_loss_and_gradient_of_a_batch_are_those_of_the_padded_one(model, padded, packed, counts):
    if counts:
        packed = pack_into(padded, counts, Lengths(4 * child.INPUTS, 4 * child.TARGETS))
    parameters = jax.jit(model.initial_parameters)()

    @jax.jit
    def compiled(batch):
        tokens = batch["decoder_loss_weights"].sum()

        def loss(parameters):
            # A group for all, so that Switch balances the same tokens.
            return compute_batch_loss(
                model, parameters, batch, groups=Groups(), target_tokens=tokens
            )[0]

        return jax.value_and_grad(loss)(parameters)

    one, gradient = compiled({name: padded[name] for name in FEATURES})
    other, packed_gradient = compiled({name: packed[name] for name in FEATURES + SEGMENTS})
    assert float(one) == pytest.approx(float(other), rel=1e-6)
    for name, values in gradient.items():
        np.testing.assert_allclose(values, packed_gradient[name], atol=2e-6, err_msg=name)


class PackedBatches(child.MemoryBatches):
    """What `TrainBatches(pack=PACK)` gives."""

    def __init__(self):
        super().__init__(EXAMPLES)
        self.inputs_length *= PACK
        self.targets_length *= PACK

    def batch(self, step: int) -> dict[str, np.ndarray]:
        return pack_rows(super().batch(step), PACK)


def test_training_packed_is_training_padded(tmp_path):
    """Same examples, same losses; rows, cost and settings are recorded."""
    configs, found = [], []
    for pack, batches in ((1, child.MemoryBatches(EXAMPLES)), (PACK, PackedBatches())):
        prepared = child.plan("mt5-tiny", steps=4, pack=pack), batches
        out = tmp_path / str(pack)
        train_prepared(lambda prepared=prepared: prepared, "examples", out, JobConfig())
        configs.append(read_run(out))
        assert configs[-1]["train"]["pack"] == pack
        found.append([line["train/loss"] for line in lines(out)])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert configs[0]["tokens_per_step"] == configs[1]["tokens_per_step"]
    assert configs[0]["flops_per_step"] < configs[1]["flops_per_step"]


def test_numbers_of_examples_that_fill_no_row_are_refused():
    with pytest.raises(UserError, match="--batch-size 8 is not a multiple of --pack 3"):
        TrainConfig(batch_size=8, pack=3)
    with pytest.raises(UserError, match="--pack must be at least 1"):
        TrainConfig(batch_size=8, pack=0)
